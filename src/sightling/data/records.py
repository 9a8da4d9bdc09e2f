"""From a record to the samples that are learnt from: what is refused, what other models say, what stays decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sightling.data.formats.base import Record
from sightling.data.notes import Known, NoteKeys, noted
from sightling.data.sample import Picture, Sample, Turn
from sightling.errors import UserError


def bad(record: Record) -> UserError:
    """What a bad record is refused with."""
    return UserError(f"{record.where}: {'; '.join(record.problems)}")


def missing(sample: Sample, seen: set[Path]) -> Path | None:
    """The sample's first picture file that does not exist; each file is looked for once."""
    for picture in sample.pictures():
        if picture.path is not None and picture.path not in seen:
            if not picture.path.is_file():
                return picture.path
            seen.add(picture.path)
    return None


def good(record: Record, seen: set[Path], keys: NoteKeys | None, known: Known) -> Sample:
    """The record's sample, whose picture files exist, with the notes that ``keys`` name.

    Raises:
        UserError: a bad record, a picture file that does not exist, or notes that the record lacks.
    """
    if record.sample is None:
        raise bad(record)
    absent = missing(record.sample, seen)
    if absent is not None:
        raise UserError(f"{record.where}: picture {absent} does not exist")
    return with_notes(record, record.sample, keys, known)


def with_notes(record: Record, sample: Sample, keys: NoteKeys | None, known: Known) -> Sample:
    """The record's sample with the notes that ``keys`` name.

    Raises:
        UserError: the record lacks them; it is told which.
    """
    if keys is None:
        return sample
    try:
        return noted(sample, keys, known)
    except UserError as error:
        raise UserError(f"{record.where}: {error}") from None


class Decoded:
    """Groups whose pictures have been decoded, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.full = most <= 0
        self._groups: dict[int, list[Sample]] = {}

    def group(self, index: int, group: list[Sample]) -> list[Sample]:
        """The group with its pictures in memory while they fit, else as it is."""
        if index in self._groups:
            return self._groups[index]
        if self.full:
            return group
        known: dict[Picture, Picture] = {}
        for picture in (picture for sample in group for picture in sample.pictures()):
            if picture not in known:
                known[picture] = Picture(image=picture.load(), tiles=picture.tiles, notes=picture.notes)
        cost = sum(4 * width * height for width, height in (picture.size() for picture in known.values()))
        if self.used + cost > self.most:
            self.full = True
            return group
        self.used += cost
        self._groups[index] = [_with_pictures(sample, known) for sample in group]
        return self._groups[index]


def _with_pictures(sample: Sample, known: Mapping[Picture, Picture]) -> Sample:
    turns = []
    for turn in sample.turns:
        parts = tuple(known[part] if isinstance(part, Picture) else part for part in turn.parts)
        turns.append(Turn(turn.role, parts, turn.supervised))
    return Sample(tuple(turns), sample.meta)
