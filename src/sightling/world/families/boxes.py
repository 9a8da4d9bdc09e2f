"""Where exactly, in boxes written as text: MiniGPT-v2's referring, identifying, detecting and grounded captions.

Source of the tasks: Chen et al., "MiniGPT-v2" (2023). How a box is written: :mod:`sightling.world.grounding`.
"""

from __future__ import annotations

from random import Random

from sightling.world.describe import LANGUAGES
from sightling.world.describe.words import Words
from sightling.world.facts import fact_of, reading_order
from sightling.world.families.base import BY_LOOKS, Draft, Extreme, Family, Slot, Spot, View, pick, say
from sightling.world.grounding import thing_boxes, write_box, write_group
from sightling.world.mentions import Mention
from sightling.world.scene import Scene

# A box is a square in the world's English, so no question asks for a box by that word.

_SHARE_EXTREME = 0.15
"""How often an expression is the leftmost, rightmost, topmost or bottommost thing, where there is one."""

_KINDS = (("shape",), ("color",), ("color", "shape"), ("color", "shape"))
"""Ways to say what is to be detected."""

_AND = {"en": (", ", " and "), "zh": ("、", "和")}


def grounded(scene: Scene, language: str) -> str:
    """Every thing with size, texture, colour and shape, and its box behind it, in reading order; canonical words."""
    found, words = thing_boxes(scene), Words(Random(0))
    said = [
        write_group(LANGUAGES[language].noun_phrase(_looks(scene, index), "a", words), [found[index]])
        for index in reading_order(scene)
    ]
    comma, last = _AND[language]
    return comma.join(said[:-1]) + last + said[-1] if len(said) > 1 else "".join(said)


def _looks(scene: Scene, index: int) -> Mention:
    fact = fact_of(scene.things[index])
    names = ("shape", "color", "size", *(() if fact.texture == "plain" else ("texture",)))
    said = say(fact, names)
    assert said is not None  # only a plain texture cannot be said
    return said


def _refer(view: View, rng: Random) -> Draft | None:
    found = thing_boxes(view.scene)
    extreme = rng.random() < _SHARE_EXTREME
    for index in view.order(rng):
        slot: Slot | None = None
        if extreme and (sides := view.extreme(index)):
            slot = Extreme(pick(sides, rng))
        slot = slot or view.reference(index, BY_LOOKS, rng)
        if slot is not None:
            return Draft("refer", write_box(found[index]), (), {"a": slot})
    return None


def _identify(view: View, rng: Random) -> Draft | None:
    for index in view.order(rng):
        said = say(view.facts[index], ("color", "shape"))
        if said is not None:
            return Draft("identify", "", (), {"a": said, "b": Spot(write_box(thing_boxes(view.scene)[index]))})
    return None


def _detect(view: View, rng: Random) -> Draft | None:
    if not view.facts:
        return None
    fact = view.facts[int(rng.random() * len(view.facts))]
    said = say(fact, pick(_KINDS, rng))
    return Draft("detect", "", (), {"a": said}) if said is not None else None


def _ground(view: View, rng: Random) -> Draft | None:
    return Draft("ground", "", ()) if view.facts else None


def _box(view: View, draft: Draft, language: str, words: Words) -> str:
    return draft.answer


def _name(view: View, draft: Draft, language: str, words: Words) -> str:
    # Answers keep to the canonical words: a synonym is for understanding, not for saying.
    return str(LANGUAGES[language].noun_phrase(draft.slots["a"], "", Words(words.rng)))


def _all_boxes(view: View, draft: Draft, language: str, words: Words) -> str:
    said = draft.slots["a"]
    assert isinstance(said, Mention)
    found = thing_boxes(view.scene)
    fitting = [found[index] for index in reading_order(view.scene) if said.fits(view.facts[index])]
    return write_group(_name(view, draft, language, words), fitting)


def _all_grounded(view: View, draft: Draft, language: str, words: Words) -> str:
    return grounded(view.scene, language)


def _no_word(language: str, form: str, answer: str) -> str:
    return answer


REFER = Family(
    name="refer",
    about="the box of the one thing that an expression means",
    propose=_refer,
    templates={
        "en": {"refer": ("give the location of {a:the}.", "where exactly is {a:the}?", "locate {a:the}.")},
        "zh": {"refer": ("给出{a}的坐标框。", "用坐标框标出{a}。", "框出{a}。")},
    },
    word=_no_word,
    write=_box,
    thinned=False,
    task="refer",
    judged="boxes",
)

IDENTIFY = Family(
    name="identify",
    about="what is in a box: its colour and shape",
    propose=_identify,
    templates={
        "en": {"identify": ("what is in {b}?", "what is this {b}?", "name the thing at {b}.")},
        "zh": {"identify": ("{b}里是什么？", "{b}处的东西是什么？", "说出{b}里的东西。")},
    },
    word=_no_word,
    write=_name,
    thinned=False,
    task="identify",
)

DETECTION = Family(
    name="detection",
    about="the boxes of all things that a phrase fits",
    propose=_detect,
    templates={
        "en": {"detect": ("find every {a:}.", "detect every {a:}.", "locate every {a:}.")},
        "zh": {"detect": ("找出所有{a}。", "检测所有{a}。", "框出所有{a}。")},
    },
    word=_no_word,
    write=_all_boxes,
    thinned=False,
    task="detection",
    judged="boxes",
)

GROUNDING = Family(
    name="grounding",
    about="every thing with size, colour, texture and shape, and its box",
    propose=_ground,
    templates={
        "en": {
            "ground": (
                "describe each thing in the picture with its location.",
                "what is in the picture, and where exactly?",
                "describe the picture in detail, with locations.",
            )
        },
        "zh": {"ground": ("逐一描述图中的东西，给出坐标框。", "图中有什么？给出坐标框。", "详细描述这张图，给出框。")},
    },
    word=_no_word,
    write=_all_grounded,
    thinned=False,
    task="grounding",
    judged="boxes",
)

BOXED = frozenset({"refer", "identify", "detection", "grounding"})
"""Families whose questions or answers hold boxes."""
