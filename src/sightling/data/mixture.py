"""Several sources mixed by weight, in an order that index and seed alone decide."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import field_validator

from sightling.data.sample import Sample
from sightling.data.source import SOURCES, Ordered, Source, SourceOptions
from sightling.errors import UserError
from sightling.parts import make

BLOCK = 4096
"""Groups after which every source has had exactly its share."""

KEPT = 8


@runtime_checkable
class Shuffles(Protocol):
    """A source that knows in which random order it is cheap to read."""

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All its indices, in a random order."""
        ...


class Mixture:
    """An endless source that draws groups from several sources, each with its weight's share.

    Shares are exact over every ``BLOCK`` groups, and within a block the sources come in random order. A finite source
    is walked through completely before any of its groups comes again, in a new random order each time; an endless one
    is walked from its group 0 on. ``group(index)`` depends on the index and the seed only, so a run that resumes at an
    index sees what an uninterrupted one would have.

    Args:
        sources: pairs of a source and its weight, in groups; weights need not sum to one.
        seed: of every random order.

    Raises:
        UserError: no sources, a weight that is not above 0, or one below 1 / ``BLOCK`` of the sum.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], seed: int = 0) -> None:
        if not sources:
            raise UserError("a mixture needs at least one source")
        self.sources = [source for source, _ in sources]
        self.seed = seed
        weights = np.array([weight for _, weight in sources], dtype=np.float64)
        for number, weight in enumerate(weights):
            if not weight > 0 or not np.isfinite(weight):
                raise UserError(f"source {number} of the mixture has the weight {weight:g}; expected one above 0")
        self.counts = _shares(weights / weights.sum())
        if 0 in self.counts:
            number = int(np.argmin(self.counts))
            raise UserError(
                f"source {number} of the mixture has the weight {weights[number]:g} of {weights.sum():g}; "
                f"the least share is 1 in {BLOCK}"
            )
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._orders: OrderedDict[tuple[int, int], Sequence[int] | np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """0: endless."""
        return 0

    def pick(self, index: int) -> tuple[int, int]:
        """(number of the source, index in that source) of group ``index``."""
        block, place = divmod(index, BLOCK)
        choices, ranks = self._block(block)
        number = int(choices[place])
        walked = block * int(self.counts[number]) + int(ranks[place])
        length = len(self.sources[number])
        if not length:
            return number, walked
        walk, within = divmod(walked, length)
        return number, int(self._order(number, walk)[within])

    def group(self, index: int) -> Sequence[Sample]:
        """The samples of group ``index`` of the mixture."""
        number, inner = self.pick(index)
        return self.sources[number].group(inner)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Which source each place of a block has, and the how-manieth of that source's in the block it is."""
        if block not in self._blocks:
            choices = np.repeat(np.arange(len(self.counts)), self.counts)
            choices = np.random.default_rng((self.seed, block)).permutation(choices)
            ranks = np.empty(BLOCK, dtype=np.int64)
            for number, count in enumerate(self.counts):
                ranks[choices == number] = np.arange(count)
            self._blocks[block] = (choices, ranks)
            if len(self._blocks) > KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[block]

    def _order(self, number: int, walk: int) -> Sequence[int] | np.ndarray:
        """The order of walk number ``walk`` through a finite source."""
        key = (number, walk)
        if key not in self._orders:
            source = self.sources[number]
            # The number is in the seed, else two sources of one length would be walked in step.
            rng = np.random.default_rng((self.seed, number, walk))
            if isinstance(source, Shuffles):
                own: Sequence[int] | np.ndarray | None = source.permutation(rng)
            elif isinstance(source, Ordered):
                own = source.order(int(rng.integers(2**63)))
            else:
                own = None
            self._orders[key] = own if own is not None else rng.permutation(len(source))
            if len(self._orders) > 2 * len(self.sources):
                self._orders.popitem(last=False)
        return self._orders[key]


def _shares(weights: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to ``BLOCK``, nearest to the weights (largest remainder)."""
    exact = weights * BLOCK
    counts = np.floor(exact).astype(np.int64)
    left = BLOCK - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts


@SOURCES.register("mixture")
class MixtureOptions(SourceOptions):
    """The ``data`` section of a stage that learns from several sources.

    ``sources`` maps a name of your choice to a source's own section and its ``weight`` (1 when not given)::

        data: {type: mixture, sources: {small: {type: world, weight: 3}, mine: {type: files, path: my.json}}}
    """

    sources: dict[str, dict[str, Any]]

    @field_validator("sources")
    @classmethod
    def _checked(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, section in value.items():
            _part(name, section)
        return value

    def check(self) -> None:
        """Look for what each of the sources names.

        Raises:
            UserError: one of them does not exist or is in no known format; its name is told.
        """
        for name, section in self.sources.items():
            try:
                _part(name, section)[0].check()
            except UserError as error:
                raise UserError(f"sources.{name}: {error}") from None

    def open(self, seed: int) -> Mixture:
        """The sources, each with the stage's seed, mixed."""
        parts = [_part(name, section) for name, section in self.sources.items()]
        return Mixture([(options.open(seed), weight) for options, weight in parts], seed)


def _part(name: str, section: Mapping[str, Any]) -> tuple[SourceOptions, float]:
    rest = dict(section)
    weight = rest.pop("weight", 1.0)
    where = f"data.sources.{name}"
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0:
        raise UserError(f"{where}.weight is {weight!r}; expected a number above 0")
    return make(SOURCES, rest, where), float(weight)
