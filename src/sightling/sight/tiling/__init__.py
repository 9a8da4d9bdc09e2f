"""Tiling schemes: pure functions of (width, height) that say how a picture is cut and scaled.

A scheme registers under an exact name in :data:`TILINGS`; its options are a pydantic model, so a
wrong key is refused by name. A plan is decided before a pixel is decoded.
"""

from __future__ import annotations

from sightling.sight.tiling.base import TILINGS, Placement, Tiling
from sightling.sight.tiling.single import Single

__all__ = ["TILINGS", "Placement", "Single", "Tiling"]
