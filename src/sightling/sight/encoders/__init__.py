"""Image encoders: any transformers image tower, chosen layers, with or without its CLS token."""

from __future__ import annotations

from sightling.sight.encoders import (
    clip,
    dino,
    eva,
    idefics,
    internvit,
    joined,
    minicpm,
    mllama,
    none,
    qwen_vl,
    siglip2,
)
from sightling.sight.encoders.encoder import (
    STATISTICS,
    Encoder,
    EncoderOptions,
    Statistics,
    check_tiling,
    check_usage,
    tower_config,
)
from sightling.sight.encoders.registry import TOWERS, TYPES
from sightling.sight.encoders.tower import Grid, Tower

__all__ = [
    "STATISTICS", "TOWERS", "TYPES", "Encoder", "EncoderOptions", "Grid", "Statistics", "Tower", "check_tiling",
    "check_usage", "clip", "dino", "eva", "idefics", "internvit", "joined", "minicpm", "mllama", "none", "qwen_vl",
    "siglip2", "tower_config",
]  # fmt: skip
