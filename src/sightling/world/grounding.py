"""Boxes in words, as MiniGPT-v2 writes them: ``{<left><top><right><bottom>}`` in whole hundredths of the sides.

Source of the form: Chen et al., "MiniGPT-v2" (2023). ``<p>phrase</p>`` stands before the boxes of a phrase, and
``<delim>`` between several boxes of one. All of it is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sightling.world.render import boxes, picture_shape
from sightling.world.scene import Scene

PARTS = 100
"""Into how many parts a side is divided."""

_SIZE = 1000
"""Pixels of the shorter side at which boxes are measured; their hundredths do not depend on it."""

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in hundredths of the picture's width and height, 0 to 100."""

_BOX = r"\{<([0-9]{1,3})><([0-9]{1,3})><([0-9]{1,3})><([0-9]{1,3})>\}"
_BOXES = re.compile(_BOX)
_GROUP = re.compile(rf"(?:<p>([^<>{{}}]*)</p>[ \t]*)?({_BOX}(?:<delim>{_BOX})*)")
_BETWEEN = re.compile(r"(?:[\s,.;、，。；]|and\b|和)*")


@dataclass(frozen=True, slots=True)
class Grounded:
    """One box that a text names, and the phrase that it belongs to; ``""`` where there is none."""

    phrase: str
    box: Box


def thing_boxes(scene: Scene) -> tuple[Box, ...]:
    """The box of every thing, in the scene's order; none is narrower or lower than a hundredth.

    A coordinate is rounded down, as MiniGPT-v2's data are.
    """
    width, height = picture_shape(scene, _SIZE)
    found = []
    for left, top, right, bottom in boxes(scene, _SIZE):
        across, down = _span(left / width, right / width), _span(top / height, bottom / height)
        found.append((across[0], down[0], across[1], down[1]))
    return tuple(found)


def _span(start: float, end: float) -> tuple[int, int]:
    first, last = int(start * PARTS), int(end * PARTS)
    # What is thinner than a hundredth would have no area, and overlap with nothing.
    return (first, last) if last > first else (min(first, PARTS - 1), min(first, PARTS - 1) + 1)


def write_box(box: Box) -> str:
    """``{<left><top><right><bottom>}``."""
    return "{" + "".join(f"<{side}>" for side in box) + "}"


def write_group(phrase: str, found: Sequence[Box]) -> str:
    """``<p>phrase</p> {box}<delim>{box}``."""
    return f"<p>{phrase}</p> " + "<delim>".join(map(write_box, found))


def read_groups(text: str) -> tuple[Grounded, ...] | None:
    """Every box of a text with its phrase, in order; ``None`` where the text is anything but well-formed boxes.

    Between groups of phrase and boxes only commas, full stops, spaces and "and" may stand. A box has four whole
    numbers from 0 to 100, left below right and top below bottom. A text without a box is no text of boxes.
    """
    found: list[Grounded] = []
    place = _after(text, 0)
    while place < len(text):
        group = _GROUP.match(text, place)
        if group is None:
            return None
        phrase = " ".join((group[1] or "").split())
        if group[1] is not None and not phrase:
            return None
        for sides in _sides(group[2]):
            left, top, right, bottom = sides
            if max(sides) > PARTS or left >= right or top >= bottom:
                return None
            found.append(Grounded(phrase, sides))
        place = _after(text, group.end())
    return tuple(found) or None


def _after(text: str, place: int) -> int:
    skipped = _BETWEEN.match(text, place)
    return skipped.end() if skipped is not None else place


def _sides(text: str) -> Iterator[Box]:
    for match in _BOXES.finditer(text):
        left, top, right, bottom = map(int, match.groups())
        yield left, top, right, bottom


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    common = max(across, 0) * max(down, 0)
    return common / (_area(one) + _area(other) - common) if common else 0.0


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
