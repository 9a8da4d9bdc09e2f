"""``anyres``: the preset shape that keeps most of the picture, as LLaVA-NeXT and LLaVA-OneVision cut it.

Source of the method: Liu et al. 2024, "Improved Baselines with Visual Instruction Tuning" (LLaVA-1.5-HD), the
LLaVA-NeXT project, and Li et al. 2024, "LLaVA-OneVision" (the limit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from sightling.errors import UserError
from sightling.sight.tiling.base import GREY, TILINGS, Grid, Placement, Plan, Size, Tiling, windows_of

BLACK = (0, 0, 0)

Side = Annotated[int, Field(ge=1, le=64)]
Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True)
class Unpadded(Plan):
    """A plan whose grid's tokens are put together into one field before they enter the sequence.

    ``limit`` is the greatest field, counted in tiles. Where the overview stands alone, the field is one empty row,
    which is ended like any other.
    """

    limit: int | None = None

    def kept(self, tile: Grid) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) of what lies on the picture, in the field of all tiles' tokens.

        ``tile`` is (rows, columns) of one tile's tokens. A picture that is too thin keeps no row or column.
        """
        if len(self.tiles) == 1:
            return 0, 1, 0, 0
        rows, columns = tile[0] * self.grid[0], tile[1] * self.grid[1]
        width, height = self.picture
        # Rounded to 7 digits before it is cut off: noise of the division must not take a row away.
        if width / height > columns / rows:
            free = (rows - int(round(height * (columns / width), 7))) // 2
            return free, rows - free, 0, columns
        free = (columns - int(round(width * (rows / height), 7))) // 2
        return 0, rows, free, columns - free

    def field(self, tile: Grid) -> Grid:
        """(rows, columns) of the field's tokens: what lies on the picture, shrunk where it passes the limit."""
        top, bottom, left, right = self.kept(tile)
        rows, columns = bottom - top, right - left
        if self.limit is not None:
            ratio = math.sqrt(rows * columns / (self.limit * tile[0] * tile[1]))
            if ratio > 1.1:
                rows, columns = int(rows // ratio), int(columns // ratio)
        return rows, columns

    def runs(self, tokens: Callable[[int, int], int]) -> tuple[int, ...]:
        """The overview's tokens, the field's, and one that ends each of the field's rows, in one number.

        Raises:
            UserError: a tile's tokens are no square field.
        """
        one = tokens(*self.patches[0])
        side = math.isqrt(one)
        if side * side != one:
            raise UserError(
                f"the tiling scheme 'anyres' with unpad: true needs a square field of tokens from each tile, but the "
                f"connector makes {one} from {self.patches[0][0]} x {self.patches[0][1]} patches"
            )
        rows, columns = self.field((side, side))
        return (one + rows * columns + rows,)


@TILINGS.register("anyres")
class Anyres(Tiling):
    """Squares of a preset shape onto the picture, which keeps its aspect ratio between black bars; overview first.

    ``shapes`` are the (rows, columns) to choose from, or a number for all up to that many rows and columns: of
    those that show the picture with most of its pixels, the one with least filling, and then the first.
    With ``unpad`` the tiles' tokens form one field, those on the bars are dropped and a learned token ends each
    row; ``limit`` shrinks a field of more tokens than so many tiles (LLaVA-OneVision: shapes 6, limit 9).
    Without it one tile's tokens follow another's.

    A budget that is too small for any shape leaves the overview alone, behind which ``unpad`` puts one end of a row.
    It is stretched to the square; with ``ground``, a colour, the picture is filled up to a square around it first
    (LLaVA-OneVision, where a prompt holds several pictures).
    """

    shapes: Annotated[int, Field(ge=1, le=16)] | tuple[tuple[Side, Side], ...] = (
        (1, 2), (2, 1), (2, 2), (3, 1), (1, 3),
    )  # fmt: skip
    unpad: bool = True
    limit: int | None = Field(default=None, ge=1)
    ground: tuple[Level, Level, Level] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Anyres:
        if self.shapes == ():
            raise ValueError("shapes is empty; it lists at least one [rows, columns]")
        if self.limit is not None and not self.unpad:
            raise ValueError("limit shrinks the field that unpad: true makes; without it there is none")
        return self

    def listed(self) -> tuple[Grid, ...]:
        """All shapes, (rows, columns), in the order in which the first of equals is taken."""
        if not isinstance(self.shapes, int):
            return self.shapes
        return tuple((rows, columns) for rows in range(1, self.shapes + 1) for columns in range(1, self.shapes + 1))

    def _best(self, width: int, height: int, image_size: int) -> Grid:
        def merit(grid: Grid) -> tuple[int, int]:
            wide, high = grid[1] * image_size, grid[0] * image_size
            scale = min(wide / width, high / height)
            shown = min(int(width * scale) * int(height * scale), width * height)
            return shown, shown - wide * high

        return max(self.listed(), key=merit)

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The overview, then the grid's tiles row by row."""
        picture, square = (width, height), (image_size, image_size)
        grid = self._best(width, height, image_size)
        canvas = (grid[1] * image_size, grid[0] * image_size)
        scaled = _within(picture, canvas)
        margin = ((canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2)
        overview = Placement((0, 0, width, height), square, (0, 0), square)
        tiles = (overview, *windows_of(scaled, picture, margin, square, square, grid))
        if self.unpad:
            return Unpadded(tiles, picture, canvas, grid, patch_size, 0, BLACK, limit=self.limit)
        return Plan(tiles, picture, canvas, grid, patch_size, 0, BLACK)

    @property
    def ends_rows(self) -> bool:
        """With ``unpad``."""
        return self.unpad

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """The shapes of so many tiles; where there is none, the overview alone."""
        listed = self.listed()
        few = tuple(shape for shape in listed if shape[0] * shape[1] <= tiles)
        if len(few) == len(listed):
            return self
        if few and tiles > 1:
            return self.model_copy(update={"shapes": few})
        return Alone(unpad=self.unpad, ground=self.ground)


LARGEST = 8192
"""A longer side than this is scaled before it is filled: the square around it would be a giant."""


class Alone(Tiling):
    """What is left of ``anyres`` where no shape fits a picture's budget: the overview."""

    unpad: bool
    ground: tuple[int, int, int] | None

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """One tile; with ``unpad`` its row is ended."""
        picture, square = (width, height), (image_size, image_size)
        tile = Placement((0, 0, width, height), square, (0, 0), square)
        if self.ground is not None:
            longest = max(picture)
            left, top = (longest - width) // 2, (longest - height) // 2
            tile = Placement((-left, -top, longest - left, longest - top), square, (0, 0), square)
            if longest > LARGEST:
                scaled = (max(1, width * image_size // longest), max(1, height * image_size // longest))
                offset = ((image_size - scaled[0]) // 2, (image_size - scaled[1]) // 2)
                tile = Placement((0, 0, width, height), scaled, offset, square)
        if self.unpad:
            return Unpadded((tile,), picture, square, (1, 1), patch_size, 0, self.ground or GREY)
        return Plan((tile,), picture, square, (1, 1), patch_size, 0, self.ground or GREY)


def _within(picture: Size, canvas: Size) -> Size:
    """The picture's size where it fills one direction of the canvas; the other side is rounded up."""
    by_width, by_height = canvas[0] / picture[0], canvas[1] / picture[1]
    if by_width < by_height:
        return canvas[0], min(math.ceil(picture[1] * by_width), canvas[1])
    return min(math.ceil(picture[0] * by_height), canvas[0]), canvas[1]
