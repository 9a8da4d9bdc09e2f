"""What a model is given of pictures: their encoder inputs, and the sizes from which each picture's plan follows.

Legend: ``I`` pictures, ``N`` encoder inputs (tiles) of all of them, ``C`` = 3, ``H`` ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OWN = 0
"""The budget of a picture that has none of its own."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures in order.

    Attributes:
        pixels: ``uint8`` pixels_NCHW; an input smaller than the largest fills the upper left of its place.
        sizes: (height, width, budget in tiles or 0) of each picture, sizes_I3.
    """

    pixels: Tensor
    sizes: Tensor

    @staticmethod
    def of(pixels_NCHW: Tensor, size: tuple[int, int], tiles: int | None = None) -> Inputs:
        """One picture of ``size`` (width, height) and its budget."""
        return Inputs(pixels_NCHW, torch.tensor([[size[1], size[0], tiles or OWN]]))

    @staticmethod
    def join(several: Sequence[Inputs]) -> Inputs:
        """One after another; at least one."""
        height = max(one.pixels.shape[-2] for one in several)
        width = max(one.pixels.shape[-1] for one in several)
        pixels = [
            F.pad(one.pixels, (0, width - one.pixels.shape[-1], 0, height - one.pixels.shape[-2])) for one in several
        ]
        return Inputs(torch.cat(pixels), torch.cat([one.sizes for one in several]))

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the model's arguments."""
        return {"pixel_values": self.pixels, "image_sizes": self.sizes}

    def to(self, device: torch.device) -> Inputs:
        """On another device."""
        return Inputs(self.pixels.to(device), self.sizes)
