from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler
from transformers.optimization import get_wsd_schedule

from sightling.errors import UserError
from sightling.train.schedule import SCHEDULES, Schedule, ScheduleOptions, warmup_length


def of_transformers(build: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
@pytest.mark.parametrize("warmup", [0, 7])
def test_values_are_those_of_transformers(ours: Any, theirs: str, warmup: int) -> None:
    expected = of_transformers(lambda optimizer: get_scheduler(theirs, optimizer, warmup, 40), 40)
    schedule = Schedule(ours, total=40, warmup=warmup)
    assert [schedule.factor(step) for step in range(40)] == pytest.approx(expected)


@pytest.mark.parametrize("decay_type", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_is_that_of_transformers(decay_type: Any) -> None:
    expected = of_transformers(lambda o: get_wsd_schedule(o, 5, 10, num_training_steps=40, decay_type=decay_type), 40)
    schedule = Schedule("warmup_stable_decay", 40, 5, ScheduleOptions(decay_ratio=0.25, decay_type=decay_type))
    assert [schedule.factor(step) for step in range(40)] == pytest.approx(expected)
    assert schedule.factor(40) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(1, 200), st.floats(0, 0.7), st.floats(0, 0.3), st.floats(0, 1))
def test_rises_then_never_rises_again(name: Any, total: int, warm: float, decay: float, floor: float) -> None:
    schedule = Schedule(name, total, int(warm * total), ScheduleOptions(decay_ratio=decay, min_lr_ratio=floor))
    factors = [schedule.factor(step) for step in range(total + 1)]
    rising, falling = factors[: schedule.warmup + 1], factors[schedule.warmup :]
    assert rising == sorted(rising)
    assert all(before >= after - 1e-12 for before, after in pairwise(falling))
    assert falling[0] == pytest.approx(1.0) or schedule.warmup == total
    assert all(factor >= floor - 1e-12 for factor in falling)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="warm-up of 11 steps does not fit into a stage of 10"):
        Schedule("linear", 10, 11)
    with pytest.raises(UserError, match="and a decay of 5"):
        Schedule("warmup_stable_decay", 10, 6, ScheduleOptions(decay_ratio=0.5))


def test_warmup_length() -> None:
    assert warmup_length(300, 0, 0.01) == 3
    assert warmup_length(301, 0, 0.01) == 4
    assert warmup_length(300, 20, 0.0) == 20
