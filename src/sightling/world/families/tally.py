"""How many are there of one shape among many? For scenes that are crowds, where every number is equally likely.

The shapes of a crowd are counted out independently and evenly, so the answer is even whichever of them is asked for,
and neither the total nor the number of the others gives it away.
"""

from __future__ import annotations

from random import Random

from sightling.world.families.base import Draft, Family, View, one, pick
from sightling.world.spec import crowd_counts


def propose(view: View, rng: Random) -> Draft | None:
    """Drafts a question about the number of one of the shapes; ``None`` where the scene is no crowd."""
    counts: dict[str, int] = {}
    for fact in view.facts:
        counts[fact.shape] = counts.get(fact.shape, 0) + 1
    if not view.spec.crowd or len(counts) != view.spec.crowd:
        return None
    shape = pick(list(counts), rng)
    choices = tuple(str(count) for count in crowd_counts(view.spec))
    return Draft("tally", str(counts[shape]), choices, {"a": one("shape", shape)}, ("tally",))


FAMILY = Family(
    name="tally",
    about="how many things of one shape there are in a crowd",
    propose=propose,
    templates={
        "en": {
            "tally": (
                "how many {a:many} are there?",
                "how many {a:many} are in the picture?",
                "how many {a:many} do you see?",
                "count the {a:many}.",
            )
        },
        "zh": {
            "tally": (
                "图中有几{a:measure}？",
                "有几{a:measure}？",
                "图中有多少{a:measure}？",
                "数一数有几{a:measure}。",
            )
        },
    },
    word=lambda language, form, answer: answer,
    thinned=False,
)
