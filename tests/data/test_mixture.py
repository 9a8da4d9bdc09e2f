from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.data.mixture import BLOCK, Mixture, MixtureOptions
from sightling.data.sample import Sample, question
from sightling.errors import UserError
from sightling.parts import validate


class Numbers:
    """Groups that say their number; ``length`` 0 is endless."""

    def __init__(self, length: int = 0) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def group(self, index: int) -> list[Sample]:
        return [question(str(index))]


class Backwards(Numbers):
    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        return np.arange(self.length)[::-1]


@given(weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=4), seed=st.integers(0, 5), block=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_shares_are_exact_over_a_block(weights: list[float], seed: int, block: int) -> None:
    mixture = Mixture([(Numbers(), weight) for weight in weights], seed)
    drawn = Counter(mixture.pick(block * BLOCK + place)[0] for place in range(BLOCK))
    assert all(abs(drawn[n] - BLOCK * weight / sum(weights)) <= 1 for n, weight in enumerate(weights))


def test_a_finite_source_is_walked_through_before_it_comes_again() -> None:
    mixture = Mixture([(Numbers(7), 1), (Numbers(), 2), (Numbers(7), 1)], seed=3)
    walks: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for index in range(3 * BLOCK):
        number, inner = mixture.pick(index)
        walks[number].append(inner)
    assert walks[1] == list(range(len(walks[1])))
    for number in (0, 2):
        passes = [walks[number][start : start + 7] for start in range(0, len(walks[number]) - 7, 7)]
        assert all(sorted(each) == list(range(7)) for each in passes)
        assert len({tuple(each) for each in passes}) > len(passes) / 2
    assert walks[0] != walks[2]


def test_a_group_depends_on_index_and_seed_alone() -> None:
    def make(seed: int) -> Mixture:
        return Mixture([(Numbers(50), 1), (Numbers(), 1)], seed)

    straight = [make(1).pick(index) for index in range(200)]
    jumping = make(1)
    assert [jumping.pick(index) for index in reversed(range(200))] == straight[::-1]
    assert [pickle.loads(pickle.dumps(jumping)).pick(index) for index in range(200)] == straight
    assert [make(2).pick(index) for index in range(200)] != straight
    assert jumping.group(5)[0].turns[0].text == str(straight[5][1])
    assert len(jumping) == 0


def test_a_source_may_say_in_which_order_it_is_cheap_to_read() -> None:
    mixture = Mixture([(Backwards(5), 1)])
    assert [mixture.pick(index)[1] for index in range(10)] == [4, 3, 2, 1, 0] * 2


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match="needs at least one source"):
        Mixture([])
    with pytest.raises(UserError, match="source 1 of the mixture has the weight 0; expected one above 0"):
        Mixture([(Numbers(), 1), (Numbers(), 0)])
    with pytest.raises(UserError, match="the least share is 1 in 4096"):
        Mixture([(Numbers(), 1), (Numbers(), 1e-9)])


def test_the_section_of_a_recipe_is_checked_before_anything_is_opened() -> None:
    part = {"type": "files", "path": "nowhere.json"}
    validate(MixtureOptions, {"sources": {"mine": {**part, "weight": 2}}}, "data")
    with pytest.raises(UserError, match=r"data\.sources\.mine\.weight is -1; expected a number above 0"):
        validate(MixtureOptions, {"sources": {"mine": {**part, "weight": -1}}}, "data")
    with pytest.raises(UserError, match=r"data\.sources\.mine has no key 'formt'; did you mean 'format'"):
        validate(MixtureOptions, {"sources": {"mine": {**part, "formt": "llava"}}}, "data")
    with pytest.raises(UserError, match=r"there is no data source 'flies'; did you mean 'files'"):
        validate(MixtureOptions, {"sources": {"mine": {"type": "flies"}}}, "data")
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        validate(MixtureOptions, {"sources": {"mine": part}}, "data").open(0)
