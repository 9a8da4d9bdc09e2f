"""What a model is given of pictures: their encoder inputs, and the sizes from which each picture's plan follows.

Legend: ``I`` pictures, ``N`` encoder inputs (tiles) of all of them, ``C`` = 3, ``H`` ``W`` pixels, ``T`` words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

OWN = 0
"""The budget of a picture that has none of its own."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures in order.

    Attributes:
        pixels: ``uint8`` pixels_NCHW; an input smaller than the largest fills the upper left of its place.
        sizes: (height, width, budget in tiles or 0) of each picture, sizes_I3.
        words: the ids of the words that each picture is read with (:mod:`sightling.model.instruction`), or none.
    """

    pixels: Tensor
    sizes: Tensor
    words: tuple[tuple[int, ...], ...] = ()

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
        words = tuple(own for one in several for own in one.words)
        return Inputs(torch.cat(pixels), torch.cat([one.sizes for one in several]), words)

    def read_with(self, words: Sequence[tuple[int, ...]]) -> Inputs:
        """The same pictures, each read with its own words; empty ones are none."""
        return replace(self, words=tuple(words)) if any(words) else self

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the model's arguments."""
        shown = {"pixel_values": self.pixels, "image_sizes": self.sizes}
        return {**shown, **words_of(self.words)} if self.words else shown

    def to(self, device: torch.device) -> Inputs:
        """On another device."""
        return replace(self, pixels=self.pixels.to(device))


def words_of(words: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Words for a Q-Former by the names of the model's arguments: ids_IT padded on the right, and their mask_IT."""
    rows = [torch.tensor(one) for one in words]
    mask_IT = pad_sequence([torch.ones_like(one) for one in rows], batch_first=True)
    # What stands where the mask is 0 is never looked at.
    return {"qformer_input_ids": pad_sequence(rows, batch_first=True), "qformer_attention_mask": mask_IT}
