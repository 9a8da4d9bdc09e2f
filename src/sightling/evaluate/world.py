"""Questions about held-out scenes of the small world, where the truth is exact.

Each scene is asked one question (or more) of every family, and each question in every language: the same
thing is asked, so that languages can be compared question by question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from sightling.data.sample import question
from sightling.data.world import WorldOptions, WorldSource
from sightling.errors import UserError, nearest
from sightling.evaluate.items import Item
from sightling.evaluate.metrics import Majority
from sightling.train.order import derive_seed
from sightling.train.recipe import Recipe
from sightling.world.captions import CaptionScore, score_caption, score_description
from sightling.world.describe import LANGUAGES, Words
from sightling.world.facts import ThingFact, fact_of
from sightling.world.mentions import Description, Mention
from sightling.world.parse import parse
from sightling.world.questions import FAMILIES, Question, ask
from sightling.world.scene import Scene

RESERVED = 1 << 63
"""Seeds from here on are for evaluation; training derives its seeds below (63 bits)."""

LEARNING = 1 << 39
"""Scenes from this index on teach the majority guesser; those that are asked about come before."""

LEARNING_SCENES = 1000

TRIES = {"count": 2, "relation": 2, "comparison": 2}
"""How often families are asked a scene that many scenes cannot carry, so that all have about as many questions."""


def held_out(options: WorldOptions, seed: int, recipe: Recipe | None) -> WorldSource:
    """The source of scenes that no training has seen.

    Raises:
        ValueError: a stage's seed lies in the reserved range (a bug).
    """
    return options.open(reserved_seed(seed, recipe))


def reserved_seed(seed: int, recipe: Recipe | None) -> int:
    """The seed of a source of which no stage of the recipe has seen anything.

    Raises:
        ValueError: a stage's seed lies in the reserved range (a bug).
    """
    own = RESERVED + seed
    if recipe is not None:
        for name in recipe.stages:
            for base in (recipe.seed, getattr(recipe.stages[name], "seed", recipe.seed)):
                trained = derive_seed(base, name)
                if trained >= RESERVED or trained == own:
                    raise ValueError(f"stage {name} trains with seed {trained}, which is reserved for evaluation")
    return own


def asked_families(options: WorldOptions, told: Mapping[str, int] | None) -> dict[str, int]:
    """How often each family is asked a scene, in the order of ``FAMILIES``.

    Raises:
        UserError: an unknown family.
    """
    chosen = [name for name, weight in options.families.items() if weight > 0]
    wanted = dict(told) if told is not None else {name: TRIES.get(name, 1) for name in chosen}
    for name in wanted:
        if name not in FAMILIES:
            raise UserError(f"evaluate.families: there is no question family {name!r}; {nearest(name, FAMILIES)}")
    return {name: wanted[name] for name in FAMILIES if name in wanted}


def _languages(source: WorldSource) -> list[str]:
    return [name for name in LANGUAGES if source.languages.get(name, 0) > 0]


def _questions(source: WorldSource, index: int, scene: Scene, families: Mapping[str, int]) -> Iterator[list[Question]]:
    """Each question about a scene in all languages; a family is tried a fixed number of times, to keep its balance."""
    for family, times in families.items():
        seen: set[str] = set()
        for number in range(times):
            # The same draws give the same question in every language: words are drawn after it is decided.
            seed = f"evaluate {source.seed} {index} {family} {number}"
            asked = [
                ask(scene, family, language, Random(seed), source.spec, synonyms=source.synonyms)
                for language in _languages(source)
            ]
            found = [question for question in asked if question is not None]
            if len(found) not in (0, len(asked)):
                raise ValueError(f"scene {index} carries {family} in {len(found)} of {len(asked)} languages")
            if found and found[0].text not in seen:
                seen.add(found[0].text)
                yield found


def world_items(source: WorldSource, families: Mapping[str, int], scenes: int) -> list[Item]:
    """The questions about the first ``scenes`` scenes; those about one scene share its picture."""
    items = []
    for index in range(scenes):
        scene = source.scene(index)
        pictures = source.pictures(index, scene)
        for asked in _questions(source, index, scene, families):
            for one in asked:
                text, judged = source.asked(one), FAMILIES[one.family].judged
                picture = pictures[one.language]
                sample = question(text, picture, answer=one.answer, family=one.family, language=one.language)
                truth = scene if judged == "things" else None
                boxes = judged == "boxes"
                items.append(Item(sample, index, one.family, one.language, (one.answer,), one.choices, truth, boxes))
    return items


def world_majority(source: WorldSource, families: Mapping[str, int], scenes: int = LEARNING_SCENES) -> Majority:
    """A guesser that learnt on other scenes of the same kind."""
    majority = Majority()
    for index in range(LEARNING, LEARNING + scenes):
        for asked in _questions(source, index, source.scene(index), families):
            for one in asked:
                if FAMILIES[one.family].judged != "things":
                    majority.learn(one.family, one.language, one.choices, source.asked(one), one.answer)
    return majority


@dataclass(frozen=True, slots=True)
class CaptionCheck:
    """A caption held against its scene.

    Attributes:
        score: the counts.
        absent: what the caption names that is not there, in its language.
        missed: things of the scene that it does not name rightly, in its language.
    """

    score: CaptionScore
    absent: tuple[str, ...]
    missed: tuple[str, ...]


def check_caption(text: str, scene: Scene, language: str) -> CaptionCheck:
    """Count what a caption names, and say which things it makes up and which it leaves out.

    Which of two equal namings is the made-up one is arbitrary; their numbers are not: they are those of the
    best matching (a mention adds to it or does not, and so does a thing).
    """
    score = score_caption(text, scene, language)
    said = parse(text, language)
    absent: list[str] = []
    before = 0
    for count, mention in enumerate(said.mentions, start=1):
        here = score_description(Description(said.mentions[:count]), scene).absent
        absent += [_phrase(mention, language)] * (here - before)
        before = here
    missed: list[str] = []
    right = 0
    stated = {name for mention in said.mentions for name in mention.stated()}
    for count, thing in enumerate(scene.things, start=1):
        part = Scene(scene.things[:count], scene.background, scene.aspect)
        here = score_description(said, part).right
        if here == right:
            missed.append(_phrase(_named(fact_of(thing), "place" in stated), language))
        right = here
    return CaptionCheck(score, tuple(absent), tuple(missed))


def _named(fact: ThingFact, place: bool) -> Mention:
    texture = None if fact.texture == "plain" else fact.texture
    return Mention(1, fact.shape, fact.color, fact.size, texture, fact.glyph or None, fact.place if place else None)


def _phrase(mention: Mention, language: str) -> str:
    return str(LANGUAGES[language].noun_phrase(mention, "", Words(Random(0))))
