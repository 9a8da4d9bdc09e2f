"""The question families by name. A new one is a file here and its line below."""

from __future__ import annotations

from sightling.world.families import (
    attributes,
    boxes,
    comparison,
    count,
    existence,
    finding,
    place,
    reading,
    relation,
    tally,
    telling,
)
from sightling.world.families.base import Draft, Family, Judged, Task, View

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        existence.FAMILY,
        attributes.COLOR,
        attributes.SHAPE,
        attributes.SIZE,
        count.FAMILY,
        place.FAMILY,
        relation.FAMILY,
        comparison.FAMILY,
        reading.FAMILY,
        reading.BY_PLACE,
        finding.FAMILY,
        tally.FAMILY,
        telling.CAPTION,
        telling.DESCRIPTION,
        boxes.REFER,
        boxes.IDENTIFY,
        boxes.DETECTION,
        boxes.GROUNDING,
    )
}
"""Every question family by name."""

__all__ = ["FAMILIES", "Draft", "Family", "Judged", "Task", "View"]
