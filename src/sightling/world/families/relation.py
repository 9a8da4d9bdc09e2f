"""How do two things lie to each other? Asked as yes/no and as a choice of two, only about clear cases.

The order of the pair and the answer are drawn by coin; left and right (above and below) are equally likely in any scene
distribution that does not prefer a side, so no text leans either way.
"""

from __future__ import annotations

from random import Random

from sightling.world.facts import relation
from sightling.world.families.base import BY_LOOKS, YES_NO, Draft, Family, View, pick, yes_no
from sightling.world.lexicon import OPPOSITES


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about one pair of things that clearly lie apart along one axis."""
    order = view.order(rng)
    for at, first in enumerate(order):
        for second in order[at + 1 :]:
            true = sorted(relation(view.things[first], view.things[second]))
            if not true:
                continue
            a, b = view.reference(first, BY_LOOKS, rng), view.reference(second, BY_LOOKS, rng)
            if a is None or b is None:
                continue
            name = pick(true, rng)
            slots = {"a": a, "b": b}
            if rng.random() < 0.5:
                axis = ("left", "right") if name in ("left", "right") else ("above", "below")
                return Draft("across" if axis[0] == "left" else "along", name, axis, slots, ("which", axis[0]))
            if rng.random() < 0.5:
                return Draft(name, "yes", YES_NO, slots, ("is", name))
            return Draft(OPPOSITES[name], "no", YES_NO, slots, ("is", OPPOSITES[name]))
    return None


_SIDES = {
    "en": {"left": "left", "right": "right", "above": "above", "below": "below"},
    "zh": {"left": "左边", "right": "右边", "above": "上方", "below": "下方"},
}


def _word(language: str, form: str, answer: str) -> str:
    return _SIDES[language][answer] if form in ("across", "along") else yes_no(language, form, answer)


FAMILY = Family(
    name="relation",
    about="whether a thing lies left of, right of, above or below another, and which of two it is",
    propose=propose,
    templates={
        "en": {
            "left": ("is {a:the} left of {b:the}?", "is {a:the} to the left of {b:the}?"),
            "right": ("is {a:the} right of {b:the}?", "is {a:the} to the right of {b:the}?"),
            "above": ("is {a:the} above {b:the}?",),
            "below": ("is {a:the} below {b:the}?",),
            "across": (
                "is {a:the} left or right of {b:the}?",
                "is {a:the} to the left or to the right of {b:the}?",
            ),
            "along": ("is {a:the} above or below {b:the}?", "is {a:the} below or above {b:the}?"),
        },
        "zh": {
            "left": ("{a}在{b}的左边吗？", "{a}是不是在{b}的左边？"),
            "right": ("{a}在{b}的右边吗？", "{a}是不是在{b}的右边？"),
            "above": ("{a}在{b}的上方吗？", "{a}是不是在{b}的上方？"),
            "below": ("{a}在{b}的下方吗？", "{a}是不是在{b}的下方？"),
            "across": ("{a}在{b}的左边还是右边？", "{a}在{b}的右边还是左边？"),
            "along": ("{a}在{b}的上方还是下方？", "{a}在{b}的下方还是上方？"),
        },
    },
    word=_word,
    thinned=False,
)
