"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, without the mergers behind them: those are connectors here.

Source: Wang et al. 2024, "Qwen2-VL" (arXiv:2409.12191); Bai et al. 2025, "Qwen2.5-VL" (arXiv:2502.13923), whose layers
see windows except some; Qwen3-VL (2025), which adds a table of places to the rotary ones.

transformers feeds patches in blocks of those that are merged. Attention knows no order, so here they run row by row,
as they leave. Inputs of all sizes stand in one sequence, each seen by itself alone.

Legend: ``N`` encoder inputs, ``C`` = 3, ``H`` ``W`` pixels, ``P`` patches an input, ``S`` patches of all inputs, ``D``
width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from sightling.errors import UserError
from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Grid, Tower
from sightling.sight.stem import ConvStem

CELLS = 16
"""A tower without a table of places has no side of its own; budgets count squares of so many merged patches a side."""

PREFIX = {r"^(model\.)?visual\.": ""}
"""How whole models call a tower's weights."""


class _OfWhole:
    """A tower that can be read from a whole model, too."""

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, with the names that whole models use."""
        return super().from_pretrained(path, *args, **{"key_mapping": PREFIX, **kwargs})  # type: ignore[misc]


class Qwen2VLTower(_OfWhole, Qwen2VisionTransformerPretrainedModel):
    """Without the merger."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__(config)
        del self.merger


class Qwen25VLTower(_OfWhole, Qwen2_5_VisionTransformerPretrainedModel):
    """Without the merger."""

    def __init__(self, config: Qwen2_5_VLVisionConfig) -> None:
        super().__init__(config)
        del self.merger


class Qwen3VLTower(_OfWhole, Qwen3VLVisionModel):
    """Without the mergers."""

    def __init__(self, config: Qwen3VLVisionConfig) -> None:
        super().__init__(config)
        del self.merger, self.deepstack_merger_list


@dataclass(frozen=True, slots=True)
class Way:
    """How a sequence of patches is run.

    Attributes:
        rotary: cosines and sines (S, head width) of the patches' places.
        inputs: where the parts of the sequence that see each other end, from 0 on: the encoder's inputs.
        windows: the same for the layers that see windows.
        order: the patches' places in row order, where windows put them in another one.
    """

    rotary: tuple[Tensor, Tensor]
    inputs: Tensor
    windows: Tensor | None = None
    order: Tensor | None = None


class _QwenVL(Tower):
    """What the three share: one packed sequence, rotary places in two directions."""

    stems = True

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """See the base class."""
        return tower.patch_embed, "proj"

    def check(self, config: Any, where: str) -> None:
        """Heads that can be rotated in two directions.

        Raises:
            UserError: a head's width is no multiple of 4.
        """
        super().check(config, where)
        head = self.width(config) // config.num_heads
        if head % 4:
            raise UserError(f"{where}: heads of width {head} cannot be rotated by row and column; it must divide by 4")

    def image_size(self, config: Any) -> int:
        """What budgets count in."""
        return CELLS * int(config.spatial_merge_size) * self.patch_size(config)

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Patches_NPD row by row; a still picture is a film of equal frames, so the kernel's frames are added up."""
        size = self.patch_size(tower.config)
        projection = tower.patch_embed.proj
        if isinstance(projection, ConvStem):
            return projection(pixels_NCHW).flatten(2).transpose(1, 2)
        weight_DCpp = projection.weight.sum(2)
        patches_NDhw = F.conv2d(pixels_NCHW.to(weight_DCpp.dtype), weight_DCpp, projection.bias, stride=size)
        return patches_NDhw.flatten(2).transpose(1, 2)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.blocks

    def features(
        self, tower: Any, pixels: Sequence[Tensor], wanted: Sequence[int], *, bucketed: Fractions | None
    ) -> list[list[Tensor]]:
        """See the base class; all inputs run in one sequence, without padding."""
        embedded = [self.embed(tower, one, bucketed) for one in pixels]
        size = self.patch_size(tower.config)
        grids = [(one.shape[-2] // size, one.shape[-1] // size) for one in pixels for _ in range(len(one))]
        states_SD = torch.cat([one.flatten(0, 1) for one in embedded])
        way = self.way(tower, grids, states_SD.device)
        if way.order is not None:
            states_SD = states_SD[way.order]
        kept = {0: states_SD}
        layers = list(self.layers(tower))
        deepest = len(layers) if -1 in wanted else max(wanted)
        for number, layer in enumerate(layers[:deepest]):
            states_SD = layer(states_SD, cu_seqlens=self.ends(tower, way, number), position_embeddings=way.rotary)
            kept[number + 1] = states_SD
        kept[-1] = states_SD
        back = None if way.order is None else way.order.argsort()
        found = []
        for number in wanted:
            rows_SD = kept[number] if back is None else kept[number][back]
            parts = rows_SD.split([one.shape[0] * one.shape[1] for one in embedded])
            found.append([part.view(*one.shape[:2], -1) for part, one in zip(parts, embedded)])
        return found

    def way(self, tower: Any, grids: Sequence[Grid], device: torch.device) -> Way:
        """How patches of inputs of these grids are run."""
        places_S2 = torch.cat([torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)
                               for rows, columns in grids]).to(device)  # fmt: skip
        angles = (places_S2[..., None].float() * tower.rotary_pos_emb.inv_freq.float().to(device)).flatten(1)
        angles = torch.cat([angles, angles], dim=-1)
        return Way((angles.cos(), angles.sin()), _ends([rows * columns for rows, columns in grids], device))

    def ends(self, tower: Any, way: Way, number: int) -> Tensor:
        """Where the parts that see each other end in a layer, counted from 0."""
        return way.inputs


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)


