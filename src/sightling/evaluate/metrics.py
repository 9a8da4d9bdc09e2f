"""Numbers and their doubt: exact match, Wilson intervals, a bootstrap over pictures, and the majority answer.

Legend: ``N`` questions, ``P`` pictures, ``R`` resamples.

Questions about one picture are not independent of each other, so whatever counts several of them is resampled
by picture (the cluster bootstrap of Field and Welsh, "Bootstrapping clustered data", JRSS B 2007). A share of
independent yes/no outcomes has the interval of Wilson (1927), which stays honest near 0 and 1.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 2000
FINAL = " .。!！?？,，;；:：、"
"""What an answer may end with without being another answer."""


def normalise(text: str) -> str:
    """An answer as it is compared: NFC, case folded, runs of space as one, no space or punctuation at its ends.

    A text of nothing but punctuation stays what it is.
    """
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.rstrip(FINAL) or folded


def is_right(said: str, answers: Iterable[str]) -> bool:
    """Whether what was said equals one of the accepted answers, both normalised."""
    return normalise(said) in {normalise(answer) for answer in answers}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or a difference with its 95 % interval.

    Attributes:
        value: the point estimate.
        low, high: the interval's ends.
        n: what was counted, the denominator.
        pictures: how many pictures these are about.
    """

    value: float
    low: float
    high: float
    n: int
    pictures: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "pictures": self.pictures}


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``hits`` among ``n`` independent outcomes.

    Raises:
        ValueError: no outcomes, or hits outside 0..n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits among {n} outcomes make no share")
    share, square = hits / n, Z95 * Z95
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # At the ends the formula gives 0 and 1 only to rounding.
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


