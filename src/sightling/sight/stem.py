"""A convolutional stem for a small vision transformer.

A stack of stride-2 convolutions in place of the single patch convolution. Small transformers that
train from nothing learn local features with it in fewer steps (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better"). It costs portability: serving engines know only the
plain patch convolution, so a recipe chooses.

Legend: ``N`` pictures, ``C`` channels, ``H`` ``W`` pixels or patches.
"""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from sightling.errors import UserError


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions until one cell is one patch, then a 1x1 projection to the width.

    ``channels`` gives the width after each convolution; ``2 ** len(channels)`` must be the patch size.
    Shapes: pixels_NCHW to features of ``(N, hidden_size, H / patch_size, W / patch_size)``.
    """

    def __init__(self, channels: list[int], hidden_size: int, patch_size: int) -> None:
        super().__init__()
        if 2 ** len(channels) != patch_size:
            raise UserError(
                f"encoder.stem has {len(channels)} stride-2 convolutions, which makes patches of "
                f"{2 ** len(channels)} pixels; patch_size is {patch_size}"
            )
        layers: list[nn.Module] = []
        before = 3
        for width in channels:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(1, width), nn.GELU("tanh")]
            before = width
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Conv2d(before, hidden_size, 1)

    @property
    def weight(self) -> Tensor:
        """The last weight; the transformers towers read its dtype."""
        return self.projection.weight

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """See the class."""
        return self.projection(self.layers(pixels_NCHW))
