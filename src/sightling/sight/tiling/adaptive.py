"""``adaptive``: slices of the picture's own shape behind an overview, as MiniCPM-V cuts it.

Source of the method: Guo et al. 2024, "LLaVA-UHD", Yao et al. 2024, "MiniCPM-V", and the MiniCPM-V project.
"""

from __future__ import annotations

import math

from pydantic import Field

from sightling.sight.tiling.base import TILINGS, Grid, Placement, Plan, Size, Tiling, windows_of


@TILINGS.register("adaptive")
class Adaptive(Tiling):
    """An overview, then, for a picture of more pixels than ``scale`` x ``scale``, up to ``max_slices`` slices.

    Of the grids of about as many slices as such squares would cover the picture, the one is taken whose columns /
    rows is nearest to width / height, as logarithms. Overview and slices keep the aspect ratio at about ``scale`` x
    ``scale`` pixels. ``scale`` is the encoder's image size unless it is given. Sides are rounded, halves to even,
    to multiples of ``merge`` patches: 1 as MiniCPM-V 2.6 does, 2 as MiniCPM-V 4.6, whose encoder makes a feature of
    2 x 2 patches (or of one, in its finer mode).
    """

    max_slices: int = Field(default=9, ge=1, le=256)
    scale: int | None = Field(default=None, ge=1)
    merge: int = Field(default=1, ge=1)

    def arrange(self, width: int, height: int, image_size: int, patch_size: int) -> Plan:
        """The overview, then the slices row by row."""
        scale, unit = self.scale or image_size, patch_size * self.merge
        picture, whole = (width, height), (0, 0, width, height)
        grid = self._grid(width, height, scale)
        if grid is None:
            size = _fitted(width, height, scale, unit)
            only = Placement(whole, size, (0, 0), size)
            return Plan((only,), picture, size, (1, 1), patch_size, 0, between=(("<image>",), ("</image>",)))
        rows, columns = grid
        size = _fitted(width, height, scale, unit)
        # The slices' common size is what one cell of the picture is scaled to; the canvas follows from it.
        side = _fitted(_rounded(width, columns) / columns, _rounded(height, rows) / rows, scale, unit)
        canvas = (side[0] * columns, side[1] * rows)
        tiles = (Placement(whole, size, (0, 0), size), *windows_of(canvas, picture, (0, 0), side, side, grid))
        return Plan(tiles, picture, canvas, grid, patch_size, 0, between=_marks(grid))

    def _grid(self, width: int, height: int, scale: int) -> Grid | None:
        """(rows, columns) of the slices; None for a picture that the overview shows well enough."""
        about = min(math.ceil(width * height / (scale * scale)), self.max_slices)
        if about <= 1:
            return None
        shape = math.log(width / height)
        counts = [count for count in (about - 1, about, about + 1) if 1 < count <= self.max_slices]
        grids = [(count // columns, columns) for count in counts for columns in _divisors(count)]
        return min(grids, key=lambda grid: abs(shape - math.log(grid[1] / grid[0])))

    def marks(self) -> tuple[str, ...]:
        """MiniCPM-V's."""
        return ("<image>", "</image>", "<slice>", "</slice>")

    def unit(self, image_size: int, patch_size: int) -> Grid:
        """``merge`` patches."""
        return self.merge, self.merge

    def within(self, tiles: int, image_size: int, patch_size: int) -> Tiling:
        """So many slices at most; with 1 the overview alone."""
        return self.model_copy(update={"max_slices": min(tiles, self.max_slices)})


def _divisors(count: int) -> list[int]:
    return [number for number in range(1, count + 1) if count % number == 0]


def _rounded(length: float, unit: int) -> int:
    """To the nearest multiple of ``unit``, at least one; Python rounds halves to even, as the method does."""
    return max(round(length / unit) * unit, unit)


def _fitted(width: float, height: float, scale: int, unit: int) -> Size:
    """A size of the same shape and about ``scale`` x ``scale`` pixels, its sides multiples of ``unit``."""
    shape = width / height
    # Cut off in this order: the width follows from the height that was cut off already.
    high = int(scale / math.sqrt(shape))
    return _rounded(int(high * shape), unit), _rounded(high, unit)


def _marks(grid: Grid) -> tuple[tuple[str, ...], ...]:
    """MiniCPM-V's tokens around the overview and the slices; a line break ends each row of slices but the last."""
    rows, columns = grid
    marks: list[tuple[str, ...]] = [("<image>",), ("</image>", "<slice>")]
    for number in range(1, rows * columns):
        marks.append(("</slice>", "\n", "<slice>") if number % columns == 0 else ("</slice>", "<slice>"))
    return (*marks, ("</slice>",))
