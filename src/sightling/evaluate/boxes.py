"""Whether an answer's boxes are the true ones: matched one to one, each by its phrase and its overlap.

A box is right when the intersection over union is at least one half, the usual measure of referring expressions
(Yu et al., "Modeling Context in Referring Expressions", 2016).
"""

from __future__ import annotations

from collections.abc import Iterable

from sightling.evaluate.metrics import normalise
from sightling.world.grounding import Grounded, overlap, read_groups

LEAST = 0.5
"""The overlap from which on a box is right."""


def boxes_right(said: str, answers: Iterable[str]) -> bool:
    """Whether the boxes of what was said are those of one of the accepted answers.

    Every box must be matched with one of the same phrase, none twice, and none may be over; their order does not
    matter. A text that is not well-formed boxes throughout is wrong.
    """
    found = read_groups(said.strip())
    return found is not None and any(_matched(found, read_groups(answer.strip()) or ()) for answer in answers)


def _matched(found: tuple[Grounded, ...], true: tuple[Grounded, ...]) -> bool:
    """Whether the boxes can be paired off (Kuhn's augmenting paths)."""
    if len(found) != len(true):
        return False
    owner: dict[int, int] = {}

    def place(number: int, tried: set[int]) -> bool:
        for other, truth in enumerate(true):
            if other not in tried and _fits(found[number], truth):
                tried.add(other)
                if other not in owner or place(owner[other], tried):
                    owner[other] = number
                    return True
        return False

    return all(place(number, set()) for number in range(len(found)))


def _fits(said: Grounded, truth: Grounded) -> bool:
    return normalise(said.phrase) == normalise(truth.phrase) and overlap(said.box, truth.box) >= LEAST
