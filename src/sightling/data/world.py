"""The small world as a source of samples: endless fresh pictures with exact questions and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from random import Random
from typing import Any

from pydantic import Field, field_validator

from sightling.data.sample import Notes, Picture, Sample, Turn
from sightling.data.source import SOURCES, SourceOptions
from sightling.errors import UserError, nearest
from sightling.parts import Part
from sightling.world import notes as detector
from sightling.world.describe import LANGUAGES, describe
from sightling.world.families.boxes import BOXED, grounded
from sightling.world.questions import FAMILIES, Question, ask_many
from sightling.world.render import render
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec, sample_scene

FAMILY_WEIGHTS = {
    "existence": 1.0, "color": 1.0, "shape": 1.0, "size": 1.0, "count": 1.0,
    "place": 1.0, "relation": 1.0, "comparison": 1.0, "caption": 1.0, "description": 1.0,
}  # fmt: skip
"""What is asked when nothing else is said; ``reading`` needs scenes with letters."""


class WorldSource:
    """Group ``index`` is one picture and the questions about it, a pure function of (seed, index).

    Args:
        spec: what scenes may hold.
        families: question families with their weights.
        languages: languages with their weights.
        questions: questions a picture.
        size: side of the picture in pixels.
        seed: two sources with different seeds share no picture.
        synonyms: the chance that a word of a question is replaced by a synonym.
        length: number of groups; 0 is endless.
        told: the chance that a picture is told in words, thing by thing, instead of being shown.
        identifiers: whether a question begins with its family's task identifier, as MiniGPT-v2's do.
        notes: how often a detector errs whose words come with each picture, in its question's language; None is
            no such words.
    """

    def __init__(
        self,
        spec: SceneSpec,
        families: Mapping[str, float],
        languages: Mapping[str, float],
        *,
        questions: int = 8,
        size: int = 64,
        seed: int = 0,
        synonyms: float = 0.05,
        length: int = 0,
        told: float = 0.0,
        identifiers: bool = False,
        notes: detector.Errors | None = None,
    ) -> None:
        self.spec = spec
        self.families = dict(families)
        self.languages = dict(languages)
        self.questions = questions
        self.size = size
        self.seed = seed
        self.synonyms = synonyms
        self.length = length
        self.told = told
        self.identifiers = identifiers
        self.notes = notes

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene of a group."""
        return sample_scene(self._seed(index), self.spec)

    def _seed(self, index: int) -> int:
        # Scenes are numbered by one integer; seeds keep apart by their own high bits.
        return (self.seed << 40) + index

    def group(self, index: int) -> list[Sample]:
        """The samples about one picture; ``meta`` has family, language, choices, scene and index."""
        scene = self.scene(index)
        if self.told and Random(f"told {self._seed(index)}").random() < self.told:
            return [self._in_words(sample, scene) for sample in self._ask(index, scene, None)]
        return self._ask(index, scene, self.pictures(index, scene))

    def pictures(self, index: int, scene: Scene) -> dict[str, Picture]:
        """The picture of a group for each language; one object, unless its notes are in that language."""
        drawn = Picture(image=render(scene, self.size))
        if self.notes is None:
            return dict.fromkeys(self.languages, drawn)
        found = detector.found_things(scene, self.spec, self.notes, Random(f"notes {self._seed(index)}"))
        parts = (detector.caption, detector.tags, detector.boxes)
        return {
            language: replace(drawn, notes=Notes(*[part(found, language) for part in parts]))
            for language in self.languages
        }

    def words(self, index: int) -> list[Sample]:
        """What :meth:`group` asks and answers, with no picture drawn."""
        return self._ask(index, self.scene(index), None)

    def _ask(self, index: int, scene: Scene, pictures: Mapping[str, Picture] | None) -> list[Sample]:
        rng = Random(f"questions {self._seed(index)}")
        names, weights = list(self.languages), list(self.languages.values())
        drawn = rng.choices(names, weights, k=self.questions)
        samples = []
        for language in names:
            count = drawn.count(language)
            if count:
                asked = ask_many(scene, rng, self.spec, self.families, language, count, synonyms=self.synonyms)
                picture = None if pictures is None else pictures[language]
                samples += [self._sample(question, picture, scene, index) for question in asked]
        if not samples:
            raise UserError(
                f"the families {sorted(self.families)} find nothing to ask about scene {index}; "
                "add one that always does, such as existence"
            )
        return samples

    def _in_words(self, sample: Sample, scene: Scene) -> Sample:
        """The sample with a detailed description where its picture would stand; with boxes where it is about those."""
        rng = Random(f"words {self._seed(sample.meta['index'])}")
        language = sample.meta["language"]
        boxed = sample.meta["family"] in BOXED
        words = grounded(scene, language) if boxed else describe(scene, language, "detailed", rng, self.synonyms)
        question, *rest = sample.turns
        return replace(sample, turns=(replace(question, parts=(f"{words}\n", *question.parts)), *rest))

    def asked(self, question: Question) -> str:
        """A question's words, behind its task identifier where there are identifiers."""
        return f"[{FAMILIES[question.family].task}] {question.text}" if self.identifiers else question.text

    def _sample(self, question: Question, picture: Picture | None, scene: Scene, index: int) -> Sample:
        text = self.asked(question)
        asked = (text,) if picture is None else (picture, text)
        turns = (Turn("user", asked), Turn("assistant", (question.answer,)))
        meta = {
            "family": question.family,
            "language": question.language,
            "choices": question.choices,
            "scene": scene,
            "index": index,
        }
        return Sample(turns, meta)