class Bootstrap:
    """Resamples of the pictures of one evaluation; every number is resampled with the same draws.

    Args:
        pictures: how many pictures there are; they are numbered from 0.
        seed: of the draws.
    """

    def __init__(self, pictures: int, seed: int = 0) -> None:
        self.pictures = pictures
        # How often each picture is drawn: independent Poisson counts, which need no fixed sum for ratios.
        self._draws_RP = np.random.default_rng(seed).poisson(1.0, (RESAMPLES, pictures)).astype(np.uint8)

    def _totals(self, values_P: np.ndarray) -> np.ndarray:
        here = np.flatnonzero(values_P)
        return self._draws_RP[:, here].astype(np.float64) @ values_P[here]

    def _by_picture(self, pictures_N: np.ndarray, values_N: np.ndarray) -> np.ndarray:
        return np.bincount(pictures_N, weights=values_N, minlength=self.pictures)

    def share(self, pictures: Sequence[int], parts: Sequence[float], wholes: Sequence[float] | None = None) -> Estimate:
        """The sum of ``parts`` over the sum of ``wholes`` (1 each when not given) with its interval.

        One outcome a picture makes independent outcomes, and Wilson's interval. Where all outcomes agree a
        resample shows no doubt; then the interval is Wilson's for as many outcomes as pictures.

        Raises:
            ValueError: nothing to divide by.
        """
        pictures_N, parts_N = np.asarray(pictures, dtype=np.int64), np.asarray(parts, dtype=np.float64)
        wholes_N = np.ones_like(parts_N) if wholes is None else np.asarray(wholes, dtype=np.float64)
        whole = float(wholes_N.sum())
        if whole <= 0:
            raise ValueError("a share of nothing has no value")
        value = float(parts_N.sum()) / whole
        clusters = len(np.unique(pictures_N[wholes_N > 0]))
        if wholes is None and clusters == len(pictures_N):
            return Estimate(value, *wilson(float(parts_N.sum()), clusters), int(whole), clusters)
        if value in (0.0, 1.0):
            return Estimate(value, *wilson(value * clusters, clusters), int(whole), clusters)
        low, high = self._interval(pictures_N, parts_N, wholes_N)
        return Estimate(value, min(low, value), max(high, value), int(whole), clusters)

    def difference(
        self, pictures: Sequence[int], first: Sequence[float], others: Sequence[int], second: Sequence[float]
    ) -> Estimate:
        """The mean of ``first`` (about ``pictures``) minus the mean of ``second`` (about ``others``).

        Both are resampled with the same draws, so what the two have in common cancels. Where no picture shows a
        difference the interval is Newcombe's (1998, method 10), made of the two Wilson intervals.
        """
        first_P, second_P = self._mean_by_picture(pictures, first), self._mean_by_picture(others, second)
        one, other = float(np.mean(first)), float(np.mean(second))
        clusters = len(np.union1d(pictures, others))
        count = len(first)
        if one in (0.0, 1.0) and other in (0.0, 1.0):
            low, high = wilson(one * clusters, clusters)
            under, over = wilson(other * clusters, clusters)
            return Estimate(one - other, one - other - math.hypot(one - low, over - other),
                            one - other + math.hypot(high - one, other - under), count, clusters)  # fmt: skip
        ratios = []
        for parts_P, wholes_P in (first_P, second_P):
            wholes_R = self._totals(wholes_P)
            ratios.append(self._totals(parts_P) / np.where(wholes_R > 0, wholes_R, np.nan))
        low, high = np.nanpercentile(ratios[0] - ratios[1], [2.5, 97.5])
        value = one - other
        return Estimate(value, min(float(low), value), max(float(high), value), count, clusters)

    def _mean_by_picture(self, pictures: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        pictures_N, values_N = np.asarray(pictures, dtype=np.int64), np.asarray(values, dtype=np.float64)
        if not len(values_N):
            raise ValueError("a difference of nothing has no value")
        return self._by_picture(pictures_N, values_N), self._by_picture(pictures_N, np.ones_like(values_N))

    def _interval(self, pictures_N: np.ndarray, parts_N: np.ndarray, wholes_N: np.ndarray) -> tuple[float, float]:
        parts_R = self._totals(self._by_picture(pictures_N, parts_N))
        wholes_R = self._totals(self._by_picture(pictures_N, wholes_N))
        drawn = wholes_R > 0
        low, high = np.percentile(parts_R[drawn] / wholes_R[drawn], [2.5, 97.5])
        return float(low), float(high)


@dataclass
class Majority:
    """Guesses the commonest answer without a picture, from what was learnt on other questions than those asked.

    It knows the exact text of a question where it has met that ``least`` times, else the list of choices, else
    family and language. Where only the asked questions themselves are there to learn from, ``texts`` must be off:
    a text that occurs once would give away its answer.
    """

    texts: bool = True
    least: int = 5
    _known: dict[tuple[Any, ...], Counter[str]] = field(default_factory=dict)

    def learn(self, family: str, language: str, choices: Sequence[str], text: str, answer: str) -> None:
        """Take in one question with its answer."""
        for key in self._keys(family, language, choices, text):
            self._known.setdefault(key, Counter())[answer] += 1

    def ranked(self, family: str, language: str, choices: Sequence[str], text: str) -> list[str]:
        """The answers from the commonest on, ties by name; empty when nothing like it was learnt."""
        for key in self._keys(family, language, choices, text):
            found = self._known.get(key)
            if found is not None and (key[0] != "text" or found.total() >= self.least):
                return sorted(found, key=lambda answer: (-found[answer], answer))
        return []

    def guess(self, family: str, language: str, choices: Sequence[str], text: str) -> str:
        """The commonest answer; empty when nothing like it was learnt."""
        return next(iter(self.ranked(family, language, choices, text)), "")

    def _keys(self, family: str, language: str, choices: Sequence[str], text: str) -> list[tuple[Any, ...]]:
        coarse: list[tuple[Any, ...]] = [("choices", family, language, tuple(choices)), ("family", family, language)]
        return [("text", family, language, normalise(text)), *coarse] if self.texts else coarse


def chance(choices: Iterable[Sequence[str]]) -> float | None:
    """The mean of 1 / number of choices; ``None`` when a question has no list of choices."""
    sizes = [len(each) for each in choices]
    return sum(1 / size for size in sizes) / len(sizes) if sizes and all(sizes) else None
