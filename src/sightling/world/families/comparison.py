"""How do two things, or two kinds of things, compare: in size, colour, shape and number?"""

from __future__ import annotations

from random import Random

from sightling.world.families.base import YES_NO, Draft, Family, View, one, pick, yes_no
from sightling.world.spec import RADII

_SIZE_WAYS = (("shape",), ("color",), ("color", "shape"), ("color", "shape"))
_NOUNS = {"shape": "shapes", "color": "colors", "size": "sizes"}


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a comparison; the kind is drawn first, so that what a scene holds cannot tilt the kinds."""
    if len(view.facts) < 2:
        return None
    lot = rng.random()
    if lot < 0.45:
        return _larger(view, rng)
    if lot < 0.75:
        return _same(view, "color" if rng.random() < 0.5 else "shape", rng)
    return _more(view, rng)


def _larger(view: View, rng: Random) -> Draft | None:
    order = view.order(rng)
    for at, first in enumerate(order):
        for second in order[at + 1 :]:
            if view.facts[first].size == view.facts[second].size:
                continue
            a, b = view.reference(first, _SIZE_WAYS, rng), view.reference(second, _SIZE_WAYS, rng)
            if a is None or b is None:
                continue
            larger = RADII[view.facts[first].size] > RADII[view.facts[second].size]
            slots = {"a": a, "b": b}
            lot = rng.random()
            if lot < 0.5:
                return Draft("which", "larger" if larger else "smaller", ("larger", "smaller"), slots, ("which",))
            form = "larger" if lot < 0.75 else "smaller"
            return Draft(form, "yes" if larger == (form == "larger") else "no", YES_NO, slots, (form,))
    return None


def _same(view: View, attribute: str, rng: Random) -> Draft | None:
    """Whether two things share colour (each referred to by its shape) or shape (each by its colour)."""
    facts = view.facts
    yes = rng.random() < 0.5
    other = "shape" if attribute == "color" else "color"
    order = view.order(rng)
    for at, first in enumerate(order):
        for second in order[at + 1 :]:
            if (getattr(facts[first], attribute) == getattr(facts[second], attribute)) != yes:
                continue
            if attribute == "shape" and (facts[first].glyph or facts[second].glyph):
                continue
            answer = "yes" if yes else "no"
            if len(facts) == 2 and rng.random() < 0.5:
                return Draft(f"both {attribute}", answer, YES_NO, {}, (f"both {attribute}",))
            a, b = view.mention(first, (other,)), view.mention(second, (other,))
            if a is not None and b is not None:
                return Draft(f"same {attribute}", answer, YES_NO, {"a": a, "b": b}, (f"same {attribute}",))
    return None


def _more(view: View, rng: Random) -> Draft | None:
    """Whether there are more of one kind than of another, both present where the scene allows it."""
    attribute = pick(("shape", "shape", "color", "color", "size"), rng)
    counts: dict[str, int] = {}
    for fact in view.facts:
        if not (attribute == "shape" and fact.glyph):
            value = getattr(fact, attribute)
            counts[value] = counts.get(value, 0) + 1
    pairs = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if pairs and rng.random() < 0.8:
        many, few = pick(pairs, rng)
    else:
        absent = [name for name in getattr(view.spec, _NOUNS[attribute]) if name not in counts]
        if not counts or not absent:
            return None
        many, few = pick(list(counts), rng), pick(absent, rng)
    yes = rng.random() < 0.5
    first, second = (many, few) if yes else (few, many)
    slots = {"a": one(attribute, first), "b": one(attribute, second)}
    group = ("more", attribute, first if attribute == "size" else "")
    return Draft("more", "yes" if yes else "no", YES_NO, slots, group)


_WHICH = {"en": {"larger": "larger", "smaller": "smaller"}, "zh": {"larger": "大", "smaller": "小"}}


def _word(language: str, form: str, answer: str) -> str:
    return _WHICH[language][answer] if form == "which" else yes_no(language, form, answer)


FAMILY = Family(
    name="comparison",
    about="how two things compare in size, colour or shape, and which kind there is more of",
    propose=propose,
    templates={
        "en": {
            "larger": ("is {a:the} larger than {b:the}?", "is {a:the} bigger than {b:the}?"),
            "smaller": ("is {a:the} smaller than {b:the}?",),
            "which": ("is {a:the} larger or smaller than {b:the}?", "is {a:the} smaller or larger than {b:the}?"),
            "same color": ("do {a:the} and {b:the} have the same color?", "is {a:the} the same color as {b:the}?"),
            "same shape": ("do {a:the} and {b:the} have the same shape?", "is {a:the} the same shape as {b:the}?"),
            "both color": ("are both things the same color?", "do the two things have the same color?"),
            "both shape": ("are both things the same shape?", "do the two things have the same shape?"),
            "more": ("are there more {a:many} than {b:many}?",),
        },
        "zh": {
            "larger": ("{a}比{b}大吗？", "{a}是不是比{b}大？"),
            "smaller": ("{a}比{b}小吗？", "{a}是不是比{b}小？"),
            "which": ("{a}比{b}大还是小？", "{a}比{b}小还是大？"),
            "same color": ("{a}和{b}颜色相同吗？", "{a}和{b}的颜色一样吗？"),
            "same shape": ("{a}和{b}形状相同吗？", "{a}和{b}的形状一样吗？"),
            "both color": ("两个东西颜色相同吗？", "这两个东西的颜色一样吗？"),
            "both shape": ("两个东西形状相同吗？", "这两个东西的形状一样吗？"),
            "more": ("{a}比{b}多吗？", "{a}是不是比{b}多？"),
        },
    },
    word=_word,
    steady=False,
)
