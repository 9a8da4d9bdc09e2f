"""Connectors: from the encoder's features to visual tokens in the language model's width."""

from __future__ import annotations

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.concat import Concat
from sightling.sight.connectors.cross_attention import CrossAttention, CrossAttentionOptions
from sightling.sight.connectors.expert import BlindOptions, Expert
from sightling.sight.connectors.linear import Linear
from sightling.sight.connectors.merger import Merger
from sightling.sight.connectors.mlp import MLP
from sightling.sight.connectors.perceiver import FlamingoPerceiver, Idefics2Perceiver
from sightling.sight.connectors.pixel_shuffle import PixelShuffle
from sightling.sight.connectors.qformer import QFormer
from sightling.sight.connectors.resampler import Resampler

__all__ = [
    "CONNECTORS",
    "MLP",
    "BlindOptions",
    "Concat",
    "Connector",
    "ConnectorOptions",
    "CrossAttention",
    "CrossAttentionOptions",
    "Expert",
    "FlamingoPerceiver",
    "Idefics2Perceiver",
    "Linear",
    "Merger",
    "PixelShuffle",
    "QFormer",
    "Resampler",
]
