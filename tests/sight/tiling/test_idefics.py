"""``tagged`` and ``bounded``: what holds for every size, and Idefics3's and Idefics2's own rules and pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_against_transformers import PICTURES, sizes, whole
from test_properties import sizes as any_size
from transformers.image_utils import SizeDict
from transformers.models.idefics2.image_processing_pil_idefics2 import (
    Idefics2ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size as longest_edge
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from kit import noise
from sightling.errors import UserError
from sightling.sight.drawing import draw_plan
from sightling.sight.preprocess import to_pixels
from sightling.sight.tiling import Bounded, Plan, Tagged
from sightling.sight.tiling.tagged import AROUND, WHOLE

PLAIN = {"do_rescale": False, "do_normalize": False}


class Shape:
    """What transformers' rules ask of a picture."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (3, height, width)


class Sizes(Idefics3ImageProcessorPil):
    """Idefics3's rules without pixels: what would be scaled is told."""

    def resize(self, image: Any, size: Any, resample: Any = None, **told: Any) -> Any:
        return Shape(size.height, size.width)


@pytest.mark.parametrize(("side", "squares"), [(364, 4), (384, 4), (512, 4), (28, 3)])
def test_tagged_cuts_idefics3s_squares(side: int, squares: int) -> None:
    theirs, ours = Sizes(), Tagged(squares=squares)
    for width, height in sizes():
        plan = ours.plan(width, height, side)
        first = longest_edge(Shape(height, width), squares * side)
        told = theirs.resize_for_vision_encoder(Shape(*first), side)
        assert plan[0].steps[0][::-1] == first and plan.canvas[::-1] == told.shape[1:], (width, height)
        grid = (told.shape[1] // side, told.shape[2] // side)
        assert plan.grid == grid and len(plan) == grid[0] * grid[1] + (grid != (1, 1))


def text(plan: Plan, count: int) -> str:
    return "".join("<image>" * one if isinstance(one, int) else one for one in plan.pieces(lambda *grid: count))


def test_tags_stand_where_idefics3s_processor_puts_them() -> None:
    theirs = Idefics3Processor.__new__(Idefics3Processor)
    theirs.fake_image_token, theirs.image_token, theirs.global_image_tag = AROUND, "<image>", WHOLE
    theirs.image_seq_len = 3
    ours = Tagged()
    for width, height in sizes()[::50]:
        plan = ours.plan(width, height, 56, 14)
        rows, columns = plan.grid if len(plan) > 1 else (0, 0)
        told = theirs.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
        # What opens and closes a picture is the chat template's.
        assert AROUND + text(plan, 3) + AROUND == told
        assert {word for words in plan.between for word in words} <= {*ours.marks(), "\n"}


@settings(max_examples=200, deadline=None)
@given(any_size(), st.integers(1, 8), st.integers(1, 20), st.booleans())
def test_tagged_keeps_its_limits(size: tuple[int, int], squares: int, most: int, cut: bool) -> None:
    ours = Tagged(squares=squares, cut=cut)
    plan = ours.plan(*size, 56, 14)
    assert {tile.canvas for tile in plan} == {(56, 56)} and set(plan.patches) == {(4, 4)}
    assert plan.overview == len(plan) - 1 and max(plan.grid) <= (squares if cut else 1)
    assert plan.count(whole) == 16 * len(plan) + sum(map(len, plan.between))
    rows, columns = plan.grid
    assert len(plan) == 1 or sum(map(len, plan.between)) == 2 * len(plan) + (rows - 1) + 1
    assert plan.windows == tuple(
        (56 * column, 56 * row, 56 * column + 56, 56 * row + 56) for row in range(rows) for column in range(columns)
    )
    few = ours.plan(*size, 56, 14, most)
    assert few == Tagged(squares=squares, cut=cut, max_tiles=most).plan(*size, 56, 14)
    assert len(few.cells) <= most and (most < len(plan.cells) or few == plan)
    # One more square along the longer side would be too many, where there could be one more.
    more = max(few.grid) + 1
    if cut and more <= squares:
        assert len(Tagged(squares=more).plan(*size, 56, 14).cells) > most


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("cut", [True, False])
def test_tagged_cuts_idefics3s_pixels(size: tuple[int, int], cut: bool) -> None:
    image = noise(*size, seed=1)
    theirs = Idefics3ImageProcessorPil(
        size={"longest_edge": 84}, max_image_size={"longest_edge": 28}, do_image_splitting=cut, **PLAIN
    )
    told = torch.as_tensor(np.stack(theirs(image)["pixel_values"][0]))
    ours = to_pixels(image, Tagged(squares=3, cut=cut).plan(*size, 28, 14), resample="lanczos")
    assert torch.equal(ours, told.to(torch.uint8)) and torch.equal(told, told.round())


# ---- bounded


@pytest.mark.parametrize(("shortest", "longest"), [(378, 980), (14, 14), (30, 400)])
def test_bounded_sizes_are_idefics2s(shortest: int, longest: int) -> None:
    ours = Bounded(shortest=shortest, longest=longest)
    edges = SizeDict(shortest_edge=shortest, longest_edge=longest)
    for width, height in sizes():
        plan = ours.plan(width, height, 980, 14)
        assert plan.canvas[::-1] == get_resize_output_image_size(Shape(height, width), edges), (width, height)


@settings(max_examples=200, deadline=None)
@given(any_size(), st.integers(14, 60), st.integers(0, 200), st.booleans(), st.integers(1, 9))
def test_bounded_keeps_its_limits(
    size: tuple[int, int], shortest: int, more: int, quarters: bool, tiles: int
) -> None:
    ours = Bounded(shortest=shortest, longest=shortest + more, quarters=quarters)
    plan = ours.plan(*size, 56, 14)
    cut = quarters and min(size) > 1
    assert len(plan) == (5 if cut else 1) and plan.overview == len(plan) - 1
    assert plan.grid == ((2, 2) if cut else (1, 1))
    for tile, patches in zip(plan, plan.patches, strict=True):
        assert shortest <= min(tile.canvas) and max(tile.canvas) <= shortest + more and tile.scaled == tile.canvas
        assert patches == (tile.canvas[1] // 14, tile.canvas[0] // 14)
    assert plan.count(whole) == sum(rows * columns for rows, columns in plan.patches) + 4 * cut
    if cut:
        # The quarters cover the picture once.
        left, top, right, bottom = plan[0].crop
        assert (left, top) == (0, 0) and (right, bottom) == (size[0] // 2, size[1] // 2)
        upper = (0, 0, right, bottom), (right, 0, size[0], bottom)
        lower = (0, bottom, right, size[1]), (right, bottom, *size)
        assert plan.windows == (*upper, *lower) and plan.canvas == size
    few = ours.plan(*size, 56, 14, tiles)
    assert len(few.cells) <= tiles and (tiles < 4 or few == plan)
    assert tiles > 1 or max(few.canvas) <= max(56, shortest)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("split", [False, True])
def test_bounded_cuts_idefics2s_pixels(size: tuple[int, int], split: bool) -> None:
    image = noise(*size, seed=1)
    theirs = Idefics2ImageProcessorPil(
        size={"shortest_edge": 14, "longest_edge": 60}, do_image_splitting=split, do_pad=True, **PLAIN
    )
    told = theirs(image)
    plan = Bounded(shortest=14, longest=60, quarters=split).plan(*size, 28, 14)
    ours = to_pixels(image, plan, resample="bilinear")
    found_N, mask_N = told["pixel_values"][0], told["pixel_attention_mask"][0]
    for tile, one, found, mask in zip(plan, ours, found_N, mask_N, strict=True):
        width, height = tile.canvas
        assert mask.sum() == width * height
        assert np.array_equal(one[:, :height, :width].numpy(), found[:, :height, :width])


def test_a_picture_in_quarters_is_drawn_whole() -> None:
    image = noise(90, 61, seed=2)
    plan = Bounded(shortest=14, longest=60, quarters=True).plan(*image.size, 28, 14)
    drawn = draw_plan(image, plan, [3] * 5, "title", [])
    lefts = sorted({border[0] for border in drawn.borders})
    assert len(drawn.borders) == 4 and lefts == [drawn.origin[0], drawn.origin[0] + round(45 * drawn.scale)]


@pytest.mark.parametrize(
    ("shortest", "message"),
    [(13, r"^tiling.shortest = 13 is less than a patch of 14 pixels$"), (400, "shortest 400 is more than longest 300")],
)
def test_bounds_that_cannot_be_are_refused(shortest: int, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        Bounded(shortest=shortest, longest=300).plan(50, 40, 28, 14)
