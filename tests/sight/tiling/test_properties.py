"""What holds for every size: whole coverage, limits, patches; and what is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kit import noise
from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.preprocess import to_pixels
from sightling.sight.tiling import (
    TILINGS,
    Adaptive,
    Anyres,
    Bounded,
    Canvas,
    Dynamic,
    Native,
    Overlapping,
    Plan,
    Tiling,
)

MOST_LONG = 200

SQUARE = st.sampled_from([(224, 16), (448, 14), (384, 14), (56, 14), (16, 4)])
"""(image size, patch size) of an encoder."""

SCHEMES: dict[str, list[dict[str, Any]]] = {
    "single": [{}, {"fit": "letterbox"}, {"fit": "pad"}],
    "anyres": [{}, {"unpad": False}, {"shapes": 6, "limit": 9}, {"shapes": [[1, 1], [1, 4], [5, 2]]}],
    "dynamic": [{}, {"max_tiles": 40}, {"min_tiles": 3, "max_tiles": 6}, {"max_tiles": 1}, {"thumbnail": False}],
    "adaptive": [{}, {"scale": 448}, {"max_slices": 1}, {"max_slices": 2, "merge": 4}, {"max_slices": 30, "merge": 2}],
    "tagged": [{}, {"squares": 7, "max_tiles": 9}, {"cut": False}, {"squares": 2, "words": True}],
    "bounded": [{"shortest": 16}, {"shortest": 20, "longest": 90}],
    "native": [{}, {"min_pixels": 65536, "max_pixels": 16777216}, {"merge": 1, "min_pixels": 1, "max_pixels": 6000}],
    "canvas": [{}, {"max_tiles": 1}, {"max_tiles": 6}, {"max_tiles": 40}],
    "overlapping": [{}, {"overlap": 0}, {"overlap": 0.5, "max_tiles": 6}, {"overlap": 0.9, "thumbnail": False}],
}


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """1 to 20,000 pixels a side, at most 200 times as long as short; small sides as often as large ones."""
    short = draw(st.integers(1, 100) | st.integers(1, 20_000))
    long = draw(st.integers(short, min(20_000, MOST_LONG * short)))
    return (short, long) if draw(st.booleans()) else (long, short)


def schemes(*names: str) -> st.SearchStrategy[Tiling]:
    told = [{"type": name, **options} for name in names or SCHEMES for options in SCHEMES[name]]
    return st.sampled_from(told).map(lambda one: make(TILINGS, one, "tiling"))


def boxes(plan: Plan) -> list[tuple[int, int, int, int]]:
    """Where the tiles of the grid lie on the canvas, from the placements alone."""
    cells = [tile for index, tile in enumerate(plan) if index != plan.overview or len(plan) == 1]
    left, top = max(cell.offset[0] for cell in cells), max(cell.offset[1] for cell in cells)
    return [
        (left - cell.offset[0], top - cell.offset[1], left - cell.offset[0] + cell.canvas[0],
         top - cell.offset[1] + cell.canvas[1])
        for cell in cells
    ]  # fmt: skip


def shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    """Pixels that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, wide) * max(0, high)


