"""``tagged``: squares in rows and columns, each behind a tag that names its place, as Idefics3 and SmolVLM cut them.

Source of the method: Laurençon et al. 2024, "Building and better understanding vision-language models" (Idefics3),
Marafioti et al. 2025, "SmolVLM", and their image processors in transformers.
"""

from __future__ import annotations

import math

from pydantic import Field

from sightling.sight.tiling.base import TILINGS, Grid, Placement, Plan, Size, Tiling, windows_of

AROUND = "<fake_token_around_image>"
WHOLE = "<global-img>"

MOST_SQUARES = 32
"""The greatest ``squares``: the list of tags is its square."""


@TILINGS.register("tagged")
class Tagged(Tiling):
    """Squares that cover the picture, then the whole picture squashed into one.

    The picture's longer side is scaled to ``squares`` squares, small pictures are enlarged; then both sides are
    stretched to whole squares. A grid of one square is that square alone, and so is every picture without ``cut``.
    With ``max_tiles`` the longer side gets fewer squares, picture by picture, until the grid has no more.

    Before each square stands its tag, ``<row_1_col_1>``, before the whole picture ``<global-img>``; what opens and
    closes a picture is the chat template's. Tags are control tokens (SmolVLM); with ``words`` they are spelt in
    letters (Idefics3).
    """

    squares: int = Field(default=4, ge=1, le=MOST_SQUARES)
    cut: bool = True
    max_tiles: int | None = Field(default=None, ge=1)
    words: bool = False

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The squares row by row, then the whole picture."""
        picture, square = (width, height), (image_size, image_size)
        first, covered = self._sizes(width, height, image_size)
        rows, columns = covered[1] // image_size, covered[0] // image_size
        whole = (0, 0, width, height)
        if not self.cut or rows * columns == 1:
            only = Placement(whole, square, (0, 0), square, (first,))
            return Plan((only,), picture, square, (1, 1), patch_size, 0, between=((WHOLE,), ()))
        tiles = windows_of(covered, picture, (0, 0), square, square, (rows, columns), (first,))
        # The whole picture is made from what the squares were cut from.
        tiles.append(Placement(whole, square, (0, 0), square, (first, covered)))
        between = _tags((rows, columns))
        return Plan(tuple(tiles), picture, covered, (rows, columns), patch_size, len(tiles) - 1, between=between)

    def _sizes(self, width: int, height: int, side: int) -> tuple[Size, Size]:
        """What the picture is scaled to first, and what the squares cover."""
        for squares in range(self.squares, 0, -1):
            first = longer_side(width, height, squares * side)
            covered = whole_squares(*first, side)
            tiles = (covered[0] // side) * (covered[1] // side)
            if self.max_tiles is None or not self.cut or tiles <= self.max_tiles:
                break
        return first, covered

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """Grids of so many squares at most."""
        most = tiles if self.max_tiles is None else min(tiles, self.max_tiles)
        return self.model_copy(update={"max_tiles": most})

    def marks(self) -> tuple[str, ...]:
        """What opens a tile, and the tags of every place unless they are words."""
        if self.words:
            return (AROUND,)
        places = [(row, column) for row in range(1, self.squares + 1) for column in range(1, self.squares + 1)]
        return (AROUND, WHOLE, *(tag(*place) for place in places if self.cut))


def tag(row: int, column: int) -> str:
    """What stands before the square of a row and a column, counted from 1."""
    return f"<row_{row}_col_{column}>"


def longer_side(width: int, height: int, length: int) -> Size:
    """The size with its longer side of that length; the other is cut off, then made even, and is at least 1."""
    shape = width / height
    if width >= height:
        other = int(length / shape)
        return length, max(1, other + other % 2)
    other = int(length * shape)
    return max(1, other + other % 2), length


def whole_squares(width: int, height: int, side: int) -> Size:
    """Sides rounded up to squares: the longer one first, the other one from what it has become."""
    shape = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return width, math.ceil(int(width / shape) / side) * side
    height = math.ceil(height / side) * side
    return math.ceil(int(height * shape) / side) * side, height


def _tags(grid: Grid) -> tuple[tuple[str, ...], ...]:
    """Words before, between and behind the tiles: a line break ends a row of squares, another one all of them."""
    rows, columns = grid
    words: list[tuple[str, ...]] = []
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            opening = () if row == column == 1 else (AROUND,)
            ended = ("\n",) if column == 1 and row > 1 else ()
            words.append((*ended, *opening, tag(row, column)))
    return (*words, ("\n", "\n", AROUND, WHOLE), ())
