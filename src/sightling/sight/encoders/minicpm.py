"""MiniCPM-V 4.6's tower: SigLIP at the picture's own shape, whose patches are merged two by two between its layers.

Source: the MiniCPM-V project (4.6), as transformers implements it. What stands behind the last layer is the connector
``merger``. Inputs of all sizes stand in one sequence, each seen by itself alone.

Legend: ``N`` encoder inputs, ``C`` = 3, ``H`` ``W`` pixels, ``P`` features an input, ``S`` those of all inputs, ``D``
width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.minicpmv4_6.configuration_minicpmv4_6 import MiniCPMV4_6VisionConfig
from transformers.models.minicpmv4_6.modeling_minicpmv4_6 import MiniCPMV4_6VisionModel

from sightling.errors import UserError
from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower, buckets, quotients

WINDOW = 2
"""Side in patches of the squares that are merged."""

PREFIX = {r"^(model\.)?vision_tower\.": ""}
"""How whole models call a tower's weights."""


class MiniCPMTower(MiniCPMV4_6VisionModel):
    """A tower that can be read from a whole model, too."""

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, with the names that whole models use."""
        return super().from_pretrained(path, *args, **{"key_mapping": PREFIX, **kwargs})


@register("minicpmv4_6", "minicpmv4_6_vision")
class MiniCPM(Tower):
    """Behind the layer ``insert_layer_id``, counted from 0, four neighbours look at each other and become one feature.

    So a feature stands for a square of two patches' side, and that square is what ``patch_size`` says here. With
    ``insert_layer_id: -1`` nothing is merged (the finer mode): four times the features, a patch each.

    A patch takes the place of the bucket of the table's side that the patch's number over the side's length falls
    into.
    """

    config_class, model_class = MiniCPMV4_6VisionConfig, MiniCPMTower

    def check(self, config: Any, where: str) -> None:
        """See the base class.

        Raises:
            UserError: squares of another side, or merging behind a layer that the tower has not.
        """
        super().check(config, where)
        if tuple(config.window_kernel_size) != (WINDOW, WINDOW):
            raise UserError(
                f"{where}.window_kernel_size = {list(config.window_kernel_size)}, but squares of {WINDOW} x {WINDOW} "
                "patches are merged"
            )
        if not -1 <= config.insert_layer_id < config.num_hidden_layers:
            raise UserError(
                f"{where}.insert_layer_id = {config.insert_layer_id}, but the tower's layers are counted from 0 to "
                f"{config.num_hidden_layers - 1} there; -1 merges nothing"
            )

    def patch_size(self, config: Any) -> int:
        """Side in pixels of what a feature stands for."""
        return super().patch_size(config) * (WINDOW if merges(config) else 1)

    def image_size(self, config: Any) -> int:
        """The side of the table of places, in squares of two features' side, which a merger joins."""
        unit = 2 * self.patch_size(config)
        return super().image_size(config) // unit * unit

    def earliest(self, config: Any) -> int:
        """The first layer behind the merging: before it there are four times the features."""
        return config.insert_layer_id + 1 if merges(config) else 0

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Patches_NPD with their places, by buckets of its own, before anything is merged."""
        config, embeddings = tower.config, tower.embeddings
        rows, columns = self._grid(config, pixels_NCHW)
        size = super().patch_size(config)
        patches_NDhw = embeddings.patch_embedding(pixels_NCHW[..., : rows * size, : columns * size])
        ids_P = buckets(rows, columns, super().image_size(config) // size, quotients).to(pixels_NCHW.device)
        return patches_NDhw.flatten(2).transpose(1, 2) + embeddings.position_embedding(ids_P)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.encoder.layers

    def features(
        self, tower: Any, pixels: Sequence[Tensor], wanted: Sequence[int], *, bucketed: Fractions | None
    ) -> list[list[Tensor]]:
        """See the base class; all inputs run in one sequence, without padding."""
        config = tower.config
        embedded = [self.embed(tower, one, bucketed) for one in pixels]
        grids_N2 = torch.tensor([self._grid(config, one) for one in pixels for _ in range(len(one))])
        states_1SD = torch.cat([one.flatten(0, 1) for one in embedded])[None]
        kept = {0: states_1SD}
        layers = list(self.layers(tower))
        deepest = len(layers) if -1 in wanted else max(wanted)
        for number, layer in enumerate(layers[:deepest]):
            states_1SD = layer(states_1SD, None, cu_seqlens=_ends(grids_N2, states_1SD.device), max_seqlen=None)
            if number == config.insert_layer_id:
                states_1SD = tower.vit_merger(states_1SD, grids_N2)
                grids_N2 = grids_N2 // WINDOW
            kept[number + 1] = states_1SD
        if -1 in wanted:
            kept[-1] = tower.post_layernorm(states_1SD)
        whole = self.patch_size(config)
        lengths = [(one.shape[-2] // whole) * (one.shape[-1] // whole) for one in pixels]
        found = []
        for number in wanted:
            parts = kept[number][0].split([len(one) * length for one, length in zip(pixels, lengths)])
            found.append([part.view(len(one), length, -1) for part, one, length in zip(parts, pixels, lengths)])
        return found

    def _grid(self, config: Any, pixels_NCHW: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches before they are merged; what no whole feature covers is not looked at."""
        whole, size = self.patch_size(config), super().patch_size(config)
        rows, columns = (side // whole * (whole // size) for side in pixels_NCHW.shape[-2:])
        return rows, columns


def merges(config: Any) -> bool:
    """Whether patches are merged between the layers."""
    return bool(config.insert_layer_id >= 0)


def _ends(grids_N2: Tensor, device: torch.device) -> Tensor:
    """Where each input's part of the sequence ends, from 0 on."""
    return nn.functional.pad(grids_N2.prod(1).cumsum(0), (1, 0)).to(device, torch.int32)
