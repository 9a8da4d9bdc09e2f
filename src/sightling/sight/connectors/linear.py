"""``linear``: one linear layer a feature (LLaVA's first connector, MiniMind-V's of 2024)."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions


@CONNECTORS.register("linear")
class LinearOptions(ConnectorOptions):
    """One visual token a feature."""

    bias: bool = True

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are features."""
        return rows * columns + extra

    def field(self, rows: int, columns: int) -> tuple[int, int]:
        """The features' own."""
        return rows, columns

    def build(self, in_width: int, out_width: int) -> Linear:
        """See :class:`Linear`."""
        return Linear(in_width, out_width, self)


class Linear(Connector):
    """A projection of each feature alone."""

    def __init__(self, in_width: int, out_width: int, options: LinearOptions) -> None:
        super().__init__()
        self.projection = nn.Linear(in_width, out_width, bias=options.bias)

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD to tokens_NPD."""
        return self.projection(features_NPD)
