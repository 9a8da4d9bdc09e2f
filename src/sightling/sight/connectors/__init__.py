"""Connectors: from the encoder's features to visual tokens in the language model's width."""

from __future__ import annotations

from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.linear import Linear
from sightling.sight.connectors.mlp import MLP
from sightling.sight.connectors.pixel_shuffle import PixelShuffle

__all__ = ["CONNECTORS", "MLP", "Connector", "ConnectorOptions", "Linear", "PixelShuffle"]
