"""``native``: no tiles; the picture keeps its aspect ratio, its sides rounded to the patch grid.

Source of the method: Wang et al. 2024, "Qwen2-VL", and the Qwen project.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from sightling.errors import UserError
from sightling.sight.tiling.base import TILINGS, Grid, Placement, Plan, Size, Tiling

MOST_LONG = 200
"""The greatest ratio of the longer side to the shorter one."""


@TILINGS.register("native")
class Native(Tiling):
    """One encoder input of the picture's own shape.

    Sides are multiples of ``merge`` patches (``merge`` x ``merge`` features become one token in Qwen's merger), and
    the area lies between ``min_pixels`` and ``max_pixels``; where roundings leave no such size, ``max_pixels`` holds.
    Defaults are Qwen2-VL's; Qwen3-VL has 65,536 and 16,777,216 pixels.
    """

    merge: int = Field(default=2, ge=1)
    min_pixels: int = Field(default=56 * 56, ge=1)
    max_pixels: int = Field(default=1280 * 28 * 28, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Native:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """One placement.

        Raises:
            UserError: a picture more than 200 times as long as it is short, or ``max_pixels`` below one cell.
        """
        if max(width, height) > MOST_LONG * min(width, height):
            raise UserError(
                f"a picture of {width} x {height} pixels is too long for the tiling scheme 'native': "
                f"its sides may differ {MOST_LONG} times at most"
            )
        size = self._size(width, height, patch_size * self.merge)
        placed = Placement((0, 0, width, height), size, (0, 0), size)
        return Plan((placed,), (width, height), size, (1, 1), patch_size, overview=0)

    def _size(self, width: int, height: int, unit: int) -> Size:
        if unit * unit > self.max_pixels:
            raise UserError(f"tiling.max_pixels = {self.max_pixels} is less than one cell of {unit} x {unit} pixels")
        # Python rounds halves to even, as the method does; a side may come out as 0, which the second case lifts.
        wide, high = round(width / unit) * unit, round(height / unit) * unit
        if wide * high < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            wide, high = math.ceil(width * scale / unit) * unit, math.ceil(height * scale / unit) * unit
        if wide * high > self.max_pixels:
            scale = math.sqrt((height * width) / self.max_pixels)
            wide = max(unit, math.floor(width / scale / unit) * unit)
            high = max(unit, math.floor(height / scale / unit) * unit)
            # A short side that was held at one cell may leave the long one too long; the original lets it be.
            longest = self.max_pixels // (min(wide, high) * unit) * unit
            wide, high = min(wide, longest), min(high, longest)
        return wide, high

    def unit(self, image_size: int, patch_size: int) -> Grid:
        """``merge`` patches."""
        return self.merge, self.merge

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """The pixels of so many squares of the encoder's size at most, or of one cell where that is more."""
        most = min(self.max_pixels, max(tiles * image_size * image_size, (patch_size * self.merge) ** 2))
        return self.model_copy(update={"max_pixels": most, "min_pixels": min(self.min_pixels, most)})
