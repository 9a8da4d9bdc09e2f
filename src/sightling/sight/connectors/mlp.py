"""``mlp``: linear layers with GELU between (LLaVA-1.5), with or without a LayerNorm before (MiniMind-3V)."""

from __future__ import annotations

import torch.nn as nn
from pydantic import Field
from torch import Tensor

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions


@CONNECTORS.register("mlp")
class MLPOptions(ConnectorOptions):
    """One visual token a feature; ``depth`` counts the linear layers."""

    depth: int = Field(default=2, ge=1)
    norm: bool = False
    bias: bool = True

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are features."""
        return rows * columns + extra

    def build(self, in_width: int, out_width: int) -> MLP:
        """See :class:`MLP`."""
        return MLP(in_width, out_width, self)


class MLP(Connector):
    """``depth`` linear layers, the first changes the width, with exact GELU between them."""

    def __init__(self, in_width: int, out_width: int, options: MLPOptions) -> None:
        super().__init__()
        self.layers = mlp(in_width, out_width, options.depth, options.norm, options.bias)

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD to tokens_NPD."""
        return self.layers(features_NPD)


def mlp(in_width: int, out_width: int, depth: int, norm: bool, bias: bool = True) -> nn.Sequential:
    """[LayerNorm,] Linear, (GELU, Linear) x (depth - 1)."""
    layers: list[nn.Module] = [nn.LayerNorm(in_width)] if norm else []
    layers.append(nn.Linear(in_width, out_width, bias=bias))
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_width, out_width, bias=bias)]
    return nn.Sequential(*layers)
