"""Which letter or digit is it? Referred to by its looks, or found by its place alone."""

from __future__ import annotations

from random import Random

from sightling.world.families.base import Draft, Family, View
from sightling.world.lexicon import DIGITS, GLYPHS, LETTERS

_EITHER = 0.3
"""How often the question does not tell a letter from a digit."""

_WAYS = (("color",), ("place",), ("size", "color"))


def kind_of(glyph: str, rng: Random) -> tuple[str, tuple[str, ...]]:
    """What the question calls the sign ("letter", "digit" or "either"), and every sign so called."""
    if rng.random() < _EITHER:
        return "either", GLYPHS
    return ("letter", LETTERS) if glyph in LETTERS else ("digit", DIGITS)


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about the only letter or digit, or about one referred to by colour, size or place."""
    shown = [index for index in view.order(rng) if view.facts[index].glyph]
    for index in shown:
        glyph = view.facts[index].glyph
        kind, choices = kind_of(glyph, rng)
        if len(shown) == 1 and rng.random() < 0.7:
            return Draft(kind, glyph, choices, {}, (kind,))
        a = view.reference(index, _WAYS, rng)
        if a is not None:
            return Draft(f"the {kind}", glyph, choices, {"a": a}, (kind,))
    return None


FAMILY = Family(
    name="reading",
    about="which letter or digit is shown",
    propose=propose,
    templates={
        "en": {
            "letter": ("which letter is in the picture?", "which letter is shown?"),
            "digit": ("which digit is in the picture?", "which digit is shown?"),
            "either": ("which letter or digit is shown?", "what is written in the picture?"),
            "the letter": ("which letter is {a:the}?", "what letter is {a:the}?"),
            "the digit": ("which digit is {a:the}?", "what digit is {a:the}?"),
            "the either": ("which letter or digit is {a:the}?",),
        },
        "zh": {
            "letter": ("图中有哪个字母？", "图中是什么字母？"),
            "digit": ("图中有哪个数字？", "图中是什么数字？"),
            "either": ("图中写着什么？", "图中是什么字母或数字？"),
            "the letter": ("{a}是什么字母？", "{a}是哪个字母？"),
            "the digit": ("{a}是什么数字？", "{a}是哪个数字？"),
            "the either": ("{a}是什么字母或数字？",),
        },
    },
    word=lambda language, form, answer: answer,
    thinned=False,
)


def propose_by_place(view: View, rng: Random) -> Draft | None:
    """Drafts a question about a letter or digit that lies alone, and clearly, within a region."""
    for index in view.order(rng):
        glyph = view.facts[index].glyph
        a = view.mention(index, ("place",)) if glyph else None
        if a is not None:
            kind, choices = kind_of(glyph, rng)
            return Draft(kind, glyph, choices, {"a": a}, (kind,))
    return None


BY_PLACE = Family(
    name="reading_place",
    about="which letter or digit is in a region of the picture",
    propose=propose_by_place,
    templates={
        "en": {
            "letter": ("what letter is {a:where}?", "which letter is {a:where}?"),
            "digit": ("what digit is {a:where}?", "which digit is {a:where}?"),
            "either": ("what is written {a:where}?", "which letter or digit is {a:where}?"),
        },
        "zh": {
            "letter": ("{a:where}是什么字母？", "{a:where}是哪个字母？"),
            "digit": ("{a:where}是什么数字？", "{a:where}是哪个数字？"),
            "either": ("{a:where}写着什么？", "{a:where}是什么字母或数字？"),
        },
    },
    word=lambda language, form, answer: answer,
    thinned=False,
)
