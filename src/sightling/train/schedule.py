"""Learning-rate schedules as pure functions of the step, under the names and with the values of transformers.

``factor(step)`` multiplies the learning rate of update ``step`` (the first is 0). As in transformers'
schedules, a warm-up's first update has factor 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import ConfigDict, Field

from sightling.errors import UserError
from sightling.parts import Part

ScheduleName = Literal["constant", "linear", "cosine", "warmup_stable_decay"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


class ScheduleOptions(Part):
    """``lr_scheduler_kwargs``: what the shapes may be told besides the warm-up.

    ``decay_ratio`` is the share of the stage that ``warmup_stable_decay`` decays over.
    """

    model_config = ConfigDict(strict=True)

    decay_ratio: float = Field(default=0.2, ge=0, le=1)
    decay_type: Literal["linear", "cosine", "1-sqrt"] = "linear"
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True)
class Schedule:
    """A schedule laid out over a stage of ``total`` updates, ``warmup`` of them rising from 0 to 1."""

    name: ScheduleName
    total: int
    warmup: int = 0
    options: ScheduleOptions = field(default_factory=ScheduleOptions)

    def __post_init__(self) -> None:
        if self.warmup + self.decay > self.total:
            decay = f" and a decay of {self.decay}" if self.decay else ""
            raise UserError(
                f"a warm-up of {self.warmup} steps{decay} does not fit into a stage of {self.total}; "
                "lower warmup_steps, warmup_ratio or lr_scheduler_kwargs.decay_ratio"
            )

    @property
    def decay(self) -> int:
        """Updates that ``warmup_stable_decay`` spends falling; 0 for the other shapes."""
        return round(self.options.decay_ratio * self.total) if self.name == "warmup_stable_decay" else 0

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at update ``step``, from 0 to 1."""
        if step < self.warmup:
            return step / self.warmup
        floor = self.options.min_lr_ratio
        return floor + (1.0 - floor) * _SHAPES[self.name](self, step)


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


def _progress(schedule: Schedule, step: int) -> float:
    return min(1.0, (step - schedule.warmup) / max(1, schedule.total - schedule.warmup))


def _linear(schedule: Schedule, step: int) -> float:
    return 1.0 - _progress(schedule, step)


def _cosine(schedule: Schedule, step: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * _progress(schedule, step)))


def _warmup_stable_decay(schedule: Schedule, step: int) -> float:
    # Source: Hu et al. 2024, MiniCPM (arXiv 2404.06395); the shapes of the fall as transformers names them.
    start = schedule.total - schedule.decay
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, schedule.decay))
    if schedule.options.decay_type == "linear":
        return 1.0 - progress
    if schedule.options.decay_type == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - math.sqrt(progress)


_SHAPES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "warmup_stable_decay": _warmup_stable_decay,
}


def warmup_length(total: int, warmup_steps: int, warmup_ratio: float) -> int:
    """Updates of warm-up: ``warmup_steps`` where it is given, else the ratio of the stage, rounded up."""
    return warmup_steps if warmup_steps > 0 else math.ceil(total * warmup_ratio)
