"""What several seeds tell: means with intervals over seeds and over pictures, paired differences, verdicts.

Legend: ``S`` seeds, ``N`` questions.

Training seeds and evaluation pictures are two sources of doubt, so two intervals are told. Over seeds it is Student's
t interval of the values of each seed. Over pictures it is what a single evaluation tells of its accuracy (Wilson's
where each picture has one question, else the cluster bootstrap of :mod:`sightling.evaluate.metrics`), of answers that
are averaged over the seeds first. Differences are paired: the same seed, the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sightling.evaluate.metrics import Bootstrap

Interval = tuple[float, float]
Verdict = Literal["supported", "not supported", "undecided"]

_STRIPS = 2000


@lru_cache(maxsize=128)
def t_quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t distribution.

    Found by bisection on the integral of its density (Simpson's rule).

    Raises:
        ValueError: no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom give no interval")
    # With t = sqrt(f) tan(a) the integral has finite ends: the density becomes cos(a)^(f - 1), up to a constant.
    whole = _integral(freedom, math.pi / 2)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _integral(freedom, middle) < 0.95 * whole else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _integral(freedom: int, end: float) -> float:
    angles = np.linspace(0.0, end, _STRIPS + 1)
    weights = np.ones(_STRIPS + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float(weights @ np.cos(angles) ** (freedom - 1)) * end / _STRIPS / 3


def over_seeds(values_S: Sequence[float]) -> Interval | None:
    """The 95 % t interval of a mean over seeds; ``None`` for a single seed, which tells no spread."""
    if len(values_S) < 2:
        return None
    mean = float(np.mean(values_S))
    half = t_quantile(len(values_S) - 1) * float(np.std(values_S, ddof=1)) / math.sqrt(len(values_S))
    return mean - half, mean + half


@dataclass(frozen=True)
class Measured:
    """A mean over seeds, or a difference of two.

    Attributes:
        value: the mean.
        over_seeds: how far another choice of training seeds could move it; ``None`` for a single seed.
        over_pictures: how far another choice of pictures could; ``None`` for what is not of pictures.
        seeds, n: how many seeds, and questions of each.
    """

    value: float
    over_seeds: Interval | None
    over_pictures: Interval | None
    seeds: int
    n: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"value": self.value, "over_seeds": self.over_seeds, "over_pictures": self.over_pictures,
                "seeds": self.seeds, "n": self.n}  # fmt: skip


def mean(hits_SN: np.ndarray, pictures_N: np.ndarray) -> Measured:
    """The share of right answers. ``hits_SN`` holds 1 for a right answer and 0 for a wrong one, or means of such.

    Raises:
        ValueError: no questions.
    """
    value = hits_SN.mean(axis=1)
    estimate = _bootstrap(pictures_N).share(pictures_N.tolist(), hits_SN.mean(axis=0).tolist())
    spread = over_seeds(value.tolist())
    inside = None if spread is None else (max(0.0, spread[0]), min(1.0, spread[1]))
    return Measured(float(value.mean()), inside, (estimate.low, estimate.high), len(hits_SN), hits_SN.shape[1])


def difference(first_SN: np.ndarray, second_SN: np.ndarray, pictures_N: np.ndarray) -> Measured:
    """The accuracy of the first minus that of the second, of the same seeds and the same questions.

    Raises:
        ValueError: the two were not asked the same number of questions with the same number of seeds.
    """
    if first_SN.shape != second_SN.shape:
        raise ValueError(f"{first_SN.shape} answers (seeds, questions) cannot be paired with {second_SN.shape}")
    each = (first_SN.mean(axis=1) - second_SN.mean(axis=1)).tolist()
    pictures = pictures_N.tolist()
    estimate = _bootstrap(pictures_N).difference(
        pictures, first_SN.mean(axis=0).tolist(), pictures, second_SN.mean(axis=0).tolist()
    )
    return Measured(float(np.mean(each)), over_seeds(each), (estimate.low, estimate.high), *first_SN.shape)


def cost_difference(first_S: Sequence[float], second_S: Sequence[float]) -> Measured:
    """How much less the first costs than the second: the mean of second minus first, seed by seed."""
    each = [other - one for one, other in zip(first_S, second_S, strict=True)]
    return Measured(float(np.mean(each)), over_seeds(each), None, len(each))


@lru_cache(maxsize=8)
def _draws(pictures: int) -> Bootstrap:
    return Bootstrap(pictures)


def _bootstrap(pictures_N: np.ndarray) -> Bootstrap:
    return _draws(int(pictures_N.max()) + 1)


def combined(parts: Sequence[Measured]) -> Measured:
    """The mean of differences that were measured on different evaluations, each with equal weight.

    Pictures of different evaluations are independent of each other, so their half-widths add as squares.

    Raises:
        ValueError: nothing to combine.
    """
    if not parts:
        raise ValueError("the mean of nothing has no value")
    if len(parts) == 1:
        return parts[0]
    count = len(parts)
    value = float(np.mean([part.value for part in parts]))
    ends = [part.over_pictures for part in parts]
    pictures = None
    if None not in ends:
        below = math.hypot(*(part.value - end[0] for part, end in zip(parts, ends) if end)) / count
        above = math.hypot(*(end[1] - part.value for part, end in zip(parts, ends) if end)) / count
        pictures = (value - below, value + above)
    return Measured(value, None, pictures, parts[0].seeds, sum(part.n for part in parts))


def verdict(gain: Measured, by: float = 0.0) -> Verdict:
    """Whether a gain is more than ``by``.

    It is supported where every interval that there is lies above ``by`` as a whole, not supported where every one
    lies at or below it, and undecided otherwise.
    """
    intervals = [interval for interval in (gain.over_seeds, gain.over_pictures) if interval is not None]
    if not intervals:
        return "undecided"
    if all(low > by for low, _ in intervals):
        return "supported"
    if all(high <= by for _, high in intervals):
        return "not supported"
    return "undecided"
