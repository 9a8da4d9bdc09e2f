"""``canvas``: squares of the canvas that shows the picture best, its aspect ratio kept, as Llama 3.2 Vision cuts it.

Source of the method: Grattafiori et al. 2024, "The Llama 3 Herd of Models" (arXiv:2407.21783), and transformers'
image processor for Mllama. Every grid of up to so many squares is a canvas. Where one is large enough for the picture,
the one that enlarges it least is taken, otherwise the one that shrinks it least; of equals the smallest.
"""

from __future__ import annotations

import math
from functools import lru_cache

from pydantic import Field

from sightling.sight.tiling.anyres import BLACK
from sightling.sight.tiling.base import TILINGS, Grid, Plan, Size, Tiling, windows_of
from sightling.sight.tiling.dynamic import MOST_TILES


@lru_cache(maxsize=64)
def canvases(most: int) -> tuple[Grid, ...]:
    """All (rows, columns) of up to ``most`` squares, fewest rows first, then fewest columns."""
    return tuple((rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1))


@TILINGS.register("canvas")
class Canvas(Tiling):
    """The picture in the upper left of a canvas of up to ``max_tiles`` squares, black beyond it; no overview.

    One larger than its canvas is shrunk to fit, one whose sides are both shorter than a square's is enlarged until the
    longer one is as long; any other keeps its size.
    """

    max_tiles: int = Field(default=4, ge=1, le=MOST_TILES)

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """Canvases of so many squares at most."""
        return self.model_copy(update={"max_tiles": min(tiles, self.max_tiles)})

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The canvas's squares, row by row."""
        picture, square = (width, height), (image_size, image_size)
        grid = self._best(picture, image_size)
        canvas = (grid[1] * image_size, grid[0] * image_size)
        tiles = windows_of(_shown(picture, canvas, image_size), picture, (0, 0), square, square, grid)
        overview = 0 if len(tiles) == 1 else None
        return Plan(tuple(tiles), picture, canvas, grid, patch_size, overview, BLACK)

    def _best(self, picture: Size, image_size: int) -> Grid:
        def scale(grid: Grid) -> float:
            # The division's own rounding decides which canvases are equals, so it stays as the original has it.
            return min(grid[0] * image_size / picture[1], grid[1] * image_size / picture[0])

        def merit(grid: Grid) -> tuple[bool, float, int]:
            own = scale(grid)
            return own < 1, own if own >= 1 else -own, grid[0] * grid[1]

        return min(canvases(self.max_tiles), key=merit)


def _shown(picture: Size, canvas: Size, image_size: int) -> Size:
    """The picture's size on the canvas."""
    width, height = picture
    wide, high = (min(max(side, image_size), most) for side, most in zip(picture, canvas, strict=True))
    by_width, by_height = wide / width, high / height
    if by_width < by_height:
        return wide, min(max(1, math.floor(height * by_width)), high)
    return min(max(1, math.floor(width * by_height)), wide), high
