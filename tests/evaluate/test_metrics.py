from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.evaluate.metrics import Bootstrap, Majority, chance, is_right, normalise, wilson


@pytest.mark.parametrize(
    ("said", "answer"),
    [("Red.", "red"), (" two  circles ", "two circles"), ("是。", "是"), ("YES!", "yes"), ("e\u0301", "é")],
)
def test_equal_answers(said: str, answer: str) -> None:
    assert is_right(said, [answer])


@pytest.mark.parametrize(("said", "answer"), [("red circle", "red"), ("2", "12"), ("是", "否"), ("", "red")])
def test_other_answers(said: str, answer: str) -> None:
    assert not is_right(said, [answer])


def test_one_of_several_accepted_answers_is_enough() -> None:
    assert is_right("grey", ["gray", "grey"])
    assert normalise("?!") == "?!"


# From Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_by_the_published_examples(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=40, deadline=None)
def test_wilson_holds_the_share_and_stays_a_share(pair: tuple[int, int]) -> None:
    hits, n = pair
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low < high


def test_wilson_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 hits among 0"):
        wilson(0, 0)


def test_repeating_a_pictures_questions_adds_no_certainty() -> None:
    hits = np.random.default_rng(0).random(200) < 0.7
    bootstrap = Bootstrap(200)
    once = bootstrap.share(range(200), hits)
    ten = bootstrap.share(np.repeat(np.arange(200), 10), np.repeat(hits, 10))
    assert ten.value == pytest.approx(once.value)
    assert ten.high - ten.low == pytest.approx(once.high - once.low, rel=0.1)
    assert (once.n, ten.n, ten.pictures) == (200, 2000, 200)


def test_bootstrap_agrees_with_the_textbook_for_ratios() -> None:
    rng = np.random.default_rng(1)
    things = rng.integers(1, 5, 400)
    right = rng.binomial(things, 0.8)
    found = Bootstrap(400).share(range(400), right, things)
    share = right.sum() / things.sum()
    error = np.sqrt(((right - share * things) ** 2).sum()) / things.sum()
    assert found.value == pytest.approx(share)
    assert (found.low, found.high) == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.004)


def test_a_perfect_score_is_not_certain() -> None:
    found = Bootstrap(30).share(np.repeat(np.arange(30), 4), np.ones(120))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(30, 30)[0])


def test_what_two_have_in_common_cancels() -> None:
    rng = np.random.default_rng(2)
    first = (rng.random(300) < 0.7).astype(float)
    second = first.copy()
    second[:15] = 1 - second[:15]
    found = Bootstrap(300).difference(range(300), first, range(300), second)
    assert found.low <= found.value <= found.high
    unpaired = Bootstrap(600).difference(range(300), first, range(300, 600), second)
    assert found.high - found.low < 0.5 * (unpaired.high - unpaired.low)


def test_two_perfect_scores_differ_by_nothing_known() -> None:
    found = Bootstrap(20).difference(range(20), np.ones(20), range(20), np.ones(20))
    assert found.value == 0
    assert found.low < 0 < found.high


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Bootstrap(3).share([0, 1], [0, 0], [0, 0])


def test_majority_prefers_the_text_it_has_met_often() -> None:
    majority = Majority(least=3)
    for _ in range(3):
        majority.learn("shape", "en", ("circle", "square"), "What shape is it?", "circle")
    for text in "abcd":
        majority.learn("shape", "en", ("circle", "square"), text, "square")
    assert majority.guess("shape", "en", ("circle", "square"), "what shape is it") == "circle"
    assert majority.guess("shape", "en", ("circle", "square"), "a") == "square"
    assert majority.guess("shape", "en", ("star",), "new") == "square"
    assert majority.guess("count", "en", ("1",), "new") == ""


def test_majority_in_hindsight_knows_no_texts() -> None:
    majority = Majority(texts=False)
    for number in range(10):
        majority.learn("name", "en", (), f"question {number}", "cat" if number < 6 else "dog")
    assert majority.ranked("name", "en", (), "question 9") == ["cat", "dog"]


def test_chance() -> None:
    assert chance([("a", "b"), ("a", "b", "c", "d")]) == pytest.approx(0.375)
    assert chance([("a", "b"), ()]) is None