def test_the_schemes_of_the_house_are_all_here() -> None:
    assert set(SCHEMES) <= set(TILINGS.names())
    assert set(SCHEMES) == {
        "single", "anyres", "dynamic", "adaptive", "tagged", "bounded", "native", "overlapping", "canvas",
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(schemes("single", "anyres", "dynamic", "adaptive", "tagged", "bounded", "native", "canvas"), sizes(), SQUARE)
def test_tiles_cover_the_canvas_once(scheme: Tiling, size: tuple[int, int], square: tuple[int, int]) -> None:
    assume(square[1] < 16 or not isinstance(scheme, Native) or scheme.max_pixels >= 16 * 16)
    plan = scheme.plan(*size, *square)
    found = boxes(plan)
    assert tuple(found) == plan.windows and len(found) == plan.grid[0] * plan.grid[1]
    assert all(min(box[:2]) >= 0 and box[2] <= plan.canvas[0] and box[3] <= plan.canvas[1] for box in found)
    # Within the canvas, apart from each other and together as large as it: no gap, no overlap.
    assert sum((box[2] - box[0]) * (box[3] - box[1]) for box in found) == plan.canvas[0] * plan.canvas[1]
    assert not any(shared(one, other) for index, one in enumerate(found) for other in found[:index])
    # Row by row.
    assert found == sorted(found, key=lambda box: (box[1], box[0]))


@settings(max_examples=150, deadline=None)
@given(schemes("overlapping"), sizes(), SQUARE)
def test_overlapping_windows_cover_the_canvas_and_share_what_was_told(
    scheme: Overlapping, size: tuple[int, int], square: tuple[int, int]
) -> None:
    plan = scheme.plan(*size, *square)
    rows, columns = plan.grid
    share = int(scheme.overlap * square[0])
    found = boxes(plan)
    assert tuple(found) == plan.windows and len(found) == rows * columns
    assert found == sorted(found, key=lambda box: (box[1], box[0]))
    assert {box[2] - box[0] for box in found} == {box[3] - box[1] for box in found} == {square[0]}
    for axis, count in ((0, columns), (1, rows)):
        starts = sorted({box[axis] for box in found})
        assert len(starts) == count and starts[0] == 0 and starts[-1] + square[0] == plan.canvas[axis]
        assert all(left + square[0] - right == share for left, right in pairwise(starts))


@settings(max_examples=150, deadline=None)
@given(sizes(), SQUARE, st.integers(1, 20), st.booleans())
def test_without_an_overlap_it_is_dynamic(
    size: tuple[int, int], square: tuple[int, int], most: int, thumbnail: bool
) -> None:
    ours = Overlapping(overlap=0, max_tiles=most, thumbnail=thumbnail).plan(*size, *square)
    assert ours == Dynamic(max_tiles=most, thumbnail=thumbnail).plan(*size, *square)


@settings(max_examples=200, deadline=None)
@given(schemes(), sizes(), SQUARE)
def test_limits_are_kept_and_sides_are_whole_patches(
    scheme: Tiling, size: tuple[int, int], square: tuple[int, int]
) -> None:
    assume(square[1] < 16 or not isinstance(scheme, Native) or scheme.max_pixels >= 16 * 16)
    side, patch = square
    plan = scheme.plan(*size, *square)
    assert plan == scheme.plan(*size, *square) == scheme.model_copy().plan(*size, *square)
    assert plan.picture == size and plan.patch_size == patch
    assert plan.patches == tuple((tile.canvas[1] // patch, tile.canvas[0] // patch) for tile in plan)
    assert all(min(*grid) >= 1 for grid in plan.patches) and all(min(tile.scaled) >= 1 for tile in plan)
    if isinstance(scheme, (Adaptive, Native)):
        unit = patch * scheme.merge
        assert all(length % unit == 0 and length > 0 for tile in plan for length in tile.canvas)
    elif isinstance(scheme, Bounded):
        assert all(scheme.shortest <= length <= scheme.longest for length in plan.canvas)
    else:
        assert {tile.canvas for tile in plan} == {(side, side)}
    if isinstance(scheme, Native):
        pixels = plan.canvas[0] * plan.canvas[1]
        assert len(plan) == 1 and pixels <= scheme.max_pixels
        # What is less than the least is so because the next larger size would be too large.
        assert pixels >= scheme.min_pixels or scheme.min_pixels * 4 > scheme.max_pixels
    if isinstance(scheme, Adaptive):
        assert len(plan) == 1 or 3 <= len(plan) <= scheme.max_slices + 1
        assert plan.overview == 0 and len(plan.between) == len(plan) + 1
    if isinstance(scheme, (Dynamic, Overlapping)):
        tiles = plan.grid[0] * plan.grid[1]
        assert scheme.min_tiles <= tiles <= scheme.max_tiles
        assert len(plan) == tiles + (scheme.thumbnail and tiles > 1)
        assert plan.overview == (0 if tiles == 1 else tiles if scheme.thumbnail else None)
    if isinstance(scheme, Anyres):
        assert plan.overview == 0 and len(plan) == plan.grid[0] * plan.grid[1] + 1
    if isinstance(scheme, Canvas):
        assert len(plan) == plan.grid[0] * plan.grid[1] <= scheme.max_tiles
        assert plan.overview == (0 if len(plan) == 1 else None)


@settings(max_examples=200, deadline=None)
@given(schemes(), sizes(), SQUARE, st.integers(1, 9))
def test_tokens_are_counted_from_each_tile(
    scheme: Tiling, size: tuple[int, int], square: tuple[int, int], side: int
) -> None:
    assume(square[1] < 16 or not isinstance(scheme, Native) or scheme.max_pixels >= 16 * 16)
    plan = scheme.plan(*size, *square)
    asked: list[tuple[int, int]] = []

    def tokens(rows: int, columns: int) -> int:
        asked.append((rows, columns))
        return side * side

    counted = plan.count(tokens)
    if isinstance(scheme, Anyres) and scheme.unpad:
        rows, columns = plan.field((side, side))  # type: ignore[attr-defined]
        assert counted == side * side + rows * (columns + 1)
        assert 0 <= rows <= side * plan.grid[0] and 0 <= columns <= side * plan.grid[1]
        if scheme.limit:
            assert rows * columns <= 1.1**2 * scheme.limit * side * side + 1e-6
        return
    assert tuple(asked) == plan.patches
    words = sum(map(len, plan.between))
    assert counted == len(plan) * side * side + words
    if isinstance(scheme, Adaptive):
        assert words == 2 * len(plan) + plan.grid[0] - 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), SQUARE, st.sampled_from([{}, {"unpad": False}]))
def test_anyres_keeps_the_aspect_ratio_and_the_middle(
    width: int, height: int, square: tuple[int, int], options: dict[str, Any]
) -> None:
    plan = Anyres(**options).plan(width, height, *square)
    scaled = plan.cells[0].scaled
    # One direction is full, the other is that of the same scale to a pixel.
    assert scaled[0] == plan.canvas[0] or scaled[1] == plan.canvas[1]
    assert all(have <= most for have, most in zip(scaled, plan.canvas))
    scale = min(plan.canvas[0] / width, plan.canvas[1] / height)
    assert abs(scaled[0] - width * scale) <= 1 and abs(scaled[1] - height * scale) <= 1
    left, top = plan.cells[0].offset
    assert plan.canvas[0] - scaled[0] - 2 * left in (0, 1) and plan.canvas[1] - scaled[1] - 2 * top in (0, 1)


@settings(max_examples=150, deadline=None)
@given(sizes(), SQUARE, st.integers(1, 12))
def test_a_canvas_shows_a_whole_picture_in_its_upper_left(
    size: tuple[int, int], square: tuple[int, int], most: int
) -> None:
    side = square[0]
    plan = Canvas(max_tiles=most).plan(*size, *square)
    (scaled,) = {tile.scaled for tile in plan}
    assert all(tile.crop == (0, 0, *size) for tile in plan) and plan[0].offset == (0, 0)
    assert all(have <= room for have, room in zip(scaled, plan.canvas, strict=True))
    scale = max(scaled[0] / size[0], scaled[1] / size[1])
    # The thinnest are held at one pixel.
    assert min(scaled) == 1 or all(abs(have - own * scale) <= 1 for have, own in zip(scaled, size, strict=True))
    if max(size) <= side:
        # A picture of less than a square is enlarged to one.
        assert plan.grid == (1, 1) and max(scaled) == side
    elif any(size[0] <= columns * side and size[1] <= rows * side for rows, columns in grids_of(most)):
        assert scaled == size
    else:
        assert scaled[0] == plan.canvas[0] or scaled[1] == plan.canvas[1]
        # No other canvas shows more of it.
        best = max(min(columns * side / size[0], rows * side / size[1]) for rows, columns in grids_of(most))
        assert min(plan.canvas[0] / size[0], plan.canvas[1] / size[1]) == pytest.approx(best)


def grids_of(most: int) -> list[tuple[int, int]]:
    return [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most + 1) if rows * columns <= most]


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("name", ["dynamic", "anyres"])
def test_tiles_laid_side_by_side_are_the_picture(name: str, grid: tuple[int, int]) -> None:
    rows, columns = grid
    image = noise(columns * 16, rows * 16, seed=5)
    options: dict[str, Any] = {"dynamic": {"thumbnail": False}, "anyres": {"unpad": False, "shapes": [grid]}}[name]
    plan = make(TILINGS, {"type": name, **options}, "tiling").plan(*image.size, 16, 4)
    assert plan.grid == grid
    tiles = to_pixels(image, plan)[-rows * columns :]
    laid = torch.cat([torch.cat(list(row), dim=2) for row in tiles.split(columns)], dim=1)
    whole = to_pixels(image, make(TILINGS, {"type": "native", "merge": 1, "min_pixels": 1}, "tiling").plan(
        *image.size, 16, 4))  # fmt: skip
    assert torch.equal(laid, whole[0]) and laid.shape == (3, rows * 16, columns * 16)


