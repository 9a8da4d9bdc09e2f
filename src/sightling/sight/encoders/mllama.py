"""Llama 3.2 Vision's tower, in transformers' form ("Mllama"): the tiles of a picture are looked at together.

Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models" (arXiv:2407.21783, section 7). Tiles are told apart by
embeddings of their picture's shape; behind the layers stand gated ones, and the features of some layers on the way are
joined to the last ones', channel by channel.

Legend: ``I`` pictures, ``N`` tiles of all of them, ``K`` tiles of a picture with those that fill up behind them,
``C`` = 3, ``H`` ``W`` pixels, ``P`` features a tile (the CLS token first), ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MllamaVisionConfig
from transformers.models.mllama.modeling_mllama import MllamaVisionModel

from sightling.errors import UserError
from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Grid, Tower
from sightling.sight.tiling import Canvas, Single, Tiling
from sightling.sight.tiling.canvas import canvases

PREFIX = {r"^(model\.)?vision_model\.": ""}
"""How whole models call the tower's weights."""


class MllamaTower(MllamaVisionModel):
    """transformers' own, that can be read from a whole model, too."""

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """With the names that whole models use."""
        return super().from_pretrained(path, *args, **{"key_mapping": PREFIX, **kwargs})


@register("mllama", "mllama_vision_model")
class Mllama(Tower):
    """A picture always has as many tiles as the tower was made for: empty ones fill up behind its own.

    They are seen by its own and see nothing but those, as published towers were trained. Which layers go on is told
    by ``intermediate_layers_indices``, counted from 0; the width is theirs and the last features' together.
    """

    config_class, model_class, statistics = MllamaVisionConfig, MllamaTower, "clip"
    together, layered = True, False

    def completed(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class; the shapes that follow from ``max_num_tiles``, and the width that goes on."""
        rest = super().completed(told)
        tiles = rest.get("max_num_tiles", MllamaVisionConfig().max_num_tiles)
        if isinstance(tiles, int) and tiles > 0:
            rest.setdefault("supported_aspect_ratios", [list(shape) for shape in canvases(tiles)])
        inner = rest.get("intermediate_layers_indices", MllamaVisionConfig().intermediate_layers_indices)
        if isinstance(width := rest.get("hidden_size"), int) and isinstance(inner, (list, tuple)):
            rest.setdefault("vision_output_dim", width * (1 + len(inner)))
        return rest

    def check(self, config: Any, where: str) -> None:
        """Layers that there are, the width that they make, and the shapes that published towers tell apart.

        Raises:
            UserError: heads that do not divide the width, or else the key and what would be right.
        """
        for key in ("image_size", "patch_size"):
            if not isinstance(getattr(config, key), int):
                raise UserError(f"{where}.{key} = {getattr(config, key)!r} is wrong: it must be one whole number")
        if config.hidden_size % config.attention_heads:
            raise UserError(
                f"{where}: hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
                f"{config.attention_heads}"
            )
        super().check(config, where)
        for layer in config.intermediate_layers_indices:
            if not 0 <= layer < config.num_hidden_layers:
                raise UserError(
                    f"{where}.intermediate_layers_indices names {layer}; layers are counted from 0 to "
                    f"{config.num_hidden_layers - 1}"
                )
        joined = config.hidden_size * (1 + len(config.intermediate_layers_indices))
        if config.vision_output_dim != joined:
            raise UserError(
                f"{where}.vision_output_dim = {config.vision_output_dim}, but hidden_size and "
                f"intermediate_layers_indices make {joined}"
            )
        shapes = [list(shape) for shape in canvases(config.max_num_tiles)]
        if [list(shape) for shape in config.supported_aspect_ratios] != shapes:
            raise UserError(
                f"{where}.supported_aspect_ratios = {config.supported_aspect_ratios} cannot be followed; all shapes of "
                f"up to max_num_tiles = {config.max_num_tiles} tiles would be right, {shapes}"
            )

    def refuses(self, config: Any, tiling: Tiling) -> str | None:
        """Tiles that make no shape that it knows."""
        most = tiling.max_tiles if isinstance(tiling, Canvas) else 1
        if isinstance(tiling, (Canvas, Single)) and most <= config.max_num_tiles:
            return None
        return (
            f"a mllama looks at the tiles of a picture together and knows the shapes of up to {config.max_num_tiles}; "
            f"canvas with max_tiles up to {config.max_num_tiles}, or single, would be right"
        )

    def tiles(self, config: Any) -> int:
        """``max_num_tiles``."""
        return int(config.max_num_tiles)

    def before(self, config: Any) -> int:
        """The CLS token."""
        return 1

    def width(self, config: Any) -> int:
        """That of all features that are joined."""
        return int(config.vision_output_dim)

    def features(
        self, tower: Any, pixels: Sequence[Tensor], wanted: Sequence[int], *, bucketed: Fractions | None
    ) -> list[list[Tensor]]:
        """See the base class; each input is a picture of one tile."""
        found = [self.pictures(tower, one, [(1, 1)] * len(one))[:, 0] for one in pixels]
        return [found for _ in wanted]

    def pictures(self, tower: Any, pixels_NCHW: Tensor, shapes: Sequence[Grid]) -> Tensor:
        """See the base class.

        Raises:
            UserError: tiles that are not the tower's square, or pictures of another shape than it knows.
        """
        config, side = tower.config, self.image_size(tower.config)
        if tuple(pixels_NCHW.shape[-2:]) != (side, side):
            height, width = pixels_NCHW.shape[-2:]
            raise UserError(f"a mllama takes squares of {side} pixels, not inputs of {width} x {height}")
        known = [tuple(shape) for shape in config.supported_aspect_ratios]
        for shape in shapes:
            if shape not in known:
                raise UserError(f"a mllama knows pictures of {known} tiles, not of {shape}")
        counts = [rows * columns for rows, columns in shapes]
        pixels_IKCHW = pixels_NCHW.new_zeros(len(shapes), config.max_num_tiles, *pixels_NCHW.shape[1:])
        real_IK = torch.arange(config.max_num_tiles) < torch.tensor(counts)[:, None]
        real_IK = real_IK.to(pixels_NCHW.device)
        pixels_IKCHW[real_IK] = pixels_NCHW
        # 0 stands for no picture.
        ids_I = torch.tensor([1 + known.index(shape) for shape in shapes], device=pixels_NCHW.device)
        told = tower(pixels_IKCHW[:, None], aspect_ratio_ids=ids_I[:, None], aspect_ratio_mask=real_IK[:, None].long())
        return told.last_hidden_state[:, 0]

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Patches without their places, which depend on a picture's shape."""
        return tower.patch_embedding(pixels_NCHW).flatten(2).transpose(1, 2)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """All, the gated ones last."""
        return [*tower.transformer.layers, *tower.global_transformer.layers]
