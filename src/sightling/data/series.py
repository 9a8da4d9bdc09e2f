"""The small world's pairs and clips as sources of samples: questions that need several pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, field_validator

from sightling.data.sample import Part, Picture, Sample, Turn
from sightling.data.source import SOURCES, SourceOptions
from sightling.data.world import weighed
from sightling.errors import UserError
from sightling.world.clip_families import CLIPS
from sightling.world.describe import LANGUAGES
from sightling.world.happenings import FEWEST_FRAMES
from sightling.world.pair_families import PAIRS
from sightling.world.render import render
from sightling.world.scenes import SceneSpec
from sightling.world.series import Puzzle, SeriesFamily, Setting, draw, say

GREY = (127, 127, 127)
"""What stands in the place of a picture that is hidden."""

Seen = Literal["all", "first", "middle"]
"""Which pictures of a sample are shown."""

LAYOUTS = {
    "before": "all pictures, then the question",
    "numbered": "Picture 1: <image> Picture 2: <image> question",
    "around": "all pictures but the last, the question, the last picture",
    "after": "the question, then all pictures",
    "turns": "a turn of its own for each picture but the last, which the question follows",
}
"""Where pictures and question stand."""

_LABELS = {
    "pictures": {"en": "Picture {}: ", "zh": "图{}："},
    "frames": {"en": "Frame {}: ", "zh": "第{}帧："},
}
_SHOWN = {"en": "Look at this.", "zh": "请看。"}
_SEEN = {"en": "I see.", "zh": "看到了。"}


class SeriesSource:
    """Group ``index`` is one question about several pictures, a pure function of (seed, index).

    Args:
        spec: what scenes may hold.
        known: the families there are, by name.
        families: the weights of those that are asked.
        languages: languages with their weights.
        layouts: keys of :data:`LAYOUTS` with their weights.
        noun: what numbered pictures are called: ``"pictures"`` or ``"frames"``.
        frames: frames of a clip.
        size: the shorter side of each picture in pixels.
        seed: two sources with different seeds share no question.
        synonyms: the chance that a word of a question is replaced by a synonym.
        length: number of groups; 0 is endless.
        see: which pictures are shown; the others are grey.
    """

    def __init__(
        self,
        spec: SceneSpec,
        known: Mapping[str, SeriesFamily],
        families: Mapping[str, float],
        languages: Mapping[str, float],
        layouts: Mapping[str, float],
        *,
        noun: str = "pictures",
        frames: int = FEWEST_FRAMES,
        size: int = 64,
        seed: int = 0,
        synonyms: float = 0.05,
        length: int = 0,
        see: Seen = "all",
    ) -> None:
        self.spec = spec
        self.known = known
        self.families = dict(families)
        self.languages = dict(languages)
        self.layouts = dict(layouts)
        self.noun = noun
        self.frames = frames
        self.size = size
        self.seed = seed
        self.synonyms = synonyms
        self.length = length
        self.see = see

    def __len__(self) -> int:
        return self.length

    def puzzle(self, index: int, family: str | None = None) -> Puzzle:
        """The scenes and the question of a group, not yet in words; ``family`` asks for another than by lot."""
        rng = self._rng("puzzle", index)
        drawn = rng.choices(list(self.families), list(self.families.values()))[0]
        return draw(self.known[family or drawn], Setting(self.spec, rng, self.frames))

    def group(self, index: int) -> list[Sample]:
        """One sample; ``meta`` has family, language, choices, scenes, clip, layout and index."""
        rng = self._rng("words", index)
        language = rng.choices(list(self.languages), list(self.languages.values()))[0]
        puzzle = self.puzzle(index)
        return [self._sample(puzzle, self._pictures(puzzle), index, language, rng)]

    def asked(self, index: int, family: str, *, drawn: bool = True) -> list[Sample]:
        """A question of that family in every language that has a weight, about the same ``Picture`` objects.

        Where only the words are wanted, ``drawn`` off leaves the pictures at one grey pixel.
        """
        puzzle = self.puzzle(index, family)
        blank = [Picture(image=Image.new("RGB", (1, 1), GREY))] * len(puzzle.scenes)
        pictures = self._pictures(puzzle) if drawn else blank
        return [
            # The same draws give every language the same wording and layout.
            self._sample(puzzle, pictures, index, language, self._rng("words", index))
            for language in LANGUAGES
            if self.languages.get(language, 0) > 0
        ]

    def _rng(self, purpose: str, index: int) -> Random:
        return Random(f"{self.noun} {purpose} {self.seed} {index}")

    def _pictures(self, puzzle: Puzzle) -> list[Picture]:
        shown = shown_pictures(len(puzzle.scenes), self.see)
        drawn = [Picture(image=render(scene, self.size)) for scene in puzzle.scenes]
        return [picture if number in shown else hidden(picture) for number, picture in enumerate(drawn)]

    def _sample(self, puzzle: Puzzle, pictures: list[Picture], index: int, language: str, rng: Random) -> Sample:
        layout = rng.choices(list(self.layouts), list(self.layouts.values()))[0]
        asked = say(puzzle, self.known[puzzle.family], language, rng, self.synonyms)
        turns = laid_out(pictures, asked.text, layout, language, self.noun)
        meta = {
            "family": asked.family,
            "language": language,
            "choices": asked.choices,
            "scenes": puzzle.scenes,
            "clip": puzzle.clip,
            "layout": layout,
            "index": index,
        }
        return Sample((*turns, Turn("assistant", (asked.answer,))), meta)


def laid_out(
    pictures: Sequence[Picture], text: str, layout: str, language: str, noun: str = "pictures"
) -> tuple[Turn, ...]:
    """The user's turns (and between them the assistant's) that bring pictures and a question.

    Args:
        pictures: two or more.
        text: the question.
        layout: a key of :data:`LAYOUTS`.
        language: of the words between pictures.
        noun: what numbered pictures are called: ``"pictures"`` or ``"frames"``.

    Raises:
        ValueError: an unknown layout.
    """
    if layout == "before":
        return (Turn("user", (*pictures, text)),)
    if layout == "after":
        return (Turn("user", (text, *pictures)),)
    if layout == "around":
        return (Turn("user", (*pictures[:-1], text, pictures[-1])),)
    if layout == "numbered":
        parts: list[Part] = []
        for number, picture in enumerate(pictures, start=1):
            parts += [("\n" if parts else "") + _LABELS[noun][language].format(number), picture]
        return (Turn("user", (*parts, "\n" + text)),)
    if layout == "turns":
        turns: list[Turn] = []
        for picture in pictures[:-1]:
            turns.append(Turn("user", (picture, _SHOWN[language])))
            turns.append(Turn("assistant", (_SEEN[language],), supervised=False))
        return (*turns, Turn("user", (pictures[-1], text)))
    raise ValueError(f"there is no layout {layout!r}; known are {', '.join(LAYOUTS)}")


def shown_pictures(count: int, see: Seen) -> frozenset[int]:
    """The numbers of the pictures that are shown of ``count``: all, the first, or the middle one (``count // 2``)."""
    return frozenset(range(count)) if see == "all" else frozenset({0 if see == "first" else count // 2})


def hidden(picture: Picture) -> Picture:
    """A grey picture of the same size."""
    return Picture(image=Image.new("RGB", picture.size(), GREY), tiles=picture.tiles)


class SeriesOptions(SourceOptions):
    """What the ``data`` sections of pairs and clips have in common.

    ``families``, ``languages`` and ``layouts`` are lists, or mappings with weights; ``scene`` holds the keys of
    :class:`sightling.world.scenes.SceneSpec`. ``length`` is how many questions there are; 0 is endless. ``see`` hides
    all pictures but one behind grey, for training a model that knows the questions and sees no more than that.
    """

    KNOWN: ClassVar[Mapping[str, SeriesFamily]]
    NOUN: ClassVar[str]
    PARTIAL: ClassVar[Seen]
    """What the guesser of an evaluation sees."""

    scene: dict[str, Any] = Field(default_factory=dict)
    families: dict[str, float] = Field(default_factory=dict)
    languages: dict[str, float] = Field(default_factory=lambda: {"en": 1.0, "zh": 1.0})
    layouts: dict[str, float] = Field(default_factory=lambda: {"before": 1.0})
    image_size: int = Field(default=64, ge=16, le=2048)
    synonyms: float = Field(default=0.05, ge=0, le=1)
    length: int = Field(default=0, ge=0)
    see: Seen = "all"

    @classmethod
    @abstractmethod
    def spec(cls, scene: Mapping[str, Any]) -> SceneSpec:
        """The specification of a ``scene`` section."""

    @field_validator("families", "languages", "layouts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        listed = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        return {name: 1.0 for name in value} if listed else value

    @field_validator("families")
    @classmethod
    def _families(cls, value: dict[str, float]) -> dict[str, float]:
        return weighed(value, cls.KNOWN, "question family")

    @field_validator("languages")
    @classmethod
    def _languages(cls, value: dict[str, float]) -> dict[str, float]:
        return weighed(value, LANGUAGES, "language")

    @field_validator("layouts")
    @classmethod
    def _layouts(cls, value: dict[str, float]) -> dict[str, float]:
        return weighed(value, LAYOUTS, "layout")

    @field_validator("scene")
    @classmethod
    def _scene(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            spec = cls.spec(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        for name in ("letters", "habit", "needles", "crowd"):
            if getattr(spec, name):
                raise ValueError(f"{name} is {getattr(spec, name)!r}; scenes that change cannot have it")
        for name in ("colors", "shapes"):
            if len(getattr(spec, name)) < 3:
                raise ValueError(f"{name} has {len(getattr(spec, name))} entries; scenes that change need at least 3")
        return value

    def weights(self) -> dict[str, float]:
        """The families with their weights; all alike where none are named."""
        return self.families or dict.fromkeys(self.KNOWN, 1.0)

    def open(self, seed: int) -> SeriesSource:
        """The source with this section's scenes."""
        return SeriesSource(
            self.spec(self.scene),
            self.KNOWN,
            self.weights(),
            self.languages,
            self.layouts,
            noun=self.NOUN,
            frames=getattr(self, "frames", FEWEST_FRAMES),
            size=self.image_size,
            seed=seed,
            synonyms=self.synonyms,
            length=self.length,
            see=self.see,
        )


@SOURCES.register("world_pairs")
class PairOptions(SeriesOptions):
    """The ``data`` section of a stage that learns from two or three pictures of the small world at once.

    See :mod:`sightling.world.pairs` for the families, and for what the first picture alone tells. Scenes have 3 to 5
    things where nothing else is said.
    """

    KNOWN = PAIRS
    NOUN = "pictures"
    PARTIAL = "first"

    layouts: dict[str, float] = Field(
        default_factory=lambda: {"before": 2.0, "numbered": 1.0, "around": 1.0, "after": 1.0}
    )

    @classmethod
    def spec(cls, scene: Mapping[str, Any]) -> SceneSpec:
        """The specification of a ``scene`` section."""
        return SceneSpec.from_dict({"min_things": 3, "max_things": 5, **scene})


@SOURCES.register("world_clips")
class ClipOptions(SeriesOptions):
    """The ``data`` section of a stage that learns from clips of the small world, as frames in order.

    See :mod:`sightling.world.happenings` for the families, and for what the middle frame alone tells. Scenes have 3 or
    4 things where nothing else is said.
    """

    KNOWN = CLIPS
    NOUN = "frames"
    PARTIAL = "middle"

    frames: int = Field(default=4, ge=FEWEST_FRAMES, le=64)

    @classmethod
    def spec(cls, scene: Mapping[str, Any]) -> SceneSpec:
        """The specification of a ``scene`` section."""
        return SceneSpec.from_dict({"min_things": 3, "max_things": 4, **scene})
