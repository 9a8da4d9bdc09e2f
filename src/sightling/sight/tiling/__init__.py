"""Tiling schemes: pure functions of (width, height) that say how a picture is cut and scaled.

A scheme registers under an exact name in :data:`TILINGS`; its options are a pydantic model, so a
wrong key is refused by name. A plan is decided before a pixel is decoded.
"""

from __future__ import annotations

from sightling.sight.tiling.adaptive import Adaptive
from sightling.sight.tiling.anyres import Anyres, Unpadded
from sightling.sight.tiling.base import TILINGS, Placement, Plan, Tiling
from sightling.sight.tiling.bounded import Bounded
from sightling.sight.tiling.canvas import Canvas
from sightling.sight.tiling.dynamic import Dynamic
from sightling.sight.tiling.native import Native
from sightling.sight.tiling.overlapping import Overlapping
from sightling.sight.tiling.single import Single
from sightling.sight.tiling.tagged import Tagged

__all__ = [
    "TILINGS", "Adaptive", "Anyres", "Bounded", "Canvas", "Dynamic", "Native", "Overlapping", "Placement", "Plan",
    "Single", "Tagged", "Tiling", "Unpadded",
]  # fmt: skip
