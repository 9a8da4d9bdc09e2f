"""What colour, what shape, what size? Each asks for one attribute of a thing that is referred to by the others."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from sightling.world.families.base import Draft, Extreme, Family, Propose, View, pick
from sightling.world.lexicon import COLORS, SHAPES, SIZES
from sightling.world.mentions import Mention
from sightling.world.spec import MINIATURE

Ways = Sequence[Sequence[str]]

_SHARE_EXTREME = 0.15
"""How often a question refers to the leftmost, rightmost, topmost or bottommost thing, where there is one."""


def _proposer(attribute: str, form: str, choices: str, ways: Ways) -> Propose:
    """A proposer for the attribute; ``choices`` names the field of the specification that lists its values."""

    def propose(view: View, rng: Random) -> Draft | None:
        extreme = rng.random() < _SHARE_EXTREME
        for index in view.order(rng):
            fact = view.facts[index]
            if attribute == "shape" and fact.glyph:
                continue  # a letter has no shape of its own; reading asks for it
            slot: Extreme | None = None
            if extreme and (sides := view.extreme(index)):
                slot = Extreme(pick(sides, rng))
            reference = slot or view.reference(index, ways, rng)
            if reference is not None:
                group: tuple[str, ...] = (form,)
                if isinstance(reference, Mention):
                    # A habit ties colour to shape; crowding ties size to how much it takes to tell things apart.
                    told = reference.stated() if form == "size" else (reference.shape or reference.color or "",)
                    group = (form, *told)
                allowed = tuple(name for name in getattr(view.spec, choices) if name != "letter")
                # "Large or small?" leaves no third answer.
                said = "any size" if form == "size" and MINIATURE in allowed else form
                return Draft(said, getattr(fact, attribute), allowed, {"a": reference}, group)
        return None

    return propose


def _color_word(language: str, form: str, answer: str) -> str:
    return COLORS[answer].canonical(language)


def _shape_word(language: str, form: str, answer: str) -> str:
    return SHAPES[answer].canonical(language)


def _size_word(language: str, form: str, answer: str) -> str:
    return SIZES[answer].canonical(language)


COLOR = Family(
    name="color",
    about="the colour of a thing referred to by shape, size, texture or place",
    propose=_proposer(
        "color", "color", "colors", (("shape",), ("shape",), ("size", "shape"), ("texture", "shape"), ("place",))
    ),
    templates={
        "en": {"color": ("what color is {a:the}?", "what is the color of {a:the}?", "which color does {a:the} have?")},
        "zh": {"color": ("{a}是什么颜色？", "{a}的颜色是什么？", "{a}是什么颜色的？")},
    },
    word=_color_word,
)

SHAPE = Family(
    name="shape",
    about="the shape of a thing referred to by colour, size, texture or place",
    propose=_proposer(
        "shape", "shape", "shapes", (("color",), ("color",), ("size", "color"), ("size",), ("texture",), ("place",))
    ),
    templates={
        "en": {"shape": ("what shape is {a:the}?", "what is the shape of {a:the}?", "which shape does {a:the} have?")},
        "zh": {"shape": ("{a}是什么形状？", "{a}的形状是什么？", "{a}是什么形状的？")},
    },
    word=_shape_word,
)

SIZE = Family(
    name="size",
    about="the size of a thing referred to by shape, colour or place",
    propose=_proposer("size", "size", "sizes", (("shape",), ("color", "shape"), ("color",), ("place",))),
    templates={
        "en": {
            "size": ("is {a:the} large or small?", "is {a:the} small or large?", "what size is {a:the}?"),
            "any size": ("what size is {a:the}?", "how large is {a:the}?"),
        },
        "zh": {
            "size": ("{a}是大还是小？", "{a}是小还是大？", "{a}有多大？"),
            "any size": ("{a}有多大？", "{a}是什么大小？"),
        },
    },
    word=_size_word,
)
