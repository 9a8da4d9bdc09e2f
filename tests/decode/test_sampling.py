from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sightling.decode.sampling import Chooser, Sampling, shaped
from sightling.errors import UserError

CPU = torch.device("cpu")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 3.0), st.integers(0, 40), st.floats(0.05, 1.0), st.floats(0.0, 0.9),
       st.sampled_from([30, 700]))  # fmt: skip
def test_the_same_distribution_as_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, vocabulary: int
) -> None:
    scores = 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed))
    ids = torch.zeros(1, 1, dtype=torch.long)
    expected = TemperatureLogitsWarper(temperature)(ids, scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1.0:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(ids, expected)
    ours = shaped(scores[0], Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.allclose(ours, expected[0].softmax(-1), atol=1e-6)


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    scores = torch.randn(1, 20, generator=torch.Generator().manual_seed(1))
    seen = [3, 5, 5, 7, int(scores.argmax())]
    expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([seen]), scores.clone())
    chooser = Chooser(Sampling(repetition_penalty=1.8), seen, [], CPU)
    assert chooser.choose(scores[0]) == int(expected.argmax())
    # What was chosen counts as seen.
    again = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([[*seen, int(expected.argmax())]]), scores.clone())
    assert chooser.choose(scores[0]) == int(again.argmax())


def test_a_seed_fixes_the_draws_and_none_does_not() -> None:
    scores = torch.zeros(1000)

    def drawn(seed: int | None) -> list[int]:
        chooser = Chooser(Sampling(temperature=1.0, seed=seed), [], [], CPU)
        return [chooser.choose(scores) for _ in range(20)]

    assert drawn(7) == drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.0}, {"temperature": 1e-30}, {"temperature": 1e-320}, {"temperature": 1.0, "top_k": 1}],
)
def test_a_forbidden_token_is_never_chosen(options: dict[str, Any]) -> None:
    scores = torch.tensor([0.0, 50.0, 1.0])
    chooser = Chooser(Sampling(seed=0, **options), [], [1], CPU)
    assert 1 not in {chooser.choose(scores) for _ in range(30)}


def test_a_tiny_temperature_is_greedy() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(3))
    assert Chooser(Sampling(temperature=1e-30), [], [], CPU).choose(scores) == int(scores.argmax())


def test_broken_logits_are_told() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="not finite"):
            Chooser(Sampling(), [], [], CPU).choose(torch.tensor([0.0, bad]))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
        ({"top_p": 0}, "top_p = 0"),
        ({"top_p": 1.01}, "at most 1"),
        ({"min_p": 1.5}, "min_p = 1.5"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_k": 2.5}, "whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"max_new_tokens": True}, "max_new_tokens = True"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**63}, "below 2"),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_wrong_values_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        Sampling.of(options)
    assert told in str(error.value)
