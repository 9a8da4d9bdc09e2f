"""What every question family is made of: a view of a scene, a draft of a question, and the family record.

A family answers one thing: given a scene, which question could be asked about it, free of any language
(:meth:`Family.propose`). Its templates say it in each language. How the answers are kept balanced:

* Yes/no families are *symmetric*: whatever would be asked about this scene with "yes" would be asked with equal chance
  about another scene of the same distribution with "no" (see :mod:`~sightling.world.families.existence`).
* The other families are symmetric as long as the scenes are; what unevenness remains (from counts, or from a planted
  habit) is measured once per specification and thinned out (:mod:`~sightling.world.families.balance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import ModuleType
from typing import Any, Literal, TypeVar

from sightling.world.describe import LANGUAGES
from sightling.world.describe.words import Words
from sightling.world.facts import ThingFact, facts_of, place_is_clear
from sightling.world.families.balance import tables
from sightling.world.mentions import Mention
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec, sample_scene

EXTREME_MARGIN = 0.12
"""How much farther to one side the outermost thing must lie than the next one (fraction of the picture)."""

BY_LOOKS = (
    ("shape",), ("color",), ("color", "shape"), ("color", "shape"), ("size", "shape"), ("size", "color", "shape"),
)  # fmt: skip
"""Ways to refer to a thing where its place is what is asked for."""


@dataclass(frozen=True, slots=True)
class Extreme:
    """A reference to the thing that lies farthest ``side`` (left, right, above, below)."""

    side: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the picture that is told as it is written, such as a box."""

    text: str


Slot = Mention | Extreme | Spot

Task = Literal["vqa", "caption", "refer", "grounding", "identify", "detection"]
"""MiniGPT-v2's task identifiers; a question that has one begins with it in square brackets."""

Judged = Literal["words", "things", "boxes"]
"""How an answer is held against the truth: by its words, by the things that it names, or by the boxes in it."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A question before it is put into words.

    Attributes:
        form: which of the family's template groups says it.
        answer: the true answer, a language-free key ("yes", "red", "2", "left" ...).
        choices: every answer that this form can have under the specification; ``()`` for open questions.
        slots: what the templates refer to.
        group: what the balance is kept within; questions of one text always share one group.
    """

    form: str
    answer: str
    choices: tuple[str, ...]
    slots: Mapping[str, Slot] = field(default_factory=dict)
    group: tuple[str, ...] = ()


class View:
    """A scene with what the families look up in it, and a twin: another scene of the same distribution.

    Args:
        scene: the scene asked about.
        spec: what it was drawn from.
        rng: draws the twin, at most once.

    ``tables`` holds what was measured about ``spec``, see :mod:`~sightling.world.families.balance`.
    """

    __slots__ = ("_twin", "facts", "rng", "scene", "spec", "tables", "things")

    def __init__(self, scene: Scene, spec: SceneSpec, rng: Random) -> None:
        self.scene = scene
        self.things = scene.things
        self.facts: tuple[ThingFact, ...] = facts_of(scene)
        self.spec = spec
        self.rng = rng
        self._twin: tuple[ThingFact, ...] | None = None
        self.tables = tables(spec)

    def twin(self) -> tuple[ThingFact, ...]:
        """The facts of an independent scene of the same specification; the same one at every call."""
        if self._twin is None:
            self._twin = facts_of(sample_scene(self.rng.getrandbits(48), self.spec))
        return self._twin

    def mention(self, index: int, names: Sequence[str]) -> Mention | None:
        """The thing said by the named attributes, when that fits this thing alone, else ``None``.

        ``shape`` brings the glyph of a letter along. A plain texture and an unclear place are never used to refer.
        """
        fact = self.facts[index]
        if "place" in names and not place_is_clear(self.things[index]):
            return None
        for rest in self.facts:
            if (
                rest is not fact
                and all([getattr(rest, name) == getattr(fact, name) for name in names])
                and (rest.glyph == fact.glyph or "shape" not in names)
            ):
                return None
        return say(fact, names)

    def reference(self, index: int, ways: Sequence[Sequence[str]], rng: Random) -> Mention | None:
        """One of the ``ways`` of referring that are unique to the thing, drawn evenly; ``None`` when none is."""
        left = list(ways)
        while left:
            found = self.mention(index, left.pop(int(rng.random() * len(left))))
            if found is not None:
                return found
        return None

    def extreme(self, index: int) -> list[str]:
        """The sides to which the thing lies clearly farther than all others; none when it is alone."""
        if len(self.things) < 2:
            return []
        this = self.things[index]
        rest = [thing for other, thing in enumerate(self.things) if other != index]
        sides = []
        if this.x + EXTREME_MARGIN <= min(thing.x for thing in rest):
            sides.append("left")
        elif this.x - EXTREME_MARGIN >= max(thing.x for thing in rest):
            sides.append("right")
        if this.y + EXTREME_MARGIN <= min(thing.y for thing in rest):
            sides.append("above")
        elif this.y - EXTREME_MARGIN >= max(thing.y for thing in rest):
            sides.append("below")
        return sides

    def order(self, rng: Random) -> list[int]:
        """The things' indices in random order."""
        indices = list(range(len(self.things)))
        rng.shuffle(indices)
        return indices


