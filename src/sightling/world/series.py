"""Questions about several scenes at once: what they are made of, and how they are said.

A family of :mod:`~sightling.world.pairs` or :mod:`~sightling.world.clip_families` begins with one scene that is drawn
by the specification alone: the first picture of a pair, the middle frame of a clip. It then builds what the other
pictures would be for *every* answer that it counts among ``options``, gives the scene up if one of them cannot be
built, and only then draws which answer is true. So whoever sees that scene and the question, and nothing else, is right
once in ``len(options)`` times, whatever he makes of them. This is stricter than a balance over all scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from sightling.errors import UserError
from sightling.world.clips import Clip
from sightling.world.describe import LANGUAGES
from sightling.world.describe.words import Words
from sightling.world.families.base import Slot, worded
from sightling.world.mentions import Mention
from sightling.world.questions import Question
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec, sample_scene

Answer = str | Mention | tuple[str, str]
"""A language-free answer: a key, a thing by its name, or (from, to)."""

PATIENCE = 2000
"""How many scenes are tried before a family is said not to fit the specification."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a family draws from: the specification, the lot, and how many frames a clip has."""

    spec: SceneSpec
    rng: Random
    frames: int = 4

    @property
    def middle(self) -> int:
        """The number of the middle frame."""
        return self.frames // 2


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Scenes in order and one question that needs them all, before it is put into words.

    Attributes:
        scenes: the pictures, or the frames.
        form: which of the family's template groups asks.
        answer: the true answer.
        options: the answers that were equally likely, given the scene that everything was built around.
        choices: every answer that the question may have as far as a guesser can know; ``()`` where too many.
        slots: what the templates refer to.
        clip: what the frames were taken from, for clips.
        family: the family's name.
    """

    scenes: tuple[Scene, ...]
    form: str
    answer: Answer
    options: tuple[Answer, ...]
    choices: tuple[Answer, ...]
    slots: Mapping[str, Slot] = field(default_factory=dict)
    clip: Clip | None = None
    family: str = ""


@dataclass(frozen=True, eq=False)
class SeriesFamily:
    """A kind of question about several pictures.

    Attributes:
        name: as in recipes and reports.
        about: one line for people.
        propose: builds a puzzle around a scene, or ``None`` when the scene does not carry one.
        templates: language -> form -> wordings; ``{a:the}`` says slot ``a`` with that article.
        word: the word of an answer: ``(language, answer) -> text``.
    """

    name: str
    about: str
    propose: Callable[[Scene, Setting], Puzzle | None]
    templates: Mapping[str, Mapping[str, tuple[str, ...]]]
    word: Callable[[str, Answer], str]


def draw(family: SeriesFamily, setting: Setting) -> Puzzle:
    """A puzzle of the family, around the first scene drawn that carries one.

    Raises:
        UserError: no scene of the specification does.
    """
    for _ in range(PATIENCE):
        scene = sample_scene(setting.rng.getrandbits(48), setting.spec)
        found = family.propose(scene, setting)
        if found is not None:
            return replace(found, family=family.name)
    raise UserError(
        f"no scene in {PATIENCE:,} carries a question of the family {family.name!r}; allow more colors and shapes, or "
        "fewer things so that one can move or come"
    )


def say(puzzle: Puzzle, family: SeriesFamily, language: str, rng: Random, synonyms: float) -> Question:
    """The puzzle in words."""
    words = Words(rng, synonyms)
    text = worded(words.one_of(family.templates[language][puzzle.form]), puzzle.slots, language, words)
    choices = tuple(family.word(language, choice) for choice in puzzle.choices)
    return Question(family.name, language, text, family.word(language, puzzle.answer), choices)


def name_word(language: str, answer: Answer) -> str:
    """A thing as an answer names it: "red star", "红色的星形"."""
    return str(LANGUAGES[language].noun_phrase(answer, "", Words(Random(0))))


def word_table(en: Mapping[str, str], zh: Mapping[str, str]) -> Callable[[str, Answer], str]:
    """The words of answers that are keys."""
    tables = {"en": en, "zh": zh}
    return lambda language, answer: tables[language][str(answer)]
