"""What words say about a scene: mentions of things and relations between them, free of any language.

The same records are what a sentence is made from (:mod:`~sightling.world.describe`) and what is read out of it
(:mod:`~sightling.world.parse`), so that saying and reading can be compared by ``==``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sightling.world.facts import ThingFact

ATTRIBUTES = ("shape", "color", "size", "texture", "glyph", "place")
"""What a mention can state about a thing, named as in :class:`~sightling.world.facts.ThingFact`."""


@dataclass(frozen=True, slots=True)
class Mention:
    """``count`` things that share every stated attribute; ``None`` is an attribute left unsaid.

    ``count`` 0 is a denial ("no red circle"). ``glyph`` goes with shape ``"letter"`` only.
    """

    count: int = 1
    shape: str | None = None
    color: str | None = None
    size: str | None = None
    texture: str | None = None
    glyph: str | None = None
    place: str | None = None

    def fits(self, fact: ThingFact) -> bool:
        """Whether the thing agrees with every attribute that this mention states."""
        return (
            (self.shape is None or self.shape == fact.shape)
            and (self.color is None or self.color == fact.color)
            and (self.size is None or self.size == fact.size)
            and (self.texture is None or self.texture == fact.texture)
            and (self.glyph is None or self.glyph == fact.glyph)
            and (self.place is None or self.place == fact.place)
        )

    def stated(self) -> tuple[str, ...]:
        """The names of the attributes that are said."""
        return tuple(name for name in ATTRIBUTES if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True)
class Description:
    """All that a text says: mentions in text order, relations by mention index, and words not understood.

    A relation ``(i, name, j)`` reads "mention i lies ``name`` (left, right, above, below) to mention j".
    """

    mentions: tuple[Mention, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    unknown: tuple[str, ...] = ()
