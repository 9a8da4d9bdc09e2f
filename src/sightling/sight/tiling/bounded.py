"""``bounded``: the picture's own shape between a shortest and a longest side, as Idefics2 shows it.

Source of the method: Laurençon et al. 2024, "What matters when building vision-language models?" (Idefics2), and its
image processor in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from sightling.errors import UserError
from sightling.sight.tiling.base import TILINGS, Box, Grid, Placement, Plan, Size, Tiling
from sightling.sight.tiling.tagged import AROUND


@dataclass(frozen=True, slots=True)
class Quarters(Plan):
    """A plan whose grid is cut from the picture before it is scaled; its canvas is the picture as it is."""

    @property
    def windows(self) -> tuple[Box, ...]:
        """The parts of the picture."""
        return tuple(cell.crop for cell in self.cells)

    @property
    def laid(self) -> Placement:
        """The picture as it is."""
        return Placement((0, 0, *self.picture), self.picture, (0, 0), self.picture)


@TILINGS.register("bounded")
class Bounded(Tiling):
    """One encoder input of the picture's own shape; with ``quarters`` its four quarters come first, each alike.

    A side longer than ``longest`` is scaled to it, and the other with it, cut off to whole pixels; a side shorter than
    ``shortest`` is stretched to it alone. What is left of a side that no patch fits is not looked at. A picture with a
    side of one pixel has no quarters and is shown whole.
    """

    shortest: int = Field(default=378, ge=1)
    longest: int = Field(default=980, ge=1)
    quarters: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Bounded:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        return self

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The quarters row by row, then the whole picture.

        Raises:
            UserError: sides that may be shorter than a patch.
        """
        if self.shortest < patch_size:
            raise UserError(f"tiling.shortest = {self.shortest} is less than a patch of {patch_size} pixels")
        picture = (width, height)
        whole = self._placed((0, 0, width, height))
        middle = (width // 2, height // 2)
        if not self.quarters or 0 in middle:
            return Plan((whole,), picture, whole.canvas, (1, 1), patch_size, 0)
        across, down = (0, middle[0], width), (0, middle[1], height)
        crops = [(across[x], down[y], across[x + 1], down[y + 1]) for y in (0, 1) for x in (0, 1)]
        tiles = (*map(self._placed, crops), whole)
        # One mark closes a tile and opens the next; the first opening and the last close are the chat template's.
        between = ((), *[(AROUND,)] * 4, ())
        return Quarters(tiles, picture, picture, (2, 2), patch_size, 4, between=between)

    def _placed(self, crop: Box) -> Placement:
        size = self._size(crop[2] - crop[0], crop[3] - crop[1])
        return Placement(crop, size, (0, 0), size)

    def _size(self, width: int, height: int) -> Size:
        shape = width / height
        if width >= height and width > self.longest:
            width, height = self.longest, int(self.longest / shape)
        elif height > width and height > self.longest:
            width, height = int(self.longest * shape), self.longest
        return max(width, self.shortest), max(height, self.shortest)

    def unit(self, image_size: int, patch_size: int) -> Grid:
        """Any number of patches."""
        return 1, 1

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """Quarters only where there may be four tiles; one alone is no longer than the encoder's square."""
        if tiles >= 4:
            return self
        longest = min(self.longest, image_size) if tiles == 1 else self.longest
        shortest = min(self.shortest, longest)
        return self.model_copy(update={"quarters": False, "longest": longest, "shortest": shortest})

    def marks(self) -> tuple[str, ...]:
        """What stands between tiles, where there are several."""
        return (AROUND,) if self.quarters else ()
