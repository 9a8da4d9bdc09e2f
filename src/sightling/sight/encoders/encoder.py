"""An encoder: a tower of transformers, and the choice of which of its features go on.

Legend: ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels, ``P`` features an input, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedConfig

from sightling.errors import UserError, nearest
from sightling.parts import Part
from sightling.sight.encoders.registry import TOWERS, TYPES
from sightling.sight.encoders.tower import Grid, multiples, steps
from sightling.sight.stem import ConvStem, Stem, check_stem
from sightling.sight.tiling import Tiling

Deviation = Annotated[float, Field(gt=0)]


class Statistics(Part):
    """What normalises pixels of 0 to 1: ``(pixel - mean) / std`` by channel."""

    mean: tuple[float, float, float]
    std: tuple[Deviation, Deviation, Deviation]


STATISTICS = {
    "half": Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "clip": Statistics(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    "imagenet": Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}


FRACTIONS = {"bucketed": multiples, "stepped": steps}
"""How ``positions`` by buckets reckon where a patch begins; resized tables need it not."""


class EncoderOptions(Part):
    """How a tower is used; the tower's own sizes live in its transformers configuration.

    ``layer`` counts hidden states as transformers does: 0 is the embedding, -1 the last layer (for -1
    the tower's final norm is applied where it has one, as SigLIP's ``last_hidden_state``). Several layers, as
    a list, are joined channel by channel.
    ``positions``: for an input that is not the tower's own square the table of positions is ``interpolated``, or
    each patch takes the position of the bucket of the side that it falls into (``bucketed`` as Idefics2 reckons it,
    ``stepped`` as MiniCPM-V 2.6 does; they differ where a patch begins on a bucket's bound).
    ``normalise`` names statistics or gives them as ``{mean: [...], std: [...]}``; left out, they are those
    that published towers of this class were trained with.
    ``stem`` replaces the patch convolution of a tower grown from nothing.
    """

    layer: int | tuple[int, ...] = -1
    keep_cls: bool = False
    positions: Literal["interpolated", "bucketed", "stepped"] = "interpolated"
    normalise: Literal["half", "clip", "imagenet"] | Statistics | None = None
    stem: Stem | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The chosen layers, one or several."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer


def tower_config(options: Mapping[str, Any], where: str = "model.encoder") -> PreTrainedConfig:
    """The transformers configuration of a tower from a recipe's ``{type: siglip, hidden_size: ...}``.

    Raises:
        UserError: an unknown type or an unknown key, with the nearest known one.
    """
    rest = dict(options)
    name = str(rest.pop("type", ""))
    if name not in TYPES:
        raise UserError(f"{where}.type: there is no encoder {name!r}; {nearest(name, TYPES)}")
    kind = TOWERS[TYPES[name]]
    return kind.configured(rest, where)


def check_usage(config: PreTrainedConfig, options: EncoderOptions, where: str) -> None:
    """Refuse a use that a tower of these sizes does not allow.

    Raises:
        UserError: a layer that the tower has not, a CLS token to keep where there is none, positions that the tower was
            never trained with, or a stem whose convolutions do not make the patch size.
    """
    kind = TOWERS[config.model_type]
    if not kind.uses:
        for key in options.model_fields_set:
            raise UserError(f"{where}.{key} is each tower's own here; set it for one of {where}.towers")
        return
    layers = kind.depth(config)
    if not kind.layered and options.layers != (-1,):
        raise UserError(f"{where}.layer cannot be set: which layers of a {config.model_type} go on is its own matter")
    if not options.layers:
        raise UserError(f"{where}.layer is empty; it names at least one layer")
    for layer in options.layers:
        if not -layers - 1 <= layer <= layers:
            raise UserError(f"{where}.layer = {layer}, but the tower's layers are counted from 0 to {layers}")
        first = kind.earliest(config)
        if (layer if layer >= -1 else layers + 1 + layer) in range(first):
            raise UserError(
                f"{where}.layer = {layer}, but the tower merges patches behind it; {first} is the first that can go on"
            )
    if options.keep_cls and not kind.before(config):
        raise UserError(f"{where}.keep_cls is true, but a {config.model_type} has no CLS token")
    if options.positions in FRACTIONS and not kind.buckets:
        able = ", ".join(sorted(name for name, model_type in TYPES.items() if TOWERS[model_type].buckets))
        raise UserError(f"{where}.positions = {options.positions!r} is not for a {config.model_type}; {able} take it")
    if options.positions == "interpolated" and not kind.interpolates:
        raise UserError(f"{where}.positions: a {config.model_type} takes bucketed positions, not interpolated ones")
    if options.stem is not None:
        if not kind.stems:
            raise UserError(f"{where}.stem cannot be set: a {config.model_type} takes its own patches")
        check_stem(options.stem, kind.patch_size(config), kind.image_size(config), f"{where}.stem")


def check_tiling(config: PreTrainedConfig, tiling: Tiling, reads_text: bool, where: str) -> None:
    """Refuse a tiling scheme that a tower cannot take, and a tower of tiles for a connector that reads words with each.

    Raises:
        UserError: such a scheme, and which would be right; or such a connector.
    """
    kind = TOWERS[config.model_type]
    reason = kind.refuses(config, tiling)
    if reason is not None:
        raise UserError(f"{where}.tiling: {reason}")
    if kind.together and reads_text:
        raise UserError(
            f"{where}.connector reads words with each tile alone, but a {config.model_type} looks at the tiles of a "
            "picture together; a connector that reads none would be right"
        )


class Encoder(nn.Module):
    """A tower and the choice of which of its features go on.

    ``tower`` brings its weights; without it a new one is made.

    Shapes: ``uint8`` (or already normalised float) pixels_NCHW to features_NPD.

    Raises:
        UserError: an unknown class of towers, or options that :func:`check_usage` refuses.
    """

    def __init__(self, config: PreTrainedConfig, options: EncoderOptions, tower: nn.Module | None = None) -> None:
        super().__init__()
        if config.model_type not in TOWERS:
            raise UserError(f"there is no encoder for {config.model_type!r}; {nearest(config.model_type, TOWERS)}")
        check_usage(config, options, "encoder")
        self.kind = TOWERS[config.model_type]
        self.config = config
        self.options = options
        self.tower = tower if tower is not None else self.kind.model_class(config)
        if options.stem is not None:
            setattr(*self.kind.cutter(self.tower), ConvStem(options.stem, self.kind.width(config)))

    @property
    def width(self) -> int:
        """Features' width ``D``: the tower's, once for each chosen layer."""
        return self.kind.width(self.config) * len(self.options.layers)

    @property
    def statistics(self) -> Statistics:
        """What pixels are normalised with."""
        told = self.options.normalise
        return told if isinstance(told, Statistics) else STATISTICS[told or self.kind.statistics]

    @property
    def has_cls(self) -> bool:
        """Whether the tower puts a CLS token before the patches."""
        return self.kind.before(self.config) > 0

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input that the tower was made for."""
        return self.kind.image_size(self.config)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.kind.patch_size(self.config)

    def grid(self, height: int, width: int) -> Grid:
        """(rows, columns) of patches for an input of that size in pixels."""
        return height // self.patch_size, width // self.patch_size

    def normalise(self, pixels_NCHW: Tensor) -> Tensor:
        """``uint8`` pixels to the tower's normalised floats; floats pass unchanged."""
        if pixels_NCHW.dtype != torch.uint8:
            return pixels_NCHW
        # Made here, not kept as buffers: transformers leaves buffers that are not saved without values when it loads.
        dtype, device = next(self.parameters()).dtype, pixels_NCHW.device
        chosen = self.statistics
        mean = torch.tensor(chosen.mean, device=device).view(1, 3, 1, 1) * 255.0
        deviation = torch.tensor(chosen.std, device=device).view(1, 3, 1, 1) * 255.0
        return ((pixels_NCHW.float() - mean) / deviation).to(dtype)

    def forward(self, pixels_NCHW: Tensor, grids: Sequence[Grid] | None = None) -> Tensor:
        """Features of the chosen layers; what stands before the patches is dropped, a CLS token that is kept excepted.

        With ``grids``, one of (rows, columns) for each input, an input's picture fills the upper left of its pixels;
        what lies beyond is never looked at. Its features stand first, row by row (behind its CLS token), and zeros
        fill up to the longest.

        Raises:
            ValueError: another number of grids than inputs, or a grid larger than the pixels.
        """
        pixels_NCHW = self.normalise(pixels_NCHW)
        whole = self.grid(*pixels_NCHW.shape[-2:])
        if grids is None or all(grid == whole for grid in grids):
            if grids is not None and len(grids) != len(pixels_NCHW):
                raise ValueError(f"{len(grids)} grids for {len(pixels_NCHW)} encoder inputs")
            return self._features([pixels_NCHW])[0]
        if len(grids) != len(pixels_NCHW):
            raise ValueError(f"{len(grids)} grids for {len(pixels_NCHW)} encoder inputs")
        places: dict[Grid, list[int]] = {}
        for place, (rows, columns) in enumerate(grids):
            if rows > whole[0] or columns > whole[1]:
                raise ValueError(f"a grid of {rows} x {columns} patches in pixels for {whole[0]} x {whole[1]}")
            places.setdefault((rows, columns), []).append(place)
        size = self.patch_size
        sorts = [
            pixels_NCHW[members, :, : rows * size, : columns * size] for (rows, columns), members in places.items()
        ]
        parts = self._features(sorts)
        longest = max(part.shape[1] for part in parts)
        order = torch.tensor([place for members in places.values() for place in members])
        joined = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
        return joined[order.argsort().to(joined.device)]

    def running(self) -> list[nn.Module]:
        """The tower's layers in order, up to the last that is looked at."""
        layers = list(self.kind.layers(self.tower))
        return layers[: self.kind.deepest(len(layers), self._wanted())]

    def _wanted(self) -> list[int]:
        depth = self.kind.depth(self.config)
        return [layer if layer >= -1 else depth + 1 + layer for layer in self.options.layers]

    def _features(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Features_NPD of each tensor of normalised pixels_NCHW, the chosen layers joined channel by channel."""
        states = self.kind.features(self.tower, pixels, self._wanted(), bucketed=FRACTIONS.get(self.options.positions))
        found = []
        for several in zip(*states):
            found.append(self._kept(torch.cat(several, dim=-1) if len(several) > 1 else several[0]))
        return found

    def together(self, pixels_NCHW: Tensor, shapes: Sequence[Grid]) -> Tensor:
        """Features_IKPD of pictures, for a tower that looks at the tiles of each together (:attr:`Tower.together`).

        ``shapes`` are (rows, columns) of each picture's tiles; those that fill up behind them have features, too.

        Raises:
            ValueError: another number of tiles than the shapes make.
        """
        count = sum(rows * columns for rows, columns in shapes)
        if count != len(pixels_NCHW):
            raise ValueError(f"{len(pixels_NCHW)} encoder inputs, but the pictures' shapes make {count}")
        return self._kept(self.kind.pictures(self.tower, self.normalise(pixels_NCHW), shapes))

    def _kept(self, features_PD: Tensor) -> Tensor:
        """Without what stands before the patches, a CLS token that is kept excepted; any axes before ``P``."""
        first = self.kind.before(self.config)
        if self.options.keep_cls:
            return torch.cat([features_PD[..., :1, :], features_PD[..., first:, :]], dim=-2)
        return features_PD[..., first:, :]
