"""What the tests of connectors share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kit import stir
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS, ConnectorOptions

GRIDS = [(4, 4), (2, 6), (8, 4)]
"""Rows and columns; two are no squares."""


DEVIATION = 0.7
"""Of random weights; with small ones attention would look at everything alike."""


def options(**told: Any) -> ConnectorOptions:
    return make(CONNECTORS, told, "connector")


def built(in_width: int, out_width: int, seed: int = 0, **told: Any) -> Any:
    """A connector in evaluation mode with weights that make everything matter, what attention looks at too."""
    return stir(options(**told).build(in_width, out_width), seed, DEVIATION).eval()


def features(count: int, patches: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, patches, width, generator=torch.Generator().manual_seed(seed))


def renamed(weights: dict[str, Tensor], **names: str) -> dict[str, Tensor]:
    """Weights with the beginnings of their names changed; a name that no rule begins is left out."""
    found = {}
    for name, tensor in weights.items():
        for old, new in names.items():
            start = old.replace("__", ".")
            if name == start or name.startswith(f"{start}."):
                found[new + name[len(start) :]] = tensor
    return found


def swapped(features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same features with the first two rows of their grid exchanged."""
    rows, columns = grid
    order = [1, 0, *range(2, rows)]
    return features_NPD.unflatten(1, (rows, columns))[:, order].flatten(1, 2)
