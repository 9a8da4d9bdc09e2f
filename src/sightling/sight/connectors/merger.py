"""``merger``: squares of neighbouring features are normed, joined and passed through an MLP (Qwen2-VL and after).

With ``deepstack`` further mergers pass on features of inner layers, which the language model's first layers add.

Source of the method: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191) with LayerNorm, Qwen2.5-VL (Bai et al. 2025,
arXiv:2502.13923) with RMSNorm, and Qwen3-VL (2025), which keeps LayerNorm on each feature in its merger and norms the
joined square in the mergers of its deeper layers. With ``norm_joined`` it is MiniCPM-V 4.6's, too.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.pixel_shuffle import shuffle, squares

EPSILON = 1e-6
"""Of all three models' norms."""


@CONNECTORS.register("merger")
class MergerOptions(ConnectorOptions):
    """``factor`` x ``factor`` features become one token.

    ``norm``: ``layer`` (Qwen2-VL, Qwen3-VL) or ``rms`` (Qwen2.5-VL). ``norm_joined``: norm the joined square rather
    than each feature.

    ``deepstack``: so many inner layers of the encoder, which stand before the one that becomes the tokens
    (``encoder.layer: [9, 17, 25, -1]`` for 3), each have a merger of their own, which norms the joined square.
    """

    factor: int = Field(default=2, ge=1)
    norm: Literal["layer", "rms"] = "layer"
    norm_joined: bool = False
    deepstack: int = Field(default=0, ge=0)

    @property
    def added(self) -> int:
        """``deepstack``."""
        return self.deepstack

    def field(self, rows: int, columns: int) -> tuple[int, int]:
        """Squares of the grid."""
        return rows // self.factor, columns // self.factor

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """A quarter of the features for factor 2.

        Raises:
            UserError: a grid that the factor does not divide, or a kept CLS token, which has no place in it.
        """
        return squares("merger", rows, columns, extra, self.factor)

    def build(self, in_width: int, out_width: int) -> Merger:
        """See :class:`Merger`.

        Raises:
            UserError: a width that is not that of so many layers.
        """
        if in_width % (self.deepstack + 1):
            raise UserError(
                f"connector.deepstack = {self.deepstack} needs {self.deepstack + 1} layers of the encoder, and their "
                f"width together is {in_width}"
            )
        return Merger(in_width, out_width, self)


class Merger(Connector):
    """Norm, join squares along the channels, Linear, GELU, Linear; the hidden layer is as wide as the joined square.

    With ``deepstack`` the features are those of several layers, the last one's behind the inner ones'; tokens are
    the last one's, and behind them along the channels those of the inner layers in order.
    """

    def __init__(self, in_width: int, out_width: int, options: MergerOptions) -> None:
        super().__init__()
        self.options = options
        self.added = options.deepstack
        in_width //= self.added + 1
        joined = in_width * options.factor**2
        kind = nn.LayerNorm if options.norm == "layer" else nn.RMSNorm
        self.norm = kind(joined if options.norm_joined else in_width, eps=EPSILON)
        self.layers = nn.Sequential(nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, out_width))
        if self.added:
            inner = MergerOptions(factor=options.factor, norm_joined=True)
            self.inner = nn.ModuleList(inner.build(in_width, out_width) for _ in range(self.added))

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD with P = rows x columns to tokens_NQD with Q = P / factor^2, row by row."""
        if not self.added:
            return self._merged(features_NPD, grid)
        *inner, last_NPD = features_NPD.chunk(self.added + 1, dim=-1)
        merged = [layer(features, grid) for layer, features in zip(self.inner, inner, strict=True)]
        return torch.cat([self._merged(last_NPD, grid), *merged], dim=-1)

    def _merged(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        factor = self.options.factor
        if self.options.norm_joined:
            return self.layers(self.norm(shuffle(features_NPD, grid, factor, "v2")))
        return self.layers(shuffle(self.norm(features_NPD), grid, factor, "v2"))
