"""What a description says, decided before any words: which mentions, in which order, and which relations.

The order is always the reading order (rows from the top, each row from the left), so that a model can learn it and a
scene has one content for each level of detail, however it is worded.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.world.facts import ThingFact, facts_of, reading_order, relation
from sightling.world.mentions import Description, Mention
from sightling.world.scene import Scene

DETAILS = ("phrase", "short", "detailed", "paragraph")
"""Levels of detail, from a noun phrase to a paragraph."""

MOST_RELATIONS = 2
"""How many relations a paragraph tells."""

_REFERENCES = (("shape",), ("color", "shape"), ("size", "color", "shape"))


def _mention(fact: ThingFact, detail: str) -> Mention:
    full = detail in ("detailed", "paragraph")
    return Mention(
        shape=fact.shape,
        color=fact.color,
        size=None if detail == "phrase" else fact.size,
        texture=fact.texture if full and fact.texture != "plain" else None,
        glyph=fact.glyph or None,
        place=fact.place if full else None,
    )


def described_facts(scene: Scene, detail: str) -> Description:
    """What every description of the scene at this level says, whatever its words: the parser reads back just this.

    Things that the text cannot tell apart are one mention with their number. ``phrase`` says colour and shape;
    ``short`` adds size; ``detailed`` adds texture (unless plain) and place; ``paragraph`` adds relations, each told of
    two neighbours in reading order that have names of their own, always as ``left`` or ``above``.

    Raises:
        ValueError: an unknown level of detail.
    """
    if detail not in DETAILS:
        raise ValueError(f"unknown detail {detail!r}; known are: {', '.join(DETAILS)}")
    facts = facts_of(scene)
    counts: dict[Mention, int] = {}
    where: list[tuple[int, Mention]] = []
    for index in reading_order(scene):
        mention = _mention(facts[index], detail)
        if mention not in counts:
            where.append((index, mention))
        counts[mention] = counts.get(mention, 0) + 1
    mentions = tuple([m if counts[m] == 1 else replace(m, count=counts[m]) for _, m in where])
    relations: list[tuple[int, str, int]] = []
    if detail == "paragraph":
        for second in range(1, len(mentions)):
            pair = (second - 1, second)
            if len(relations) == MOST_RELATIONS or any(reference(mentions, at) is None for at in pair):
                continue
            found = relation(scene.things[where[pair[0]][0]], scene.things[where[pair[1]][0]])
            for name, opposite in (("left", "right"), ("above", "below")):
                if name in found or opposite in found:
                    first, last = pair if name in found else (second, second - 1)
                    relations.append((first, name, last))
                    break
    return Description(mentions, tuple(relations))


def reference(mentions: tuple[Mention, ...], index: int) -> Mention | None:
    """The shortest way to speak of one mention again so that no other is meant; ``None`` when there is none."""
    this = mentions[index]
    if this.count != 1:
        return None
    for names in _REFERENCES:
        short = Mention(
            shape=this.shape,
            glyph=this.glyph,
            color=this.color if "color" in names else None,
            size=this.size if "size" in names else None,
        )
        if all(at == index or not refers(short, other) for at, other in enumerate(mentions)):
            return short
    return None


def refers(short: Mention, full: Mention) -> bool:
    """Whether everything that ``short`` states is stated alike by ``full``."""
    return (
        (short.shape is None or short.shape == full.shape)
        and (short.glyph is None or short.glyph == full.glyph)
        and (short.color is None or short.color == full.color)
        and (short.size is None or short.size == full.size)
        and (short.texture is None or short.texture == full.texture)
        and (short.place is None or short.place == full.place)
    )
