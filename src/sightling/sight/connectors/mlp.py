"""``mlp``: linear layers with GELU between (LLaVA-1.5), with or without a LayerNorm before (MiniMind-3V)."""

from __future__ import annotations

import torch.nn as nn
from pydantic import Field
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.positions import placed


@CONNECTORS.register("mlp")
class MLPOptions(ConnectorOptions):
    """One visual token a feature; ``depth`` counts the linear layers.

    ``positions``: norm each token and add its place (:mod:`~sightling.sight.connectors.positions`); a CLS token has
    no place.
    """

    depth: int = Field(default=2, ge=1)
    norm: bool = False
    bias: bool = True
    positions: bool = False

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are features."""
        return rows * columns + extra

    def field(self, rows: int, columns: int) -> tuple[int, int]:
        """The features' own."""
        return rows, columns

    def build(self, in_width: int, out_width: int) -> MLP:
        """See :class:`MLP`.

        Raises:
            UserError: positions for a width that is no multiple of 4.
        """
        if self.positions and out_width % 4:
            raise UserError(
                f"connector.positions needs a language model whose width is a multiple of 4; this one has {out_width}"
            )
        return MLP(in_width, out_width, self)


class MLP(Connector):
    """``depth`` linear layers, the first changes the width, with exact GELU between them; then the places."""

    def __init__(self, in_width: int, out_width: int, options: MLPOptions) -> None:
        super().__init__()
        self.positions = options.positions
        self.layers = mlp(in_width, out_width, options.depth, options.norm, options.bias)

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD to tokens_NPD."""
        tokens_NPD = self.layers(features_NPD)
        return placed(tokens_NPD, grid) if self.positions else tokens_NPD


def mlp(in_width: int, out_width: int, depth: int, norm: bool, bias: bool = True) -> nn.Sequential:
    """[LayerNorm,] Linear, (GELU, Linear) x (depth - 1)."""
    layers: list[nn.Module] = [nn.LayerNorm(in_width)] if norm else []
    layers.append(nn.Linear(in_width, out_width, bias=bias))
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_width, out_width, bias=bias)]
    return nn.Sequential(*layers)
