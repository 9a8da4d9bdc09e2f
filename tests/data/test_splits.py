from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightling.data.sample import Picture, Sample, question
from sightling.data.splits import hold_out, picture_groups
from sightling.errors import UserError


def about(root: str, *numbers: int) -> Sample:
    return question(
        "Q", *(Picture(path=Path(root) / f"{number}.png") for number in numbers), answer="A", numbers=numbers
    )


@given(
    shown=st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=4, max_size=40),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_no_picture_is_on_both_sides(shown: list[list[int]], fraction: float, seed: int) -> None:
    samples = [about("/data", *numbers) for numbers in shown]
    groups = {group for group in picture_groups(samples) if group is not None}
    if len(groups) < 2:
        with pytest.raises(UserError, match="and 2 are needed"):
            hold_out(samples, fraction, "picture", seed)
        return
    kept, held = hold_out(samples, fraction, "picture", seed)
    assert sorted(map(id, kept + held)) == sorted(map(id, samples))
    sides = [{picture.path for sample in side for picture in sample.pictures()} for side in (kept, held)]
    assert not sides[0] & sides[1]
    assert kept and held and all(list(sample.pictures()) for sample in held)
    held_groups = {group for group in picture_groups(held)}
    assert abs(len(held_groups) - fraction * len(groups)) <= 1


def test_a_split_depends_on_neither_order_nor_place() -> None:
    def held(root: str, numbers: list[int], seed: int = 0) -> set[int]:
        return {sample.meta["numbers"][0] for sample in hold_out([about(root, n) for n in numbers], 0.2, seed=seed)[1]}

    numbers = list(range(50))
    assert len(held("/a", numbers)) == 10
    assert held("/a", numbers) == held("/somewhere/else/b", numbers[::-1]) != held("/a", numbers, seed=1)
    # A golden value: runs and reports made with it stay comparable.
    assert sorted(held("/a", list(range(20)))) == [0, 1, 14, 16]


def test_by_meta() -> None:
    samples = [question(f"Q{n}", answer="A", directory=str(n % 5)) for n in range(40)]
    kept, held = hold_out(samples, 0.2, "directory")
    assert len({sample.meta["directory"] for sample in held}) == 1
    assert not {s.meta["directory"] for s in held} & {s.meta["directory"] for s in kept}
    assert [s.turns[0].text for s in kept] == sorted((s.turns[0].text for s in kept), key=lambda text: int(text[1:]))


def test_crops_and_copies_are_one_picture() -> None:
    whole, crop = Picture(path=Path("/a/0.png")), Picture(path=Path("/a/0.png"), box=(0, 0, 1, 1))
    assert len(set(picture_groups([question("Q", whole), question("Q", crop)]))) == 1
    same = [Picture(data=b"x"), Picture(data=b"x")]
    assert len(set(picture_groups([question("Q", picture) for picture in same]))) == 1
    equal = [Picture(image=Image.new("RGB", (2, 2))) for _ in range(2)]
    assert len(set(picture_groups([question("Q", picture) for picture in equal]))) == 1
    assert picture_groups([question("Q")]) == [None]


def test_files_and_bytes_can_be_split_together() -> None:
    samples = [question("Q", Picture(path=Path("/a/b/0.png"))), question("Q", Picture(data=b"x"))]
    kept, held = hold_out(samples, 0.5)
    assert len(kept) == len(held) == 1


def test_what_cannot_be_split() -> None:
    samples = [question("Q", answer="A", family="color")] * 3
    with pytest.raises(UserError, match="sample 0 has no such meta key; did you mean 'family'"):
        hold_out(samples, 0.5, "famly")
    with pytest.raises(UserError, match="the samples have 1 different values, and 2 are needed"):
        hold_out(samples, 0.5, "family")
    for fraction in (0, 1, -1):
        with pytest.raises(UserError, match="expected one between 0 and 1"):
            hold_out(samples, fraction, "family")
