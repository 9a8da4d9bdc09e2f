"""What a detector of a told error rate says of a scene: a caption, tags and boxes, all of the things that it found.

Its errors are drawn for each thing alone and in the same order whatever the rates, so that a thing which a good
detector misses is missed by every worse one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from sightling.world.describe import LANGUAGES, Words
from sightling.world.facts import ThingFact, facts_of, reading_order
from sightling.world.families.base import say
from sightling.world.grounding import Box, thing_boxes, write_box
from sightling.world.lexicon import COLORS, SHAPES
from sightling.world.mentions import Mention
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec


@dataclass(frozen=True, slots=True)
class Errors:
    """How often a detector errs, each a chance for a thing.

    Attributes:
        drop: it is not found.
        color: it is called by another colour of the specification.
        shape: it is called by another shape of the specification; a letter keeps its name.
    """

    drop: float = 0.0
    color: float = 0.0
    shape: float = 0.0


Found = tuple[Mention, Box]


def found_things(scene: Scene, spec: SceneSpec, errors: Errors, rng: Random) -> list[Found]:
    """The things that a detector finds, by colour and shape, each with its true box, in reading order."""
    facts, where = facts_of(scene), thing_boxes(scene)
    found: list[Found] = []
    for index in reading_order(scene):
        missed, color, shape = rng.random() < errors.drop, rng.random(), rng.random()
        fact = facts[index]
        other_color, other_shape = _other(fact.color, spec.colors, rng), _other(fact.shape, spec.shapes, rng)
        if color < errors.color:
            fact = replace(fact, color=other_color)
        if shape < errors.shape and not fact.glyph:
            fact = replace(fact, shape=other_shape)
        if not missed:
            found.append((_named(fact), where[index]))
    return found


def _other(name: str, names: Sequence[str], rng: Random) -> str:
    """Another of the names; the same where there is no other. Draws once."""
    rest = [other for other in names if other != name]
    place = rng.random()
    return rest[int(place * len(rest))] if rest else name


def _named(fact: ThingFact) -> Mention:
    said = say(fact, ("color", "shape"))
    assert said is not None  # colour and shape can always be said
    return said


def caption(found: Sequence[Found], language: str) -> str:
    """``a red circle and two blue stars``; nothing for nothing."""
    counts: dict[Mention, int] = {}
    for mention, _ in found:
        counts[mention] = counts.get(mention, 0) + 1
    mentions = [replace(mention, count=count) for mention, count in counts.items()]
    return str(LANGUAGES[language].listing(mentions, Words(Random(0)))) if mentions else ""


def tags(found: Sequence[Found], language: str) -> str:
    """``circle, star, red, blue``: each shape and each colour once."""
    words = [_shape(mention, language) for mention, _ in found]
    words += [COLORS[mention.color].canonical(language) for mention, _ in found if mention.color is not None]
    return ", ".join(dict.fromkeys(words))


def _shape(mention: Mention, language: str) -> str:
    if mention.glyph is not None:
        return str(LANGUAGES[language].noun_phrase(replace(mention, color=None), "", Words(Random(0))))
    return SHAPES[mention.shape or ""].canonical(language)


def boxes(found: Sequence[Found], language: str) -> str:
    """``red circle {<12><30><34><52>}, blue star {<50><50><90><95>}``."""
    phrase = LANGUAGES[language].noun_phrase
    return ", ".join(f"{phrase(mention, '', Words(Random(0)))} {write_box(box)}" for mention, box in found)
