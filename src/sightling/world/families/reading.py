"""Which letter or digit is it?"""

from __future__ import annotations

from random import Random

from sightling.world.families.base import Draft, Family, View
from sightling.world.lexicon import DIGITS, GLYPHS, LETTERS

_WAYS = (("color",), ("place",), ("size", "color"))


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about the only letter or digit, or about one referred to by colour, size or place."""
    shown = [index for index in view.order(rng) if view.facts[index].glyph]
    for index in shown:
        glyph = view.facts[index].glyph
        kind, choices = ("letter", LETTERS) if glyph in LETTERS else ("digit", DIGITS)
        if rng.random() < 0.3:
            kind, choices = "either", GLYPHS
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
