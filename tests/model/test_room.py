"""What is said of the pictures of a text that is too long."""

from __future__ import annotations

import pytest

from kit import grow, picture
from sightling.data.sample import Picture
from sightling.model.room import pictures_told


def test_what_each_picture_needs_and_what_there_is_room_for() -> None:
    _, processor = grow(tiling={"type": "dynamic", "max_tiles": 3})
    square, wide, long = picture(0, 16, 16), picture(0, 33, 16), picture(0, 90, 20)
    counts = [processor.image_processor.count(*one.size()) for one in (square, wide, long)]
    assert counts == [16, 48, 64]
    small = Picture(image=long.image, tiles=1)
    told = {
        (): "",
        (wide,): "; its picture needs 48 visual tokens, and beside the 952 other tokens there is room for 48",
        (wide, wide): "; its 2 pictures need 48 visual tokens each, 96 in all, and beside the 904 other tokens there "
        "is room for 96",
        (square, wide, long, small): "; its 4 pictures need 16, 48, 64 and 16 visual tokens, 144 in all, and beside "
        "the 856 other tokens there is room for 144",
        (square, wide, long) * 3: "; its 9 pictures need 16 to 64 visual tokens each, 384 in all, and beside the 616 "
        "other tokens there is room for 384",
    }
    for pictures, words in told.items():
        assert pictures_told(processor, pictures, 1000, 1000) == words
    assert pictures_told(processor, (wide,), 1000, 900).endswith("other tokens there is room for 0")


@pytest.mark.parametrize("budget", [None, 1])
def test_a_picture_s_own_budget_is_what_it_needs(budget: int | None) -> None:
    _, processor = grow(tiling={"type": "dynamic", "max_tiles": 3})
    shown = Picture(image=picture(0, 90, 20).image, tiles=budget)
    assert f"needs {64 if budget is None else 16} visual tokens" in pictures_told(processor, (shown,), 200, 100)
