"""Thinning out: which answers come too often under a specification, and how often to let them pass.

A family that drafts questions freely may favour some answers: large counts are rare, and under a planted habit circles
are mostly red. How often each answer comes is measured once per family and specification on a pool of scenes; drafts
are then let through at the rate of the rarest answer of their group.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

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


@lru_cache(maxsize=4)
def scenes(spec: SceneSpec) -> tuple[Scene, ...]:
    """The pool of scenes that the rates of ``spec`` are measured on."""
    return tuple(sample_scene(_FIRST_SEED + index, spec) for index in range(POOL))


@lru_cache(maxsize=4)
def pool(spec: SceneSpec) -> tuple[tuple[ThingFact, ...], ...]:
    """The facts of the pool's scenes."""
    return tuple(facts_of(scene) for scene in scenes(spec))


@lru_cache(maxsize=128)
def rates(family: Family, spec: SceneSpec) -> Rates:
    """How often to let an answer pass, by group; groups and answers that need no thinning are left out.

    Only unevenness beyond chance is thinned: a group counts as even when the chi-square statistic of its answers lies
    within three standard deviations of what equal chances give.
    """
    from sightling.world.families.base import View

    rng = Random(0)
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for scene in scenes(spec):
        view = View(scene, spec, rng)
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
