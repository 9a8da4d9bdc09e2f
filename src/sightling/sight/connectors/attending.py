"""What connectors share whose queries attend to the features: grids of several sizes in one batch.

Legend: ``N`` encoder inputs, ``P`` features an input, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
Grids = Grid | Sequence[Grid]
"""One grid of (rows, columns) for all inputs, or one for each.

With one for all, features beyond it (a kept CLS token) stand before it and have no place. With one for each, an
input's features stand first, row by row, and padding fills up to the longest.
"""


def real_features(features_NPD: Tensor, grid: Grids) -> Tensor | None:
    """real_NP, true where a feature is no padding; ``None`` where none is.

    Raises:
        ValueError: another number of grids than inputs, or a grid that the features do not fill.
    """
    count, patches = features_NPD.shape[:2]
    shared, each = _split(grid)
    if shared is None and len(each) != count:
        raise ValueError(f"{len(each)} grids for {count} encoder inputs")
    for rows, columns in each:
        if patches < rows * columns:
            raise ValueError(f"{patches} features do not fill a grid of {rows} x {columns} = {rows * columns}")
    lengths = [rows * columns for rows, columns in each]
    if shared is not None or min(lengths, default=patches) == patches:
        return None
    lengths_N = torch.tensor(lengths, device=features_NPD.device)
    return torch.arange(patches, device=features_NPD.device) < lengths_N[:, None]


def places(features_NPD: Tensor, grid: Grids, table: Callable[[int, int], Tensor]) -> Tensor:
    """Embeddings of each feature's place, (1 or N, P, D); zero for what has none. ``table`` gives a grid's, (P, D)."""
    patches = features_NPD.shape[1]
    shared, each = _split(grid)
    known = {one: table(*one) for one in {*each}}
    if shared is not None:
        found = F.pad(known[shared], (0, 0, patches - len(known[shared]), 0))[None]
    else:
        found = torch.stack([F.pad(known[one], (0, 0, 0, patches - len(known[one]))) for one in each])
    return found.to(features_NPD)


def _split(grid: Grids) -> tuple[Grid | None, list[Grid]]:
    """The grid that all inputs share, if they share one; and all grids that are told."""
    if isinstance(grid[0], int):
        shared = cast(Grid, grid)
        return shared, [shared]
    return None, [*cast(Sequence[Grid], grid)]
