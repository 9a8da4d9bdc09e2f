"""What is true of a scene, in the world's own keys: the ground that words are made from and judged by."""

from __future__ import annotations

from dataclasses import dataclass

from sightling.world.scene import Scene, Thing

RELATION_MARGIN = 0.12
"""How far apart two centres must be along an axis (fraction of the picture) for a relation to be clear."""

PLACE_MARGIN = 0.03
"""How far a centre must be from the lines between regions (fraction of the picture) to lie clearly in one."""

_COLUMNS = ("left", "", "right")
_ROWS = ("top", "", "bottom")


@dataclass(frozen=True, slots=True)
class ThingFact:
    """What words can say about one thing; keys of the lexicon's tables, ``glyph`` is ``""`` for all but letters."""

    shape: str
    color: str
    size: str
    texture: str
    glyph: str
    place: str


def place_of(thing: Thing) -> str:
    """The region that holds the thing's centre, a key of ``lexicon.PLACES``: the picture in thirds both ways."""
    column = _COLUMNS[_third(thing.x)]
    row = _ROWS[_third(thing.y)]
    return f"{row} {column}".strip() or "center"


def place_is_clear(thing: Thing, margin: float = PLACE_MARGIN) -> bool:
    """Whether the centre keeps ``margin`` from the lines between regions, so that nobody doubts the place."""
    return all(abs(value - line) >= margin for value in (thing.x, thing.y) for line in (1 / 3, 2 / 3))


def relation(first: Thing, second: Thing, margin: float = RELATION_MARGIN) -> frozenset[str]:
    """How ``first`` clearly lies to ``second``: of ``left``, ``right``, ``above``, ``below``, at most one an axis.

    An axis along which the centres are less than ``margin`` apart gives neither word: there the truthful answer to
    "is it left of it?" is in doubt, and nothing should be asked. So "no" is sure only when the opposite is present.
    """
    found: list[str] = []
    if abs(first.x - second.x) >= margin:
        found.append("left" if first.x < second.x else "right")
    if abs(first.y - second.y) >= margin:
        found.append("above" if first.y < second.y else "below")
    return frozenset(found)


def fact_of(thing: Thing) -> ThingFact:
    """Everything that words can say about one thing."""
    return ThingFact(thing.shape, thing.color, thing.size, thing.texture, thing.glyph, place_of(thing))


def facts_of(scene: Scene) -> tuple[ThingFact, ...]:
    """The facts of every thing, in the scene's order."""
    return tuple(fact_of(thing) for thing in scene.things)


def reading_order(scene: Scene) -> tuple[int, ...]:
    """Indices of the things as one reads: region by region, rows from the top, each row from the left."""

    def key(index: int) -> tuple[int, float, float]:
        thing = scene.things[index]
        return _third(thing.y), thing.x, thing.y

    return tuple(sorted(range(len(scene.things)), key=key))


def _third(value: float) -> int:
    return 0 if value < 1 / 3 else 1 if value < 2 / 3 else 2
