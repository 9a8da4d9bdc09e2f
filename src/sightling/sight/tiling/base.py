"""What every tiling scheme offers: a plan from a size, before a pixel is decoded.

Sizes are (width, height) in pixels; grids are (rows, columns).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from sightling.errors import UserError
from sightling.parts import Part
from sightling.registry import Registry

Size = tuple[int, int]
Grid = tuple[int, int]
Box = tuple[int, int, int, int]

GREY = (127, 127, 127)
"""What fills a tile where the picture does not reach, unless the scheme says otherwise."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One encoder input made from a picture.

    ``crop`` (left, top, right, bottom), in the picture's pixels, is scaled to ``scaled`` (width, height)
    and pasted at ``offset`` on a canvas of ``canvas`` (width, height); what it does not cover is filled.
    A crop that reaches beyond the picture is filled there before it is scaled.
    A negative offset makes the canvas a window onto a scaled picture larger than itself: tiles of one
    picture are cut after it was scaled, so that nothing is blurred at their seams.
    ``steps`` are the sizes that the crop is scaled to, one after another, on the way to ``scaled``.
    """

    crop: Box
    scaled: Size
    offset: tuple[int, int]
    canvas: Size
    steps: tuple[Size, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan(Sequence[Placement]):
    """How one picture is cut: a sequence of its encoder inputs in the order they are fed.

    Attributes:
        tiles: the encoder inputs.
        picture: the picture's size.
        canvas: what the grid's tiles cover together, filling included.
        grid: (rows, columns) of the tiles that are cut from the canvas.
        patch_size: side of the encoder's patches in pixels.
        overview: which tile shows the whole picture at once; None when none does.
        fill: the colour where the picture does not reach.
        between: tokens of text before each tile and after the last one, where the scheme sets any.
    """

    tiles: tuple[Placement, ...]
    picture: Size
    canvas: Size
    grid: Grid
    patch_size: int
    overview: int | None = None
    fill: tuple[int, int, int] = GREY
    between: tuple[tuple[str, ...], ...] = ()

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Placement, ...]: ...
    def __getitem__(self, index: int | slice) -> Placement | tuple[Placement, ...]:
        return self.tiles[index]

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.tiles)

    @property
    def patches(self) -> tuple[Grid, ...]:
        """(rows, columns) of patches of each tile; what is left of a side that no patch fits is not looked at."""
        size = self.patch_size
        return tuple((tile.canvas[1] // size, tile.canvas[0] // size) for tile in self.tiles)

    @property
    def cells(self) -> tuple[Placement, ...]:
        """The tiles of the grid, row by row: all but an overview beside them."""
        if len(self.tiles) == 1:
            return self.tiles
        return tuple(tile for index, tile in enumerate(self.tiles) if index != self.overview)

    @property
    def windows(self) -> tuple[Box, ...]:
        """Where on the canvas each of ``cells`` lies: (left, top, right, bottom)."""
        left, top = self.cells[0].offset
        corners = [(left - cell.offset[0], top - cell.offset[1], cell.canvas) for cell in self.cells]
        return tuple((x, y, x + width, y + height) for x, y, (width, height) in corners)

    @property
    def laid(self) -> Placement:
        """The picture on the whole canvas."""
        cell = self.cells[0]
        return Placement(cell.crop, cell.scaled, cell.offset, self.canvas)

    def runs(self, tokens: Callable[[int, int], int]) -> tuple[int, ...]:
        """Visual tokens that follow each other, one number a tile, or one for all where they become one field."""
        return tuple(tokens(*grid) for grid in self.patches)

    def pieces(self, tokens: Callable[[int, int], int]) -> tuple[int | str, ...]:
        """The picture in the sequence: numbers of visual tokens, and the words around them, in order.

        ``tokens`` says how many a grid (rows, columns) of patches makes.
        """
        runs = self.runs(tokens)
        if not self.between:
            return (sum(runs),)
        found: list[int | str] = [*self.between[0]]
        for run, words in zip(runs, self.between[1:], strict=True):
            found += [run, *words]
        return tuple(found)

    def count(self, tokens: Callable[[int, int], int]) -> int:
        """Tokens of the whole picture, where ``tokens`` says how many a grid (rows, columns) of patches makes."""
        return sum(self.runs(tokens)) + sum(map(len, self.between))


class Tiling(Part):
    """A scheme with its options; subclasses register in :data:`TILINGS`."""

    def plan(self, width: int, height: int, image_size: int, patch_size: int = 1, tiles: int | None = None) -> Plan:
        """The encoder inputs, in order, for a picture of ``width`` x ``height`` pixels.

        Args:
            width: the picture's, in pixels.
            height: the picture's, in pixels.
            image_size: side of the encoder's square input in pixels.
            patch_size: side of the encoder's patches in pixels; left out, grids count pixels.
            tiles: this picture's budget, see :meth:`within`; left out, the scheme's own.

        Raises:
            UserError: a picture without pixels, one that this scheme cannot take, or a budget below 1.
        """
        if min(width, height) < 1:
            raise UserError(f"a picture of {width} x {height} pixels cannot be tiled; each side needs at least 1")
        scheme = self
        if tiles is not None:
            if tiles < 1:
                raise UserError(f"a budget of {tiles} tiles is too few; a picture needs at least 1")
            scheme = self.within(tiles, image_size, patch_size)
        return scheme.arrange(width, height, image_size, patch_size)

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """This scheme for a picture that may cost no more than so many tiles, an overview beside them not counted.

        A video's frames and the many pictures of one prompt get less each than a picture alone.
        """
        return self

    def unit(self, image_size: int, patch_size: int) -> Grid:
        """(rows, columns) of patches whose multiples the grids of all tiles of all pictures are.

        What can take this one in whole squares can take every picture's.
        """
        side = image_size // patch_size
        return side, side

    @abstractmethod
    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """What :meth:`plan` returns, for sides of at least 1."""

    def marks(self) -> tuple[str, ...]:
        """The control tokens among the words that plans put between tiles."""
        return ()

    @property
    def ends_rows(self) -> bool:
        """Whether plans join their tiles' tokens to one field whose rows a learned token ends."""
        return False


TILINGS: Registry[type[Tiling]] = Registry("tiling scheme")


def windows_of(
    scaled: Size,
    picture: Size,
    margin: tuple[int, int],
    side: Size,
    step: Size,
    grid: Grid,
    steps: tuple[Size, ...] = (),
) -> list[Placement]:
    """A grid's tiles, row by row: windows of size ``side``, ``step`` apart, onto the whole picture scaled.

    The scaled picture lies at ``margin`` on the canvas that the windows cover; ``steps`` as in :class:`Placement`.
    """
    whole = (0, 0, *picture)
    corners = [(column * step[0], row * step[1]) for row in range(grid[0]) for column in range(grid[1])]
    return [Placement(whole, scaled, (margin[0] - x, margin[1] - y), side, steps) for x, y in corners]