def test_bars_are_black_and_a_tile_of_nothing_else_is_too() -> None:
    image = noise(48, 3, seed=6)
    plan = Anyres(unpad=False, shapes=((3, 3),)).plan(48, 3, 16, 4)
    tiles = to_pixels(image, plan)
    assert plan.cells[0].scaled == (48, 3) and plan.cells[0].offset == (0, 22)
    assert (tiles[1:4] == 0).all() and (tiles[7:] == 0).all()
    middle = torch.cat(list(tiles[4:7]), dim=2)
    assert (middle[:, :6] == 0).all() and (middle[:, 9:] == 0).all() and (middle[:, 6:9] != 0).any()


@pytest.mark.parametrize("square", [(14, 14), (15, 14)])
def test_native_ends_at_200_to_1(square: tuple[int, int]) -> None:
    assert Native().plan(200, 1, *square).patches == ((2, 58),)
    with pytest.raises(UserError, match=r"^a picture of 1 x 201 pixels is too long for the tiling scheme 'native': "):
        Native().plan(1, 201, *square)


def test_native_keeps_its_limit_where_a_short_side_is_held_at_one_cell() -> None:
    plan = Native(min_pixels=784, max_pixels=28 * 28 * 10).plan(2000, 10, 224, 14)
    assert plan.canvas == (280, 28)
    with pytest.raises(UserError, match=r"^tiling.max_pixels = 783 is less than one cell of 28 x 28 pixels$"):
        Native(min_pixels=1, max_pixels=783).plan(30, 30, 224, 14)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"type": "dynamc"}, r"tiling.type: there is no tiling scheme 'dynamc'; did you mean 'dynamic'\?"),
        ({"type": "dynamic", "max_tile": 6}, r"tiling has no key 'max_tile'; did you mean 'max_tiles'\?"),
        ({"type": "dynamic", "max_tiles": 0}, "tiling.max_tiles = 0 is wrong: input should be greater than .* 1"),
        ({"type": "dynamic", "max_tiles": 257}, "tiling.max_tiles = 257 is wrong: input should be less than .* 256"),
        ({"type": "dynamic", "min_tiles": 7, "max_tiles": 6}, "tiling: min_tiles 7 is more than max_tiles 6"),
        ({"type": "overlapping", "overlap": 1}, "tiling.overlap = 1 is wrong: input should be less than .* 0.9"),
        ({"type": "overlapping", "overlap": -0.1}, "tiling.overlap = -0.1 is wrong: .* greater than or equal to 0"),
        ({"type": "anyres", "shapes": []}, r"tiling: shapes is empty; it lists at least one \[rows, columns\]"),
        ({"type": "anyres", "shapes": [[1, 0]]}, r"tiling.shapes.0.1 = 0 is wrong: input should be greater .* 1"),
        ({"type": "anyres", "shapes": [[1, 2, 3]]}, r"tiling.shapes.0 = \[1, 2, 3\] is wrong: .*at most 2 items.*"),
        ({"type": "anyres", "shapes": 0}, "tiling.shapes = 0 is wrong: input should be greater than or equal to 1"),
        ({"type": "anyres", "unpad": False, "limit": 9}, "tiling: limit shrinks the field that unpad: true makes; .*"),
        ({"type": "anyres", "limit": 0}, "tiling.limit = 0 is wrong: input should be greater than or equal to 1"),
        ({"type": "adaptive", "max_slices": 0}, "tiling.max_slices = 0 is wrong: .* 1"),
        ({"type": "adaptive", "merge": 0}, "tiling.merge = 0 is wrong: .* 1"),
        ({"type": "canvas", "max_tiles": 0}, "tiling.max_tiles = 0 is wrong: input should be greater than .* 1"),
        ({"type": "canvas", "max_tiles": 257}, "tiling.max_tiles = 257 is wrong: input should be less than .* 256"),
        ({"type": "native", "min_pixels": 9, "max_pixels": 8}, "tiling: min_pixels 9 is more than max_pixels 8"),
        ({"type": "tagged", "squares": 33}, "tiling.squares = 33 is wrong: input should be less than .* 32"),
        ({"type": "bounded", "shortest": 9, "longest": 8}, "tiling: shortest 9 is more than longest 8"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$") as refused:
        make(TILINGS, told, "tiling")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 3)])
