"""``perceiver``: learned queries that attend, layer after layer, to the features and to themselves.

Source of the method: Flamingo (Alayrac et al. 2022, arXiv:2204.14198) and Idefics2 (Laurençon et al. 2024,
arXiv:2405.02246). Idefics2 projects the features into the language model's width first, and its layers are
transformers' own; Flamingo's works in the width of the features, here with one linear layer after it, as the gated
layers of its language model have, each for itself.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` queries, ``H`` heads, ``D`` width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2MLP, Idefics2PerceiverResampler

from sightling.sight.connectors.attending import Grids, real_features
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions

DEPTH = {"idefics2": 3, "flamingo": 6}
"""Layers where their number is not told: the originals'."""

KV_HEADS = 4
"""Idefics2's key-value heads where their number is not told."""

NORM_EPS = 1e-6
"""What Idefics2's norms add to a variance where it is not told."""

DEVIATION = 0.02
"""Of the normal distribution that the queries are drawn from; all alike, they would all learn the same at first."""


@CONNECTORS.register("perceiver")
class PerceiverOptions(ConnectorOptions):
    """``queries`` tokens, whatever the grid; the sizes are the originals' unless told otherwise.

    ``depth``: 3 layers for Idefics2, 6 for Flamingo. ``heads`` of ``head_dim`` need not fill the width. Idefics2 only:
    ``kv_heads`` (4), ``projection_width``, the hidden width of the gated MLP before it (4 times the language
    model's), and ``norm_eps`` (1e-6), what its norms add to a variance. Flamingo only: ``activation`` of its
    feed-forward layers, ``relu2`` (squared ReLU), ``relu`` or ``gelu``.
    """

    version: Literal["idefics2", "flamingo"] = "idefics2"
    queries: int = Field(default=64, ge=1)
    depth: int | None = Field(default=None, ge=1)
    heads: int = Field(default=16, ge=1)
    head_dim: int = Field(default=96, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    projection_width: int | None = Field(default=None, ge=1)
    norm_eps: float | None = Field(default=None, gt=0)
    activation: Literal["relu2", "relu", "gelu"] | None = None

    @model_validator(mode="after")
    def _fit(self) -> PerceiverOptions:
        others = ("activation",) if self.version == "idefics2" else ("kv_heads", "projection_width", "norm_eps")
        for key in others:
            if getattr(self, key) is not None:
                raise ValueError(f"version {self.version} has no {key}")
        shared = self.kv_heads or KV_HEADS
        if self.version == "idefics2" and self.heads % shared:
            raise ValueError(f"{self.heads} heads are not divisible by {shared} kv_heads")
        return self

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are queries."""
        return self.queries

    def build(self, in_width: int, out_width: int) -> Idefics2Perceiver | FlamingoPerceiver:
        """See :class:`Idefics2Perceiver` and :class:`FlamingoPerceiver`."""
        kind = Idefics2Perceiver if self.version == "idefics2" else FlamingoPerceiver
        return kind(in_width, out_width, self)


class Idefics2Perceiver(Connector):
    """A gated MLP, then transformers' perceiver; parameters carry the names of Idefics2's ``connector``."""

    pads = True

    def __init__(self, in_width: int, out_width: int, options: PerceiverOptions) -> None:
        super().__init__()
        config = Idefics2PerceiverConfig(
            hidden_size=out_width,
            resampler_n_latents=options.queries,
            resampler_depth=options.depth or DEPTH["idefics2"],
            resampler_n_heads=options.heads,
            resampler_head_dim=options.head_dim,
            num_key_value_heads=options.kv_heads or KV_HEADS,
            rms_norm_eps=options.norm_eps or NORM_EPS,
        )
        self.modality_projection = Idefics2MLP(
            hidden_size=in_width,
            intermediate_size=options.projection_width or 4 * out_width,
            output_size=out_width,
            hidden_act=config.hidden_act,
        )
        self.perceiver_resampler = Idefics2PerceiverResampler(config)
        nn.init.normal_(self.perceiver_resampler.latents, std=DEVIATION)

    def forward(self, features_NPD: Tensor, grid: Grids) -> Tensor:
        """Shapes: features_NPD to tokens_NQD; padding is never looked at.

        Raises:
            ValueError: grids that the features do not fill.
        """
        real_NP = real_features(features_NPD, grid)
        if real_NP is None:
            real_NP = torch.ones(features_NPD.shape[:2], dtype=torch.bool, device=features_NPD.device)
        return self.perceiver_resampler(self.modality_projection(features_NPD), attention_mask=real_NP)


class FlamingoPerceiver(Connector):
    """Layers in the features' width, LayerNorm, Linear."""

    pads = True

    def __init__(self, in_width: int, out_width: int, options: PerceiverOptions) -> None:
        super().__init__()
        depth, activation = options.depth or DEPTH["flamingo"], options.activation or "relu2"
        self.query = nn.Parameter(torch.empty(options.queries, in_width).normal_(std=DEVIATION))
        layers = [FlamingoLayer(in_width, options.heads, options.head_dim, activation) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(in_width)
        self.projection = nn.Linear(in_width, out_width)

    def forward(self, features_NPD: Tensor, grid: Grids) -> Tensor:
        """Shapes: features_NPD to tokens_NQD; padding is never looked at.

        Raises:
            ValueError: grids that the features do not fill.
        """
        real_NP = real_features(features_NPD, grid)
        queries_NQD = self.query.expand(len(features_NPD), -1, -1)
        # The queries look at themselves too, and none of them is padding.
        seen = None if real_NP is None else F.pad(real_NP, (0, len(self.query)), value=True)[:, None, None]
        for layer in self.layers:
            queries_NQD = layer(queries_NQD, features_NPD, seen)
        return self.projection(self.norm(queries_NQD))


class FlamingoLayer(nn.Module):
    """Attention of the queries to features and queries together, then a feed-forward layer; no biases but in norms."""

    def __init__(self, width: int, heads: int, head_dim: int, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.features_norm = nn.LayerNorm(width)
        self.queries_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.ffn_norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.activation = ACT2FN[activation]
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, queries_NQD: Tensor, features_NPD: Tensor, seen: Tensor | None) -> Tensor:
        """Queries_NQD, renewed; ``seen`` (N, 1, 1, P + Q) is false at what no query may look at."""
        normed_NQD = self.queries_norm(queries_NQD)
        all_NKD = torch.cat([self.features_norm(features_NPD), normed_NQD], dim=1)
        q, k, v = (self._split(told) for told in (self.q_proj(normed_NQD), self.k_proj(all_NKD), self.v_proj(all_NKD)))
        out_NHQD = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        queries_NQD = queries_NQD + self.o_proj(out_NHQD.transpose(1, 2).flatten(2))
        return queries_NQD + self.down_proj(self.activation(self.up_proj(self.ffn_norm(queries_NQD))))

    def _split(self, x_NKD: Tensor) -> Tensor:
        return x_NKD.unflatten(-1, (self.heads, -1)).transpose(1, 2)
