"""``dynamic``: the grid of squares whose shape is nearest to the picture's, as InternVL cuts it.

Source of the method: Chen et al. 2024, "How Far Are We to GPT-4V?" (InternVL 1.5), and the InternVL project.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pydantic import Field, model_validator

from sightling.sight.tiling.base import TILINGS, Grid, Placement, Plan, Size, Tiling, windows_of

MOST_TILES = 256
"""The greatest ``max_tiles``: the list of grids to choose from grows with it."""


@lru_cache(maxsize=64)
def grids(least: int, most: int) -> tuple[Grid, ...]:
    """All (rows, columns) of ``least`` to ``most`` tiles, fewest tiles first, then fewest columns."""
    found = [
        (rows, columns)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
        if rows * columns >= least
    ]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def nearest_grid(picture: Size, candidates: tuple[Grid, ...], canvas: Callable[[Grid], Size]) -> Grid:
    """The grid whose canvas comes nearest to the picture's width / height.

    Of grids equally near, the later, larger one is taken if the picture has more than half its canvas's pixels.
    """
    area, shape = picture[0] * picture[1], picture[0] / picture[1]
    best, least = candidates[0], float("inf")
    for grid in candidates:
        width, height = canvas(grid)
        apart = abs(shape - width / height)
        if apart < least:
            best, least = grid, apart
        elif apart == least and area > 0.5 * width * height:
            best = grid
    return best


class Squares(Tiling):
    """What schemes of squares onto a stretched picture share: how many, and a thumbnail.

    ``min_tiles`` and ``max_tiles`` bound the grid; with ``thumbnail`` the whole picture, squashed into a square,
    follows a grid of more than one tile.
    """

    min_tiles: int = Field(default=1, ge=1)
    max_tiles: int = Field(default=12, ge=1, le=MOST_TILES)
    thumbnail: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Squares:
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is more than max_tiles {self.max_tiles}")
        return self

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """Grids of so many tiles at most."""
        most = min(tiles, self.max_tiles)
        return self.model_copy(update={"max_tiles": most, "min_tiles": min(self.min_tiles, most)})

    def stride(self, image_size: int) -> int:
        """From one tile to its neighbour, in pixels."""
        return image_size

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The grid's tiles row by row, then the thumbnail."""
        stride = self.stride(image_size)

        def canvas(grid: Grid) -> Size:
            return image_size + (grid[1] - 1) * stride, image_size + (grid[0] - 1) * stride

        picture, square = (width, height), (image_size, image_size)
        grid = nearest_grid(picture, grids(self.min_tiles, self.max_tiles), canvas)
        covered = canvas(grid)
        tiles = windows_of(covered, picture, (0, 0), square, (stride, stride), grid)
        overview = 0 if len(tiles) == 1 else None
        if self.thumbnail and len(tiles) > 1:
            overview = len(tiles)
            tiles.append(Placement((0, 0, width, height), square, (0, 0), square))
        return Plan(tuple(tiles), picture, covered, grid, patch_size, overview)


@TILINGS.register("dynamic")
class Dynamic(Squares):
    """InternVL's tiles: the picture is stretched to a grid of squares, which are cut without overlap."""
