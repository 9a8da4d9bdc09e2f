"""``overlapping``: ``dynamic`` with windows that repeat a part of their neighbours, as a control.

Slices that overlap show some things twice, and models that see such slices miscount: Guo et al. 2024,
"LLaVA-UHD", found it by probing GPT-4V. But for the overlap this is ``dynamic``, and without one it is the same,
so that a comparison of the two says what overlap does.
"""

from __future__ import annotations

from pydantic import Field

from sightling.sight.tiling.base import TILINGS
from sightling.sight.tiling.dynamic import Squares


@TILINGS.register("overlapping")
class Overlapping(Squares):
    """Windows of one size at one stride onto the stretched picture.

    ``overlap`` is the share of a window's side that its neighbour repeats, rounded down to pixels.
    """

    overlap: float = Field(default=0.25, ge=0, le=0.9)

    def stride(self, image_size: int) -> int:
        """From one window to its neighbour, in pixels; at least 1."""
        return image_size - int(self.overlap * image_size)