def test_a_picture_without_pixels_is_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"^a picture of {size[0]} x {size[1]} pixels cannot be tiled; each side needs"):
        make(TILINGS, {"type": name}, "tiling").plan(*size, 224, 14)


def test_a_field_needs_square_tokens() -> None:
    with pytest.raises(UserError, match=r"unpad: true needs a square field .* makes 577 from 24 x 24 patches$"):
        Anyres().plan(500, 400, 336, 14).count(lambda rows, columns: rows * columns + 1)


@given(sizes(), st.integers(1, 12), st.sampled_from([name for name in SCHEMES if name != "single"]))
def test_a_budget_is_kept_and_a_large_one_changes_nothing(size: tuple[int, int], tiles: int, name: str) -> None:
    scheme = make(TILINGS, {"type": name}, "tiling")
    plan = scheme.plan(*size, 56, 14, tiles)
    if name == "native":
        assert plan.canvas[0] * plan.canvas[1] <= tiles * 56 * 56
        return
    assert len(plan.cells) <= tiles and (tiles > 1 or len(plan) == 1)
    assert scheme.plan(*size, 56, 14, 500) == scheme.plan(*size, 56, 14)


def test_a_giant_is_scaled_before_it_is_filled_up_to_a_square() -> None:
    scheme = Anyres(ground=(1, 2, 3))
    (tile,) = scheme.plan(20_000, 100, 56, 14, 1)
    assert (tile.crop, tile.scaled, tile.offset) == ((0, 0, 20_000, 100), (56, 1), (0, 27))
    (tile,) = scheme.plan(8192, 100, 56, 14, 1)
    assert (tile.crop, tile.scaled, tile.offset) == ((0, -4046, 8192, 4146), (56, 56), (0, 0))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_budget_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^a budget of 0 tiles is too few; a picture needs at least 1$"):
        make(TILINGS, {"type": name}, "tiling").plan(30, 20, 56, 14, 0)