@register("qwen2_vl", "qwen2_vl_vision")
class Qwen2VL(_QwenVL):
    """Every layer sees its whole input. ``embed_dim`` is the width; ``hidden_size`` the language model's, unused."""

    config_class, model_class, statistics = Qwen2VLVisionConfig, Qwen2VLTower, "clip"

    def completed(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class; the feed-forward's width is told by ``mlp_ratio``."""
        rest = dict(told)
        if isinstance(width := rest.get("embed_dim"), int):
            rest.setdefault("hidden_size", width)
            rest.setdefault("num_heads", max(1, width // 64))
        return rest

    def width(self, config: Any) -> int:
        """``embed_dim``."""
        return int(config.embed_dim)


@register("qwen2_5_vl", "qwen2_5_vl_vision")
class Qwen25VL(_QwenVL):
    """Layers see windows of ``window_size`` pixels, except those of ``fullatt_block_indexes``."""

    config_class, model_class, statistics = Qwen2_5_VLVisionConfig, Qwen25VLTower, "clip"

    def check(self, config: Any, where: str) -> None:
        """Windows that hold whole merged patches, and layers that there are.

        Raises:
            UserError: a window smaller than a merged patch, or a layer that the tower has not.
        """
        super().check(config, where)
        if _window(config) < 1:
            raise UserError(f"{where}.window_size {config.window_size} is less than one merged patch")
        for layer in config.fullatt_block_indexes:
            if not 0 <= layer < config.depth:
                last = config.depth - 1
                raise UserError(f"{where}.fullatt_block_indexes names {layer}; layers are counted from 0 to {last}")

    def way(self, tower: Any, grids: Sequence[Grid], device: torch.device) -> Way:
        """Patches of a window stand together."""
        way = super().way(tower, grids, device)
        side = _window(tower.config)
        numbers, before = [], 0
        for rows, columns in grids:
            across = -(-columns // side)
            down_R1, right_C = torch.arange(rows)[:, None] // side, torch.arange(columns) // side
            numbers.append((before + down_R1 * across + right_C).flatten())
            before += -(-rows // side) * across
        window_S, order_S = torch.cat(numbers).sort(stable=True)
        order_S = order_S.to(device)
        lengths = window_S.unique_consecutive(return_counts=True)[1].tolist()
        cos, sin = way.rotary
        return Way((cos[order_S], sin[order_S]), way.inputs, _ends(lengths, device), order_S)

    def ends(self, tower: Any, way: Way, number: int) -> Tensor:
        """See the base class."""
        whole = way.windows is None or number in tower.config.fullatt_block_indexes
        return way.inputs if whole or way.windows is None else way.windows


def _window(config: Any) -> int:
    """A window's side in patches: whole merged ones."""
    merge = int(config.spatial_merge_size)
    return int(config.window_size) // merge // int(config.patch_size) * merge


@register("qwen3_vl", "qwen3_vl_vision")
class Qwen3VL(_QwenVL):
    """A table of places, resized (bilinear, corners on corners), beside the rotary ones.

    The layers that its deepstack takes are ``encoder.layer`` here, and ``deepstack_visual_indexes`` stays empty.
    """

    config_class, model_class = Qwen3VLVisionConfig, Qwen3VLTower

    def defaults(self) -> dict[str, Any]:
        """Which inner layers go on is told by ``encoder.layer``."""
        return {"deepstack_visual_indexes": ()}

    def check(self, config: Any, where: str) -> None:
        """A square table, and no second list of layers.

        Raises:
            UserError: another table, or layers listed here.
        """
        super().check(config, where)
        if _side(config) ** 2 != config.num_position_embeddings:
            raise UserError(f"{where}.num_position_embeddings {config.num_position_embeddings} is not a square")
        if config.deepstack_visual_indexes:
            raise UserError(
                f"{where}.deepstack_visual_indexes cannot be set: the layers that go on are {where}.layer, counted "
                "from 1"
            )

    def image_size(self, config: Any) -> int:
        """The side of the table of places, in whole merged patches."""
        merge = int(config.spatial_merge_size)
        return _side(config) // merge * merge * self.patch_size(config)

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """With their places."""
        patches_NPD = super().embed(tower, pixels_NCHW, bucketed)
        size, side = self.patch_size(tower.config), _side(tower.config)
        grid = (pixels_NCHW.shape[-2] // size, pixels_NCHW.shape[-1] // size)
        table_1Dss = tower.pos_embed.weight.T.reshape(1, -1, side, side)
        places_1Dhw = F.interpolate(table_1Dss.float(), size=grid, mode="bilinear", align_corners=True)
        return patches_NPD + places_1Dhw.flatten(2).transpose(1, 2).to(patches_NPD.dtype)


def _side(config: Any) -> int:
    return int(int(config.num_position_embeddings) ** 0.5)
