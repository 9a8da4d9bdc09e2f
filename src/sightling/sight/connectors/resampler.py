"""``resampler``: learned queries attend to the features once; their places are in the keys and not in the values.

Source of the method: Qwen-VL (Bai et al. 2023, arXiv:2308.12966), and MiniCPM-V (Yao et al. 2024, arXiv:2408.01800;
2.5 and 2.6), which takes any grid. The positions are those of MAE (He et al. 2021). Parameters carry the names of the
published checkpoints: ``query``, ``kv_proj``, ``attn``, ``ln_q``, ``ln_kv``, ``ln_post``, ``proj``.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` queries, ``D`` width.
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.attending import Grids, places, real_features
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.positions import sincos_positions

EPSILON = 1e-6
"""Of both models' norms."""

LONGEST = 10_000.0
"""The wave that both models' frequencies fall to."""

DEVIATION = 0.02
"""Of the normal distribution, cut at two units, that the queries and matrices are drawn from."""

HEAD = 128
"""Width of a head where their number is not told."""


@CONNECTORS.register("resampler")
class ResamplerOptions(ConnectorOptions):
    """``queries`` tokens, whatever the grid.

    ``heads``: by default so many that a head is 128 wide. ``version``: with ``minicpm_v`` a feature's place is its
    row and column; with ``qwen_vl`` the queries lie on a square of their own and have places too, and the square's
    positions are stretched over the features.
    """

    queries: int = Field(default=64, ge=1)
    heads: int | None = Field(default=None, ge=1)
    version: Literal["minicpm_v", "qwen_vl"] = "minicpm_v"

    @model_validator(mode="after")
    def _square(self) -> ResamplerOptions:
        if self.version == "qwen_vl" and isqrt(self.queries) ** 2 != self.queries:
            raise ValueError(f"version qwen_vl lays its queries on a square, which {self.queries} do not fill")
        return self

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are queries."""
        return self.queries

    def build(self, in_width: int, out_width: int) -> Resampler:
        """See :class:`Resampler`.

        Raises:
            UserError: heads or positions that do not divide the language model's width.
        """
        heads = self.heads or max(1, out_width // HEAD)
        if out_width % heads:
            raise UserError(
                f"connector resampler: a language model's width of {out_width} is not divisible by {heads} heads"
            )
        if out_width % 4:
            raise UserError(
                f"connector resampler: a language model's width of {out_width} is not divisible by 4, as its positions "
                "need"
            )
        return Resampler(in_width, out_width, heads, self)


class Resampler(Connector):
    """One cross-attention in the language model's width, then LayerNorm and a matrix."""

    pads = True

    def __init__(self, in_width: int, out_width: int, heads: int, options: ResamplerOptions) -> None:
        super().__init__()
        self.options = options
        self.query = nn.Parameter(torch.empty(options.queries, out_width))
        same = in_width == out_width
        self.kv_proj = nn.Identity() if same else nn.Linear(in_width, out_width, bias=False)
        self.attn = nn.MultiheadAttention(out_width, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(out_width, eps=EPSILON)
        self.ln_kv = nn.LayerNorm(out_width, eps=EPSILON)
        self.ln_post = nn.LayerNorm(out_width, eps=EPSILON)
        self.proj = nn.Parameter(out_width**-0.5 * torch.randn(out_width, out_width))
        for drawn in (self.query, self.attn.out_proj.weight, *self.kv_proj.parameters()):
            nn.init.trunc_normal_(drawn, std=DEVIATION)

    def forward(self, features_NPD: Tensor, grid: Grids) -> Tensor:
        """Shapes: features_NPD to tokens_NQD.

        Padding is never looked at; a CLS token is, without a place.

        Raises:
            ValueError: grids that the features do not fill.
        """
        real_NP = real_features(features_NPD, grid)
        values_NPD = self.ln_kv(self.kv_proj(features_NPD))
        keys_NPD = values_NPD + places(values_NPD, grid, self.positions)
        queries_QD = self.ln_q(self.query)
        if self.options.version == "qwen_vl":
            side = isqrt(self.options.queries)
            queries_QD = queries_QD + self.positions(side, side).to(queries_QD)
        tokens_NQD, _ = self.attn(
            queries_QD.expand(len(features_NPD), -1, -1), keys_NPD, values_NPD,
            key_padding_mask=None if real_NP is None else ~real_NP, need_weights=False,
        )  # fmt: skip
        return self.ln_post(tokens_NQD) @ self.proj

    def positions(self, rows: int, columns: int) -> Tensor:
        """Embeddings_PD of a grid's places, row by row, in float32."""
        width = self.query.shape[1]
        if self.options.version == "minicpm_v":
            return sincos_positions(rows, columns, width, LONGEST)
        side = isqrt(self.options.queries)
        square = sincos_positions(side, side, width, LONGEST)
        if (rows, columns) == (side, side):
            return square
        laid = square.T.view(1, width, side, side)
        stretched = F.interpolate(laid, size=(rows, columns), mode="bicubic", align_corners=False)
        return stretched.view(width, rows * columns).T
