"""What is the miniature thing like, where is it, is there one? Questions that only a found needle answers.

Everything asked is about a thing of the size ``miniature``, and the words say so; other things are hay. "Is there a
miniature red star?" is balanced as in :mod:`~sightling.world.families.existence`: often the answer is no though the
picture holds a miniature star of another colour, or a red star of another size. The other answers are even as they
come, for a miniature thing lies anywhere; but under a habit colours go with shapes, so there neither is asked for.
"""

from __future__ import annotations

from random import Random

from sightling.world.facts import ThingFact, place_is_clear
from sightling.world.families import existence
from sightling.world.families.base import Draft, Family, View, pick
from sightling.world.families.reading import kind_of
from sightling.world.lexicon import COLORS, PLACES, SHAPES
from sightling.world.spec import MINIATURE

_KINDS = ("place", "is", "color", "shape")
_WAYS = {
    "color": (("size", "shape"), ("size", "shape"), ("size",)),
    "shape": (("size", "color"), ("size", "color"), ("size",)),
    "place": (("size", "color", "shape"), ("size", "shape"), ("size", "color"), ("size",)),
    "sign": (("size", "color"), ("size",)),
}
_LEVELS = (("size", "shape"), ("size", "color"), ("size", "color", "shape"), ("size", "color", "shape"))


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about a miniature thing; the kind is drawn first, so that no scene can tilt the kinds."""
    kinds = _KINDS if view.spec.habit is None else _KINDS[:2]
    kind = pick((*kinds, "sign") if view.spec.letters else kinds, rng)
    if kind == "is":
        return _is(view, rng)
    for index in view.order(rng):
        fact = view.facts[index]
        if fact.size != MINIATURE or (kind == "sign") > bool(fact.glyph) or (kind == "shape" and fact.glyph):
            continue
        if kind == "place" and not place_is_clear(view.things[index]):
            continue
        a = view.reference(index, _WAYS[kind], rng)
        if a is None:
            continue
        if kind == "sign":
            said, choices = kind_of(fact.glyph, rng)
            return Draft(said, fact.glyph, choices, {"a": a}, (said,))
        if kind == "place":
            return Draft("place", fact.place, tuple(PLACES), {"a": a}, ("place",))
        if kind == "color":
            return Draft("color", fact.color, view.spec.colors, {"a": a}, ("color", a.shape or ""))
        return Draft("shape", fact.shape, view.spec.shapes, {"a": a}, ("shape", a.color or ""))
    return None


def _is(view: View, rng: Random) -> Draft | None:
    yes = rng.random() < 0.5
    here = _miniature(view.facts)
    # As for existence: under a habit a new deal is no longer a likely scene.
    if len(view.facts) > 1 and view.spec.habit is None and rng.random() < existence.NEAR:
        dealt = _miniature(existence.dealt_anew(view.facts, rng))
        found = existence.compare(here, dealt, yes, rng, _LEVELS)
        if found is not None:
            return found
    return existence.compare(here, _miniature(view.twin()), yes, rng, _LEVELS)


def _miniature(facts: tuple[ThingFact, ...]) -> tuple[ThingFact, ...]:
    return tuple(fact for fact in facts if fact.size == MINIATURE)


def _word(language: str, form: str, answer: str) -> str:
    if form in ("is", "sign"):
        return existence.WORDS[language][answer]
    table = {"color": COLORS, "shape": SHAPES, "place": PLACES}.get(form)
    return answer if table is None else table[answer].canonical(language)


_ONE = ("is there {a:a}?", "do you see {a:a}?", "can you find {a:a}?")
_ZH = ("图中有没有{a}？", "图中有{a}吗？", "有没有{a}？")

FAMILY = Family(
    name="finding",
    about="what colour, shape or sign a miniature thing has, where it is, and whether there is one",
    propose=propose,
    templates={
        "en": {
            "is": _ONE,
            "sign": _ONE,
            "color": ("what color is {a:the}?", "find {a:the}: what color is it?"),
            "shape": ("what shape is {a:the}?", "find {a:the}: what shape is it?"),
            "place": ("where is {a:the}?", "where can you find {a:the}?"),
            "letter": ("which letter is {a:the}?", "what letter is {a:the}?"),
            "digit": ("which digit is {a:the}?", "what digit is {a:the}?"),
            "either": ("which letter or digit is {a:the}?",),
        },
        "zh": {
            "is": _ZH,
            "sign": _ZH,
            "color": ("{a}是什么颜色？", "找到{a}，它是什么颜色？"),
            "shape": ("{a}是什么形状？", "找到{a}，它是什么形状？"),
            "place": ("{a}在哪里？", "{a}在图中什么位置？"),
            "letter": ("{a}是什么字母？", "{a}是哪个字母？"),
            "digit": ("{a}是什么数字？", "{a}是哪个数字？"),
            "either": ("{a}是什么字母或数字？",),
        },
    },
    word=_word,
    thinned=False,
)
