"""How many? Every count is asked for equally often, within every kind of question.

Small counts are commonplace and large ones rare, so a scene is asked for its rarer counts first, and the common ones
are thinned out until all are equal. Both rates are fitted once per specification on a pool of scenes. A count so rare
that it would cost nearly all questions of its kind is left out of that kind's choices, and never asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from sightling.world.facts import ThingFact
from sightling.world.families.balance import Tables
from sightling.world.families.base import Draft, Family, View, one, pick, say
from sightling.world.mentions import Mention
from sightling.world.scenes import SceneSpec

RAREST = 0.04
"""A count that fewer scenes than this share can show is not among the choices."""

_SHARE_TOTAL = 0.3
"""How often the question is how many things there are in all."""

_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class _Plan:
    """One kind of count question: what is counted, and how readily each answer is given."""

    kind: str
    names: tuple[str, ...]
    values: tuple[Mention, ...]
    known: frozenset[Mention]
    choices: tuple[str, ...]
    weights: tuple[float, ...]
    accept: tuple[float, ...]


def _kinds(spec: SceneSpec) -> list[tuple[str, tuple[str, ...], tuple[Mention, ...]]]:
    """The kinds of things that can be counted; the values of one kind are interchangeable in the scenes of ``spec``."""
    marked: set[str | None] = set()
    if spec.habit is not None:
        marked = {*spec.habit.cause, *spec.habit.effect}
    kinds: list[tuple[str, tuple[str, ...], tuple[Mention, ...]]] = []

    def add(name: str, values: Sequence[str], alone: bool) -> None:
        together = tuple(one(name, value) for value in values if not alone and value not in marked)
        if together:
            kinds.append((name, (name,), together))
        kinds.extend((f"{name} {value}", (name,), (one(name, value),))
                     for value in values if alone or value in marked)  # fmt: skip

    add("shape", spec.shapes, alone=False)
    add("color", spec.colors, alone=False)
    if len(spec.sizes) > 1:
        # Large things are fewer where they do not fit, so the two sizes are not interchangeable.
        add("size", spec.sizes, alone=True)
    if spec.textured and len(spec.textures) > 1:
        add("texture", [name for name in spec.textures if name != "plain"], alone=False)
    if spec.habit is None:
        both = tuple(Mention(shape=shape, color=color) for shape in spec.shapes for color in spec.colors)
        kinds.append(("color and shape", ("color", "shape"), both))
    return kinds


def _counts(facts: Sequence[ThingFact], names: tuple[str, ...], values: frozenset[Mention]) -> dict[Mention, int]:
    """How many things there are of those ``values`` that the scene has at all."""
    counts: dict[Mention, int] = {}
    for fact in facts:
        said = say(fact, names)
        if said in values:
            counts[said] = counts.get(said, 0) + 1
    return counts


def plans(tables: Tables) -> tuple[_Plan, ...]:
    """The kinds of count question that the scenes of a specification can carry in balance."""
    spec = tables.spec
    found = []
    for kind, names, values in _kinds(spec):
        known = frozenset(values)
        shown = np.zeros((len(tables.facts), spec.max_things + 1), dtype=bool)
        for row, facts in enumerate(tables.facts):
            counts = _counts(facts, names, known)
            shown[row, list(counts.values())] = True
            shown[row, 0] = len(counts) < len(values)
        rates = shown.mean(axis=0)
        most = 0
        while most < spec.max_things and rates[most + 1] >= RAREST:
            most += 1
        least = 0 if rates[0] >= RAREST else 1
        if most - least < min(2, spec.max_things):
            continue  # two answers would only ask whether there is any
        weights, accept = _fit(shown[:, least : most + 1].astype(float))
        choices = tuple(str(count) for count in range(least, most + 1))
        found.append(_Plan(kind, names, values, known, choices, weights, accept))
    return tuple(found)


def _fit(shown: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Weights that make the counts as equal as scenes allow, and the thinning that makes them equal.

    ``shown`` [scenes, counts] is 1 where the scene can be asked for the count. Iterative proportional fitting, with a
    limit on the weights: beyond it nothing is gained.
    """
    weights = np.ones(shown.shape[1])
    shown = shown[shown.any(axis=1)]
    for _ in range(_ROUNDS):
        share = (shown * weights / (shown @ weights)[:, None]).mean(axis=0)
        weights = np.clip(weights * share.mean() / share, 1e-3, 1e3)
    share = (shown * weights / (shown @ weights)[:, None]).mean(axis=0)
    return tuple(weights.tolist()), tuple((share.min() / share).tolist())


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about how many things there are, in all or of one kind."""
    spec = view.spec
    if rng.random() < _SHARE_TOTAL:
        if spec.max_things == spec.min_things:
            return None
        choices = tuple(str(count) for count in range(spec.min_things, spec.max_things + 1))
        return Draft("total", str(len(view.facts)), choices, {"a": Mention()}, ("total",))
    known = view.tables.once("count", plans)
    if not known:
        return None
    plan = pick(known, rng)
    counts = _counts(view.facts, plan.names, plan.known)
    options: dict[str, list[Mention]] = {}
    for said, count in counts.items():
        options.setdefault(str(count), []).append(said)
    chances = [
        weight if (len(counts) < len(plan.values) if choice == "0" else choice in options) else 0.0
        for choice, weight in zip(plan.choices, plan.weights, strict=True)
    ]
    total = sum(chances)
    if not total:
        return None
    at, lot = 0, rng.random() * total
    while lot >= chances[at] and at < len(chances) - 1:
        lot -= chances[at]
        at += 1
    if rng.random() >= plan.accept[at] or not chances[at]:
        return None
    answer = plan.choices[at]
    said = _absent(view, plan, counts, rng) if answer == "0" else pick(options[answer], rng)
    return Draft("some", answer, plan.choices, {"a": said}, (plan.kind,))


def _absent(view: View, plan: _Plan, counts: dict[Mention, int], rng: Random) -> Mention:
    """Something that the scene has none of; of two attributes, half the time one that mixes those of two things."""
    if len(plan.names) > 1 and len(counts) > 1 and rng.random() < 0.5:
        mixed = Mention(shape=pick(view.facts, rng).shape, color=pick(view.facts, rng).color)
        if mixed not in counts and mixed.shape != "letter":
            return mixed
    while True:
        said: Mention = pick(plan.values, rng)
        if said not in counts:
            return said


FAMILY = Family(
    name="count",
    about="how many things there are, in all or of one kind",
    propose=propose,
    templates={
        "en": {
            "total": (
                "how many {a:many} are there?",
                "how many {a:many} are in the picture?",
                "how many {a:many} do you see?",
            ),
            "some": (
                "how many {a:many} are there?",
                "how many {a:many} are in the picture?",
                "how many {a:many} do you see?",
            ),
        },
        "zh": {
            "total": ("图中有几{a:measure}？", "一共有几{a:measure}？", "图中有多少{a:measure}？"),
            "some": ("图中有几{a:measure}？", "有几{a:measure}？", "图中有多少{a:measure}？"),
        },
    },
    word=lambda language, form, answer: answer,
    steady=False,
    thinned=False,
)
