"""Where a feature lies, as sines and cosines of its column and row.

A language model with rotary positions knows how far a visual token is, but cannot read its place out of what it
attends to: the place must be in the token.

Source of the waves: Beyer, Zhai and Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k", with a shorter
longest wave, so that on the small grids of small models most channels tell one column from the next.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
"""Keeps a token of zeros finite."""

LONGEST = 8.0
"""The longest wave in patches, over 2 pi: half of it is 25 patches."""


def placed(tokens_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens brought to a root mean square of 1, with the place of each added; tokens before the grid have none.

    Without the norm, tokens grow in training until the place is a few percent of them and cannot be read any more.
    """
    told_NPD = tokens_NPD.float()
    normed_NPD = told_NPD * torch.rsqrt(told_NPD.square().mean(-1, keepdim=True) + EPSILON)
    places_PD = sincos_positions(*grid, tokens_NPD.shape[-1]).to(told_NPD)
    before = tokens_NPD.shape[1] - len(places_PD)
    return (normed_NPD + F.pad(places_PD, (0, 0, before, 0))).to(tokens_NPD.dtype)


def sincos_positions(rows: int, columns: int, width: int, longest: float = LONGEST) -> Tensor:
    """Embeddings_PD of a grid, row by row: sines and cosines of x, then of y, at ``width / 4`` frequencies.

    ``longest``: the wave that the frequencies fall to, in patches over 2 pi; 10,000 in the usual positions.

    Raises:
        ValueError: a width that is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    frequencies = longest ** -(torch.arange(width // 4) / (width // 4))
    y_P, x_P = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    waves = [wave(axis.reshape(-1, 1) * frequencies) for axis in (x_P, y_P) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)
