"""``single``: the whole picture becomes one square encoder input."""

from __future__ import annotations

from typing import Literal

from sightling.sight.tiling.base import TILINGS, Placement, Plan, Tiling

STRIP = 64
"""A picture so many times longer than wide is cut before it is scaled: whole, it would be scaled to a giant."""


@TILINGS.register("single")
class Single(Tiling):
    """One tile a picture.

    ``fit`` says how a picture that is not square fills the square: ``stretch`` changes its aspect
    ratio; ``letterbox`` keeps it and fills the rest around the centre; ``pad`` keeps it and fills to
    the right and below; ``crop`` keeps it and loses what stands out at the longer side. ``shortest``
    loses the same, but scales before it cuts, in whole pixels, as CLIP's own preprocessing does.
    """

    fit: Literal["stretch", "letterbox", "pad", "crop", "shortest"] = "stretch"

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """One placement; see the class."""
        square = (image_size, image_size)
        placed = self._place(width, height, image_size)
        return Plan((placed,), (width, height), square, (1, 1), patch_size, overview=0)

    def _place(self, width: int, height: int, image_size: int) -> Placement:
        whole, square = (0, 0, width, height), (image_size, image_size)
        if self.fit == "stretch":
            return Placement(whole, square, (0, 0), square)
        if self.fit == "crop" or (self.fit == "shortest" and max(width, height) > STRIP * min(width, height)):
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            return Placement((left, top, left + side, top + side), square, (0, 0), square)
        if self.fit == "shortest":
            longer = int(image_size * max(width, height) / min(width, height))
            scaled = (longer, image_size) if width > height else (image_size, longer)
            left, top = (scaled[0] - image_size) // 2, (scaled[1] - image_size) // 2
            return Placement(whole, scaled, (-left, -top), square)
        scale = image_size / max(width, height)
        scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        offset = (0, 0)
        if self.fit == "letterbox":
            offset = ((image_size - scaled[0]) // 2, (image_size - scaled[1]) // 2)
        return Placement(whole, scaled, offset, square)
