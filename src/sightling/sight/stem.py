"""A convolutional stem for a small vision transformer.

A stack of 3x3 convolutions in place of the single patch convolution. Small transformers that
train from nothing learn local features with it in fewer steps (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better"). It costs portability: serving engines know only the
plain patch convolution, so a recipe chooses.

Legend: ``N`` pictures, ``C`` channels, ``H`` ``W`` pixels or patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn as nn
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from sightling.errors import UserError
from sightling.parts import Part

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda width: nn.GroupNorm(1, width),
    "group": lambda width: nn.GroupNorm(max(1, math.gcd(width, width // 16)), width),
}
"""What normalises after each convolution, by name."""


class Stem(Part):
    """A stem's shape.

    Attributes:
        channels: width after each halving of the side; ``2 ** len(channels)`` must be the patch size.
        down: how a side is halved: ``pool`` (a convolution at full size, then the maximum of 2x2) or ``stride``
            (a convolution that takes every second place: cheaper, and shapes are learned far later).
        blocks: residual 3x3 convolutions after each of them; none when left out.
        norm: ``batch``, ``layer`` or ``group``.
    """

    channels: list[PositiveInt] = Field(min_length=1)
    blocks: list[NonNegativeInt] = Field(default_factory=list)
    norm: Literal["batch", "layer", "group"] = "batch"
    down: Literal["pool", "stride"] = "pool"


def check_stem(shape: Stem, patch_size: int, image_size: int, where: str) -> None:
    """Refuse a stem that does not make patches of the tower's size.

    Raises:
        UserError: the convolutions do not make the patch size, patches do not fill the picture, or ``blocks`` and
            ``channels`` differ in number.
    """
    halvings = len(shape.channels)
    if 2**halvings != patch_size:
        raise UserError(
            f"{where} halves the side {halvings} times, which makes patches of {2**halvings} pixels; "
            f"patch_size is {patch_size}"
        )
    if image_size % patch_size:
        raise UserError(f"{where} needs patches that fill the picture; {image_size} is not a multiple of {patch_size}")
    if shape.blocks and len(shape.blocks) != halvings:
        raise UserError(f"{where} has {halvings} channels but {len(shape.blocks)} blocks; one each is right")


class ConvStem(nn.Module):
    """3x3 convolutions, each halving the side, until one cell is one patch, then (where the widths differ) a 1x1
    projection to the tower's width.

    Shapes: pixels_NCHW to features of ``(N, hidden_size, H / patch_size, W / patch_size)``; :func:`check_stem`
    says whether a shape does that.
    """

    def __init__(self, shape: Stem, hidden_size: int) -> None:
        super().__init__()
        channels, blocks = shape.channels, shape.blocks or [0] * len(shape.channels)
        layers: list[nn.Module] = []
        before = 3
        for width, repeats in zip(channels, blocks, strict=True):
            layers.append(_step(before, width, shape.norm, down=shape.down))
            layers += [Residual(_step(width, width, shape.norm)) for _ in range(repeats)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Conv2d(before, hidden_size, 1) if before != hidden_size else nn.Identity()

    @property
    def weight(self) -> Tensor:
        """A weight; the transformers towers read its dtype."""
        return next(self.parameters())

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """See the class."""
        # Channels last: on a CPU pooling and norms run twice as fast over it, and a patch's features lie together.
        return self.projection(self.layers(pixels_NCHW.contiguous(memory_format=torch.channels_last)))


class Residual(nn.Module):
    """The input and what the inner module makes of it, added."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Same shape in and out."""
        return features_NCHW + self.inner(features_NCHW)


def _step(before: int, width: int, norm: str, down: str | None = None) -> nn.Sequential:
    stride = 2 if down == "stride" else 1
    convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
    # Pooled before the activation, which is then computed for a quarter of the cells.
    pool = [nn.MaxPool2d(2)] if down == "pool" else []
    return nn.Sequential(convolution, NORMS[norm](width), *pool, nn.GELU("tanh"))
