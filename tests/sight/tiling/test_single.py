from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.tiling import TILINGS, Placement, Single

SIDE = st.integers(1, 2000)


@settings(max_examples=100, deadline=None)
@given(SIDE, SIDE, st.sampled_from(["stretch", "letterbox", "pad", "crop"]), st.sampled_from([16, 64, 384]))
def test_every_fit_makes_one_square_within_picture_and_canvas(width: int, height: int, fit: str, side: int) -> None:
    (placed,) = make(TILINGS, {"type": "single", "fit": fit}, "tiling").plan(width, height, side)
    left, top, right, bottom = placed.crop
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert placed.canvas == (side, side)
    assert min(placed.scaled) >= 1
    assert placed.offset[0] >= 0 and placed.offset[0] + placed.scaled[0] <= side
    assert placed.offset[1] >= 0 and placed.offset[1] + placed.scaled[1] <= side
    if fit in ("stretch", "crop"):
        assert placed.scaled == placed.canvas and placed.offset == (0, 0)
    if fit == "crop":
        assert right - left == bottom - top == min(width, height)
        assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    else:
        assert placed.crop == (0, 0, width, height)
    if fit in ("letterbox", "pad"):
        # The longer side fills the square and the aspect ratio is kept to half a pixel.
        assert max(placed.scaled) == side
        scale = side / max(width, height)
        assert all(abs(got - max(1, size * scale)) <= 0.5 for got, size in zip(placed.scaled, (width, height)))
    if fit == "letterbox":
        free = (side - placed.scaled[0], side - placed.scaled[1])
        assert placed.offset == (free[0] // 2, free[1] // 2)
    if fit == "pad":
        assert placed.offset == (0, 0)


def test_the_four_fits_of_one_picture() -> None:
    whole = (0, 0, 100, 50)
    expected = {
        "stretch": Placement(whole, (40, 40), (0, 0), (40, 40)),
        "letterbox": Placement(whole, (40, 20), (0, 10), (40, 40)),
        "pad": Placement(whole, (40, 20), (0, 0), (40, 40)),
        "crop": Placement((25, 0, 75, 50), (40, 40), (0, 0), (40, 40)),
    }
    for fit, placement in expected.items():
        assert make(TILINGS, {"type": "single", "fit": fit}, "tiling").plan(100, 50, 40).tiles == (placement,)


def test_a_wrong_scheme_or_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"^tiling\.type: there is no tiling scheme 'sinle'; did you mean 'single'\?$"):
        make(TILINGS, {"type": "sinle"}, "tiling")
    with pytest.raises(UserError, match=r"^tiling has no key 'fitt'; did you mean 'fit'\?$"):
        make(TILINGS, {"type": "single", "fitt": "pad"}, "tiling")
    with pytest.raises(UserError, match=r"^tiling.fit = 'strech' is wrong: input should be 'stretch', 'letterbox', "):
        make(TILINGS, {"type": "single", "fit": "strech"}, "tiling")
    with pytest.raises(UserError, match=r"^tiling needs a type; known are: .*single"):
        make(TILINGS, {"fit": "pad"}, "tiling")


def test_a_scheme_is_a_value() -> None:
    assert Single(fit="pad") == Single(fit="pad") != Single()