class Detector(Part):
    """What a detector says of each picture, and how often it errs; the chances are a thing's.

    ``drop``: it is not found. ``color``, ``shape``: it is called by another colour, another shape.
    """

    drop: float = Field(default=0.0, ge=0, le=1)
    color: float = Field(default=0.0, ge=0, le=1)
    shape: float = Field(default=0.0, ge=0, le=1)


@SOURCES.register("world")
class WorldOptions(SourceOptions):
    """The ``data`` section of a stage that learns from the small world.

    ``families`` and ``languages`` are lists, or mappings with weights; ``scene`` holds the keys of
    :class:`sightling.world.scenes.SceneSpec`. ``length`` is how many pictures there are; 0 is endless.
    ``told`` is the chance that a picture is told in words instead of being shown: a language model that learns to
    answer about words can be frozen, and a connector then learns to speak to it. ``identifiers`` puts MiniGPT-v2's
    task identifier before each question: ``[vqa]``, ``[caption]``, ``[refer]`` and so on, as its family says.
    ``notes`` gives each picture what a detector says of it, for a model with experts; ``{}`` is one that never errs.
    """

    scene: dict[str, Any] = Field(default_factory=dict)
    families: dict[str, float] = Field(default_factory=lambda: dict(FAMILY_WEIGHTS))
    languages: dict[str, float] = Field(default_factory=lambda: {"en": 1.0, "zh": 1.0})
    questions_per_picture: int = Field(default=8, ge=1)
    image_size: int = Field(default=64, ge=16, le=2048)
    synonyms: float = Field(default=0.05, ge=0, le=1)
    length: int = Field(default=0, ge=0)
    told: float = Field(default=0.0, ge=0, le=1)
    identifiers: bool = False
    notes: Detector | None = None

    @field_validator("families", "languages", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        listed = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        return {name: 1.0 for name in value} if listed else value

    @field_validator("families")
    @classmethod
    def _families(cls, value: dict[str, float]) -> dict[str, float]:
        return weighed(value, FAMILIES, "question family")

    @field_validator("languages")
    @classmethod
    def _languages(cls, value: dict[str, float]) -> dict[str, float]:
        return weighed(value, LANGUAGES, "language")

    @field_validator("scene")
    @classmethod
    def _scene(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            SceneSpec.from_dict(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    def open(self, seed: int) -> WorldSource:
        """The source with this section's scenes."""
        return WorldSource(
            SceneSpec.from_dict(self.scene),
            self.families,
            self.languages,
            questions=self.questions_per_picture,
            size=self.image_size,
            seed=seed,
            synonyms=self.synonyms,
            length=self.length,
            told=self.told,
            identifiers=self.identifiers,
            notes=None if self.notes is None else detector.Errors(**self.notes.model_dump()),
        )


def weighed(value: dict[str, float], known: Any, kind: str) -> dict[str, float]:
    """Weights by name, checked: each name among ``known``, each weight 0 or more, one above 0.

    Raises:
        ValueError: one of these is not so; ``kind`` is what the names are called.
    """
    for name, weight in value.items():
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}; {nearest(name, known)}")
        if not (isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of {name!r} is {weight}; it must be 0 or more")
    if not any(value.values()):
        raise ValueError(f"no {kind} has a weight above 0")
    return value
