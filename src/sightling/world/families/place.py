"""Where is it? The answer is one of the nine regions of the picture, asked only where the region is beyond doubt."""

from __future__ import annotations

from random import Random

from sightling.world.facts import place_is_clear
from sightling.world.families.base import BY_LOOKS, Draft, Family, View
from sightling.world.lexicon import PLACES


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about one thing that lies clearly within a region."""
    for index in view.order(rng):
        if not place_is_clear(view.things[index]):
            continue
        reference = view.reference(index, BY_LOOKS, rng)
        if reference is not None:
            # Large things keep away from the border, so what a question says of the size goes with the place.
            group = ("place", reference.size or "")
            return Draft("place", view.facts[index].place, tuple(PLACES), {"a": reference}, group)
    return None


def _word(language: str, form: str, answer: str) -> str:
    return PLACES[answer].canonical(language)


FAMILY = Family(
    name="place",
    about="in which of nine regions of the picture a thing lies",
    propose=propose,
    templates={
        "en": {"place": ("where is {a:the}?", "where in the picture is {a:the}?", "where can you find {a:the}?")},
        "zh": {"place": ("{a}在哪里？", "{a}在图中的哪里？", "{a}在图中什么位置？")},
    },
    word=_word,
)