def test_a_plan_is_a_frozen_sequence() -> None:
    plan = Dynamic().plan(900, 600, 448, 14)
    assert len(plan) == 7 and plan[-1] == list(plan)[6] and plan[1:3] == plan.tiles[1:3]
    assert hash(plan) == hash(Dynamic().plan(900, 600, 448, 14)) and plan != Dynamic().plan(600, 900, 448, 14)
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        plan.overview = 1  # type: ignore[misc]


def test_pixels_of_another_picture_make_no_tensor() -> None:
    with pytest.raises(ValueError, match=r"the plan is for a picture of \(20, 16\) pixels, not of \(16, 20\)"):
        to_pixels(noise(16, 20), Dynamic().plan(20, 16, 16, 4))


def test_tiles_of_several_sizes_fill_the_upper_left_of_one_tensor() -> None:
    image, plan = noise(60, 40), Adaptive().plan(60, 40, 16, 4)
    pixels = to_pixels(image, plan)
    assert len({tile.canvas for tile in plan}) > 1
    for one, tile in zip(pixels, plan, strict=True):
        width, height = tile.canvas
        alone = to_pixels(image, replace(plan, tiles=(tile,)))[0]
        assert alone.shape == (3, height, width) and torch.equal(one[:, :height, :width], alone)
        assert not one[:, height:].any() and not one[:, :, width:].any()