def say(fact: ThingFact, names: Sequence[str]) -> Mention | None:
    """The mention that states the named attributes of a thing; ``None`` when one cannot be said (plain texture)."""
    if "texture" in names and fact.texture == "plain":
        return None
    return Mention(
        shape=fact.shape if "shape" in names else None,
        color=fact.color if "color" in names else None,
        size=fact.size if "size" in names else None,
        texture=fact.texture if "texture" in names else None,
        glyph=(fact.glyph or None) if "shape" in names else None,
        place=fact.place if "place" in names else None,
    )


def one(attribute: str, value: str) -> Mention:
    """The mention that states a single attribute."""
    stated: dict[str, Any] = {attribute: value}
    return Mention(**stated)


def pick(options: Sequence[_T], rng: Random) -> _T:
    """One of ``options``, evenly; faster than ``rng.choice``."""
    return options[int(rng.random() * len(options))]


class _Said:
    """A slot's value inside a template: ``{a:the}`` says the slot with that article."""

    __slots__ = ("language", "slot", "words")

    def __init__(self, slot: Slot, language: ModuleType, words: Words) -> None:
        self.slot = slot
        self.language = language
        self.words = words

    def __format__(self, article: str) -> str:
        if isinstance(self.slot, Spot):
            return self.slot.text
        if isinstance(self.slot, Extreme):
            return self.language.extreme_phrase(self.slot.side, self.words)
        return self.language.noun_phrase(self.slot, article, self.words)


Propose = Callable[[View, Random], Draft | None]
Write = Callable[[View, Draft, str, Words], str]


@dataclass(frozen=True, eq=False)
class Family:
    """A kind of question, named as in recipes and reports.

    Attributes:
        name: the key in ``FAMILIES``.
        about: one line for people.
        propose: drafts one question about a scene, or ``None`` when the scene carries none this time.
        templates: language -> form -> wordings; ``{a:the}`` says slot ``a`` with that article.
        word: the word of a language-free answer: ``(language, form, answer) -> text``.
        write: writes the answer of an open question instead.
        steady: whether a scene may be asked again when nothing came of the first try. False where the answer goes
            with how many things there are, for asking some scenes more often than others would tilt the balance.
        thinned: whether answers that come too often are to be measured and thinned out. False for a family that sees
            to its balance by itself.
        task: the identifier that MiniGPT-v2 puts before questions of this kind.
        judged: how its answers are held against the truth.
    """

    name: str
    about: str
    propose: Propose
    templates: Mapping[str, Mapping[str, tuple[str, ...]]]
    word: Callable[[str, str, str], str]
    write: Write | None = None
    steady: bool = True
    thinned: bool = True
    task: Task = "vqa"
    judged: Judged = "words"

    def text(self, draft: Draft, language: str, words: Words) -> str:
        """The question in words, first letter capital."""
        return worded(words.one_of(self.templates[language][draft.form]), draft.slots, language, words)


def worded(template: str, slots: Mapping[str, Slot], language: str, words: Words) -> str:
    """A template with its slots said, first letter capital."""
    if not slots:
        return template[0].upper() + template[1:]
    module = LANGUAGES[language]
    text = template.format(**{name: _Said(slot, module, words) for name, slot in slots.items()})
    return text[0].upper() + text[1:]


YES_NO = ("yes", "no")
_YES_NO = {"en": {"yes": "yes", "no": "no"}, "zh": {"yes": "是", "no": "否"}}


def yes_no(language: str, form: str, answer: str) -> str:
    """ "yes"/"no" in English, "是"/"否" in Chinese."""
    return _YES_NO[language][answer]
