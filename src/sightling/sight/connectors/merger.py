"""``merger``: squares of neighbouring features are normed, joined and passed through an MLP (Qwen2-VL and after).

Source of the method: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191) with LayerNorm, Qwen2.5-VL (Bai et al. 2025,
arXiv:2502.13923) with RMSNorm, and Qwen3-VL (2025), which keeps LayerNorm on each feature in its merger and norms the
joined square in the mergers of its deeper layers.
"""

from __future__ import annotations

from typing import Literal

import torch.nn as nn
from pydantic import Field
from torch import Tensor

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.pixel_shuffle import shuffle, squares

EPSILON = 1e-6
"""Of all three models' norms."""


@CONNECTORS.register("merger")
class MergerOptions(ConnectorOptions):
    """``factor`` x ``factor`` features become one token.

    ``norm``: ``layer`` (Qwen2-VL, Qwen3-VL) or ``rms`` (Qwen2.5-VL). ``norm_joined``: norm the joined square rather
    than each feature.
    """

    factor: int = Field(default=2, ge=1)
    norm: Literal["layer", "rms"] = "layer"
    norm_joined: bool = False

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """A quarter of the features for factor 2.

        Raises:
            UserError: a grid that the factor does not divide, or a kept CLS token, which has no place in it.
        """
        return squares("merger", rows, columns, extra, self.factor)

    def build(self, in_width: int, out_width: int) -> Merger:
        """See :class:`Merger`."""
        return Merger(in_width, out_width, self)


class Merger(Connector):
    """Norm, join squares along the channels, Linear, GELU, Linear; the hidden layer is as wide as the joined square."""

    def __init__(self, in_width: int, out_width: int, options: MergerOptions) -> None:
        super().__init__()
        self.options = options
        joined = in_width * options.factor**2
        kind = nn.LayerNorm if options.norm == "layer" else nn.RMSNorm
        self.norm = kind(joined if options.norm_joined else in_width, eps=EPSILON)
        self.layers = nn.Sequential(nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, out_width))

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD with P = rows x columns to tokens_NQD with Q = P / factor^2, row by row."""
        factor = self.options.factor
        if self.options.norm_joined:
            return self.layers(self.norm(shuffle(features_NPD, grid, factor, "v2")))
        return self.layers(shuffle(self.norm(features_NPD), grid, factor, "v2"))
