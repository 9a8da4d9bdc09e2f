"""Questions about held-out pairs and clips of the small world.

Families take turns, one question each, and each question is asked in every language about the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sightling.data.sample import Part, Picture, Sample
from sightling.data.series import Seen, SeriesOptions, SeriesSource, hidden, shown_pictures
from sightling.errors import UserError, nearest
from sightling.evaluate.items import Item
from sightling.evaluate.metrics import Majority
from sightling.evaluate.world import LEARNING, reserved_seed
from sightling.train.recipe import Recipe

OF_EACH = 100
"""How many questions of each family are asked when nothing else is said."""

LEARNING_QUESTIONS = 1000


def held_out_series(options: SeriesOptions, seed: int, recipe: Recipe | None) -> SeriesSource:
    """The source of questions that no training has seen.

    Raises:
        ValueError: a stage's seed lies in the reserved range (a bug).
    """
    return options.open(reserved_seed(seed, recipe))


def asked_in_turn(options: SeriesOptions, told: Mapping[str, int] | None) -> dict[str, int]:
    """How many questions of each family are asked before it is the first family's turn again.

    Raises:
        UserError: an unknown family.
    """
    wanted = told if told is not None else {name: 1 for name, weight in options.weights().items() if weight > 0}
    for name in wanted:
        if name not in options.KNOWN:
            raise UserError(f"evaluate.families: there is no question family {name!r}; {nearest(name, options.KNOWN)}")
    return {name: wanted[name] for name in options.KNOWN if name in wanted}


def _turn(turns: Mapping[str, int], number: int) -> str:
    order: Sequence[str] = [name for name, times in turns.items() for _ in range(times)]
    return order[number % len(order)]


def series_items(source: SeriesSource, turns: Mapping[str, int], count: int | None = None) -> list[Item]:
    """The first ``count`` questions; those in several languages share their pictures."""
    items = []
    for number in range(count or OF_EACH * sum(turns.values())):
        for sample in source.asked(number, _turn(turns, number)):
            meta = sample.meta
            items.append(Item(sample, number, meta["family"], meta["language"], (sample.answer,), meta["choices"]))
    return items


def series_majority(source: SeriesSource, turns: Mapping[str, int], count: int = LEARNING_QUESTIONS) -> Majority:
    """A guesser that learnt on other questions of the same kind."""
    majority = Majority()
    for number in range(count):
        for sample in source.asked(LEARNING + number, _turn(turns, number), drawn=False):
            item = Item(sample, number, sample.meta["family"], sample.meta["language"], (sample.answer,))
            majority.learn(item.family, item.language, sample.meta["choices"], item.text, sample.answer)
    return majority


def seeing_one(items: Sequence[Item], see: Seen) -> list[Item]:
    """The same questions with all pictures grey but the ``first`` or the ``middle`` one.

    Grey pictures of one size become one object, so they are seen once.
    """
    greys: dict[tuple[int, int, int | None], Picture] = {}

    def grey(picture: Picture) -> Picture:
        key = (*picture.size(), picture.tiles)
        if key not in greys:
            greys[key] = hidden(picture)
        return greys[key]

    found = []
    for item in items:
        shown = shown_pictures(sum(1 for _ in item.sample.pictures()), see)
        turns, number = [], 0
        for turn in item.sample.turns:
            parts: list[Part] = []
            for part in turn.parts:
                if isinstance(part, Picture):
                    parts.append(part if number in shown else grey(part))
                    number += 1
                else:
                    parts.append(part)
            turns.append(replace(turn, parts=tuple(parts)))
        found.append(replace(item, sample=Sample(tuple(turns), item.sample.meta)))
    return found
