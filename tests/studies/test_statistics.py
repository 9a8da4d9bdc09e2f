from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.evaluate.metrics import wilson
from sightling.studies.statistics import (
    Measured,
    combined,
    cost_difference,
    difference,
    mean,
    over_seeds,
    t_quantile,
    verdict,
)


@pytest.mark.parametrize(
    ("freedom", "known"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (1000, 1.9623)],
)
def test_student_s_t_is_that_of_the_tables(freedom: int, known: float) -> None:
    assert t_quantile(freedom) == pytest.approx(known, abs=1e-4)


def test_the_interval_over_seeds_by_hand() -> None:
    low, high = over_seeds([0.7, 0.8, 0.9]) or (0, 0)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-6)
    assert over_seeds([0.8]) is None
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile(0)


def test_the_interval_over_seeds_holds_the_truth_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (4000, 3))
    held = sum(low <= 0.5 <= high for low, high in (over_seeds(list(row)) or (1, 0) for row in drawn))
    assert 0.94 < held / 4000 < 0.96


def test_one_question_a_picture_has_wilson_s_interval() -> None:
    hits_SN = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    told = mean(hits_SN, np.arange(4))
    assert told.value == 0.625
    assert told.over_pictures == pytest.approx(wilson(2.5, 4))
    assert (told.seeds, told.n) == (2, 4)
    assert told.over_seeds is not None
    assert 0.0 <= told.over_seeds[0] < told.over_seeds[1] <= 1.0


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_difference_is_paired_and_turns_its_sign_with_its_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(0, 2, (3, 40)).astype(float) for _ in range(2))
    pictures = np.repeat(np.arange(20), 2)
    forth, back = difference(one, other, pictures), difference(other, one, pictures)
    assert forth.value == pytest.approx(-back.value)
    assert forth.over_seeds == pytest.approx(tuple(-end for end in reversed(back.over_seeds or ())))
    same = difference(one, one, pictures)
    assert (same.value, same.over_seeds) == (0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="cannot be paired"):
        difference(one, other[:, 1:], pictures)


def test_what_both_seeds_have_in_common_cancels() -> None:
    worse = np.array([[0.0] * 60 + [1.0] * 40, [0.0] * 20 + [1.0] * 80])
    better = worse.copy()
    better[:, 0:10] = 1.0
    told = difference(better, worse, np.arange(100))
    assert told.value == pytest.approx(0.1)
    assert told.over_seeds == pytest.approx((0.1, 0.1))
    assert verdict(told) == "supported"


@pytest.mark.parametrize(
    ("seeds", "pictures", "by", "expected"),
    [
        ((0.02, 0.1), (0.01, 0.1), 0.0, "supported"),
        ((0.02, 0.1), (-0.01, 0.1), 0.0, "undecided"),
        ((-0.02, 0.1), (0.01, 0.1), 0.0, "undecided"),
        ((-0.1, -0.02), (-0.1, 0.0), 0.0, "not supported"),
        ((0.02, 0.1), (0.01, 0.1), 0.05, "undecided"),
        ((0.02, 0.04), (0.01, 0.05), 0.05, "not supported"),
        (None, (0.01, 0.1), 0.0, "supported"),
        (None, None, 0.0, "undecided"),
    ],
)
def test_a_verdict_needs_every_interval(
    seeds: tuple[float, float] | None, pictures: tuple[float, float] | None, by: float, expected: str
) -> None:
    assert verdict(Measured(0.05, seeds, pictures, 3), by) == expected


def test_evaluations_weigh_the_same() -> None:
    parts = [Measured(0.1, None, (0.07, 0.14), 3, 10), Measured(0.3, None, (0.26, 0.33), 3, 1000)]
    told = combined(parts)
    assert told.value == pytest.approx(0.2)
    assert told.over_pictures == pytest.approx((0.2 - 0.025, 0.2 + 0.025))
    assert combined(parts[:1]) is parts[0]
    with pytest.raises(ValueError, match="nothing"):
        combined([])


def test_less_of_a_cost_is_a_gain() -> None:
    told = cost_difference([10.0, 12.0], [20.0, 22.0])
    assert (told.value, told.over_seeds, told.over_pictures) == (10.0, (10.0, 10.0), None)
    assert verdict(told, 9.0) == "supported"
