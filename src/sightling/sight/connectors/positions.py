"""Where a feature lies, as sines and cosines of its column and row.

A language model with rotary positions knows how far a visual token is, but cannot read its place out of what it
attends to: the place must be in the token.

Source of the waves: Beyer, Zhai and Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k", with a shorter
longest wave, for small grids, and half the amplitude, so that what a patch shows still speaks louder.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST = 100.0
"""The longest wave in patches, over 2 pi; grids of small models have 4 to 32 patches a side."""

AMPLITUDE = 0.5


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Embeddings_PD of a grid, row by row: sines and cosines of x, then of y, at ``width / 4`` frequencies.

    Raises:
        ValueError: a width that is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    frequencies = LONGEST ** -(torch.arange(width // 4) / (width // 4))
    y_P, x_P = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    waves = [wave(axis.reshape(-1, 1) * frequencies) for axis in (x_P, y_P) for wave in (torch.sin, torch.cos)]
    return AMPLITUDE * torch.cat(waves, dim=1)
