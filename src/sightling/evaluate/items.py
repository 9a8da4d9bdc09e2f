"""One question of an evaluation with everything that its answer is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sightling.data.sample import Notes, Part, Picture, Sample, Turn
from sightling.evaluate.boxes import boxes_right
from sightling.evaluate.metrics import is_right
from sightling.world.scene import Scene

GREY = (127, 127, 127)
"""What the blind guesser is shown: a picture of this colour, of the same size."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a picture.

    Attributes:
        sample: the conversation; it ends with the assistant's true answer.
        picture: the number of its picture (or group of pictures), from 0; the cluster of the bootstrap.
        family, language: what results are grouped by.
        answers: every accepted answer, the canonical one first; unused for captions.
        choices: every answer that this form of question can have; ``()`` when open.
        scene: the exact truth, for captions of the small world only; their answer is scored by what it says.
        boxes: whether the answer is boxes, right by their overlap and not letter by letter.
    """

    sample: Sample
    picture: int
    family: str
    language: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    scene: Scene | None = None
    boxes: bool = False

    @property
    def text(self) -> str:
        """What the user asks last."""
        for turn in reversed(self.sample.turns):
            if turn.role == "user":
                return turn.text
        return ""

    @property
    def is_caption(self) -> bool:
        """Whether the answer is scored by what it says instead of by exact match."""
        return self.scene is not None

    def accepts(self, said: str) -> bool:
        """Whether what was said is right; not for captions."""
        return boxes_right(said, self.answers) if self.boxes else is_right(said, self.answers)


def in_grey(items: Sequence[Item]) -> list[Item]:
    """The same questions about a grey picture; pictures of one size become one object, so they are seen once.

    Whoever was to say in words what is in the picture found nothing.
    """
    greys: dict[tuple[tuple[int, int], bool], Picture] = {}

    def grey(part: Part) -> Part:
        if isinstance(part, str):
            return part
        key = (part.size(), part.notes is not None)
        if key not in greys:
            greys[key] = Picture(image=Image.new("RGB", key[0], GREY), notes=Notes() if key[1] else None)
        return greys[key]

    found = []
    for item in items:
        turns = tuple(Turn(turn.role, tuple(map(grey, turn.parts)), turn.supervised) for turn in item.sample.turns)
        found.append(replace(item, sample=Sample(turns, item.sample.meta)))
    return found


def unique_prompts(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """(indices of the first of each different prompt, for each sample the place of its prompt among those).

    A closing assistant turn is no part of the prompt; a picture is the same when it is the same object.
    """
    places: dict[tuple, int] = {}
    firsts: list[int] = []
    where: list[int] = []
    for number, sample in enumerate(samples):
        turns = sample.turns[:-1] if sample.turns[-1].role == "assistant" else sample.turns
        key = tuple(
            (turn.role, *(part if isinstance(part, str) else id(part) for part in turn.parts)) for turn in turns
        )
        if key not in places:
            places[key] = len(firsts)
            firsts.append(number)
        where.append(places[key])
    return firsts, where
