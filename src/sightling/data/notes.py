"""What other models say of a data set's pictures, taken from columns or keys of its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sightling.data.sample import Notes, Picture, Sample, Turn
from sightling.errors import UserError, nearest
from sightling.parts import Part

PARTS = ("caption", "tags", "boxes")


class NoteKeys(Part):
    """Which key of a record holds the caption, the tags and the boxes; a part that is left out is "nothing found".

    The value is a text, or a list of texts: of a record with one picture they belong together, of one with several
    each is a picture's.
    """

    caption: str | None = None
    tags: str | None = None
    boxes: str | None = None


Known = dict[tuple[int, Notes], tuple[Picture, Picture]]
"""Pictures that have notes already, by what they were; what was one object stays one."""


def noted(sample: Sample, keys: NoteKeys, known: Known) -> Sample:
    """The sample with notes at its pictures.

    Raises:
        UserError: a key that the record lacks, no text there, or another number of texts than of pictures.
    """
    pictures = list(sample.pictures())
    if not pictures:
        return sample
    columns = {part: _texts(sample.meta, getattr(keys, part), len(pictures)) for part in PARTS}
    upcoming = iter([Notes(**{part: columns[part][place] for part in PARTS}) for place in range(len(pictures))])

    def of(picture: Picture) -> Picture:
        own = next(upcoming)
        # The old one is kept alive beside the new, so that its identity is not another's later.
        return known.setdefault((id(picture), own), (picture, replace(picture, notes=own)))[1]

    turns = [
        Turn(turn.role, tuple(of(part) if isinstance(part, Picture) else part for part in turn.parts), turn.supervised)
        for turn in sample.turns
    ]
    return replace(sample, turns=tuple(turns))


def _texts(meta: dict[str, Any], key: str | None, count: int) -> Sequence[str]:
    """One text for each of ``count`` pictures."""
    if key is None:
        return [""] * count
    if key not in meta:
        raise UserError(f"notes: the record has no key {key!r} with text; {nearest(key, sorted(meta))}")
    value = meta[key]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"notes: {key!r} is neither a text nor a list of texts")
    if count == 1:
        return [", ".join(texts)]
    if len(texts) != count:
        raise UserError(f"notes: {key!r} holds {len(texts)} texts for {count} pictures; it needs one for each")
    return texts
