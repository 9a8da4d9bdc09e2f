"""Is there such a thing? Half the time there is, for every description alike.

The balance is exact for any distribution of scenes, habits included. The scene is compared with a twin: another scene
of the same distribution. "Yes" asks for something that the scene has and the twin lacks; "no" asks for something that
the twin has and the scene lacks. Swapping scene and twin turns every "yes" into an equally likely "no", so no text
leans either way. Often the twin is the scene itself with its colours and sizes dealt anew among its things: then "no"
asks for a red circle where there is a red square and a blue circle, and only binding colour to shape answers it.
"""

from __future__ import annotations

from random import Random

from sightling.world.facts import ThingFact
from sightling.world.families.base import YES_NO, Draft, Family, View, pick, say
from sightling.world.mentions import Mention

NEAR = 0.5
"""How often the twin is the scene with its attributes dealt anew, where the scene allows it."""

Levels = tuple[tuple[str, ...], ...]

_LEVELS: Levels = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
    ("texture", "shape"),
    ("texture", "color"),
)


def dealt_anew(facts: tuple[ThingFact, ...], rng: Random) -> tuple[ThingFact, ...]:
    """The things with their colours and their sizes shuffled among them: an equally likely scene without a habit."""
    colors = [fact.color for fact in facts]
    sizes = [fact.size for fact in facts]
    rng.shuffle(colors)
    rng.shuffle(sizes)
    return tuple(
        ThingFact(fact.shape, color, size, fact.texture, fact.glyph, fact.place)
        for fact, color, size in zip(facts, colors, sizes, strict=True)
    )


def _sayings(facts: tuple[ThingFact, ...], names: tuple[str, ...]) -> dict[Mention, None]:
    return dict.fromkeys(said for fact in facts if (said := say(fact, names)) is not None)


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question whose answer is yes or no with equal chance, at one level of description."""
    yes = rng.random() < 0.5
    # Under a habit colours do not belong to things by chance, so a new deal is no longer a likely scene.
    if len(view.facts) > 1 and view.spec.habit is None and rng.random() < NEAR:
        found = compare(view.facts, dealt_anew(view.facts, rng), yes, rng)
        if found is not None:
            return found
    return compare(view.facts, view.twin(), yes, rng)


def compare(
    facts: tuple[ThingFact, ...], twin: tuple[ThingFact, ...], yes: bool, rng: Random, levels: Levels = _LEVELS
) -> Draft | None:
    """A question for something that only ``facts`` hold (``yes``) or only ``twin``, at one of the ``levels``."""
    here, there = (facts, twin) if yes else (twin, facts)
    left = list(levels)
    while left:
        names = left.pop(int(rng.random() * len(left)))
        first, second = _sayings(here, names), _sayings(there, names)
        only_here = [said for said in first if said not in second]
        # Both differences must hold something, or the level would be asked with one answer more than the other.
        if only_here and any(said not in first for said in second):
            said = pick(only_here, rng)
            # "Any red letters A" would be odd: a letter that is told is spoken of in the singular.
            return Draft("sign" if said.glyph else "is", "yes" if yes else "no", YES_NO, {"a": said}, ("is",))
    return None


WORDS = {"en": {"yes": "yes", "no": "no"}, "zh": {"yes": "有", "no": "没有"}}

_ONE = ("is there {a:a}?", "do you see {a:a}?", "can you find {a:a}?")
_ZH = ("图中有没有{a}？", "图中有{a}吗？", "有没有{a}？", "这里有没有{a}？")

FAMILY = Family(
    name="existence",
    about="is there such a thing, yes or no",
    propose=propose,
    templates={
        "en": {"is": (*_ONE, "are there any {a:many}?"), "sign": _ONE},
        "zh": {"is": _ZH, "sign": _ZH},
    },
    word=lambda language, form, answer: WORDS[language][answer],
    thinned=False,
)
