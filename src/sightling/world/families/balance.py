"""Thinning out: which answers come too often under a specification, and how often to let them pass.

A family that drafts questions freely may favour some answers: large counts are rare, and under a planted habit circles
are mostly red. How often each answer comes is measured once per family and specification on a pool of scenes; drafts
are then let through at the rate of the rarest answer of their group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from sightling.world.facts import ThingFact, facts_of
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec, sample_scene

if TYPE_CHECKING:
    from sightling.world.families.base import Family

POOL = 3000
"""Scenes that the rates are measured on."""

_FIRST_SEED = 1 << 52
"""Seeds of the pool, beyond those of training and evaluation."""

_PASSES = 2

Rates = dict[tuple[str, ...], dict[str, float]]

_T = TypeVar("_T")


class Tables:
    """What is measured about a specification, each part when it is first needed (about a second in all)."""

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self.made: dict[str, Any] = {}
        self._rates: dict[str, Rates] = {}

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """The pool of scenes that everything is measured on."""
        return tuple(sample_scene(_FIRST_SEED + index, self.spec) for index in range(POOL))

    @cached_property
    def facts(self) -> tuple[tuple[ThingFact, ...], ...]:
        """The facts of the pool's scenes."""
        return tuple(facts_of(scene) for scene in self.scenes)

    def rates(self, family: Family) -> Rates:
        """How often to let each answer of a family pass, see :func:`measure`."""
        if family.name not in self._rates:
            self._rates[family.name] = measure(family, self)
        return self._rates[family.name]

    def once(self, name: str, make: Callable[[Tables], _T]) -> _T:
        """Whatever a family prepares for a specification: made by ``make`` at the first call, then kept."""
        if name not in self.made:
            self.made[name] = make(self)
        kept: _T = self.made[name]
        return kept


@lru_cache(maxsize=8)
def tables(spec: SceneSpec) -> Tables:
    """The tables of a specification; the same object at every call."""
    return Tables(spec)


def measure(family: Family, known: Tables) -> Rates:
    """How often to let an answer pass, by group; groups and answers that need no thinning are left out.

    Only unevenness beyond chance is thinned: a group counts as even when the chi-square statistic of its answers lies
    within three standard deviations of what equal chances give.
    """
    from sightling.world.families.base import View

    rng = Random(0)
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for scene in known.scenes:
        view = View(scene, known.spec, rng)
        for _ in range(_PASSES):
            draft = family.propose(view, rng)
            if draft is not None and draft.choices:
                found = counts.setdefault(draft.group, dict.fromkeys(draft.choices, 0))
                found[draft.answer] += 1
    thin: Rates = {}
    for group, found in counts.items():
        total, kinds = sum(found.values()), len(found)
        even = total / kinds
        spread = sum((count - even) ** 2 for count in found.values()) / even
        # The passes over one scene repeat themselves, which widens the statistic in proportion.
        if spread / _PASSES > kinds - 1 + 3 * (2 * (kinds - 1)) ** 0.5:
            least = max(min(found.values()), 1)
            thin[group] = {answer: min(1.0, least / count) for answer, count in found.items() if count > least}
    return thin
