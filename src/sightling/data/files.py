"""A data set on disk as groups of samples, for training: samples about one picture come together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sightling.data.formats import checked_root, open_data
from sightling.data.formats.base import Record, Table
from sightling.data.notes import Known, NoteKeys, noted
from sightling.data.sample import Picture, Sample, Turn
from sightling.data.source import SOURCES, SourceOptions
from sightling.data.splits import PICTURE, chosen, hold_out, linked, meta_value, picture_identity
from sightling.errors import UserError
from sightling.parts import Part


class HoldOut(Part):
    """Which side of a split to read, see :func:`sightling.data.splits.hold_out`.

    Attributes:
        fraction: the share of pictures (or of values of ``by``) that is held out.
        by: ``"picture"`` or a key of ``meta``.
        seed: which ones; the same seed in training and evaluation gives two sides of one split.
        part: ``"kept"`` for training, ``"held"`` for evaluation.
    """

    fraction: float = Field(gt=0, lt=1)
    by: str = PICTURE
    seed: int = 0
    part: Literal["kept", "held"] = "kept"


class FileSource:
    """Groups of samples from a file or folder in any known format.

    Samples that have the same pictures form one group and share their ``Picture`` objects. A parquet file is not
    held in memory: each of its rows is a group, read when asked for.

    Args:
        path, format, images_root, options: as :func:`sightling.data.formats.read_records`.
        split: one side of a split; everything when ``None``.
        on_error: ``"raise"`` at the first bad record, or ``"skip"`` bad ones (``skipped`` says how many).
            Parquet rows are checked when they are read, unless they are to be skipped or split.
        per_group: the most samples in a group; larger groups are cut.
        notes: the keys of a record that hold what other models say of its pictures.
        cache_bytes: how many bytes of decoded pictures to keep (4 a pixel, as Pillow holds them); 0 decodes anew
            each time. Each worker process has its own.

    Raises:
        UserError: as ``read_records``; a bad record; a picture file that does not exist; no sample at all.
    """

    def __init__(
        self,
        path: str | Path,
        format: str | None = None,
        *,
        images_root: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        split: HoldOut | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        per_group: int | None = None,
        notes: NoteKeys | None = None,
        cache_bytes: int = 0,
    ) -> None:
        if per_group is not None and per_group < 1:
            raise UserError(f"per_group is {per_group}; expected at least 1")
        self.path, self.format, checked = open_data(path, format, options)
        root = checked_root(images_root)
        self.skipped = 0
        self._on_error = on_error
        self._notes = notes
        self._cache = _Cache(cache_bytes)
        self._table: Table | None = self.format.table(self.path, root, checked)
        self._groups: list[list[Sample]] = []
        self._rows: np.ndarray = np.zeros(0, dtype=np.int64)
        if self._table is not None:
            self._rows = self._kept_rows(self._table, split)
        else:
            samples = list(self._good(self.format.read(self.path, root, checked)))
            if split is not None and samples:
                kept, held = hold_out(samples, split.fraction, split.by, split.seed)
                samples = held if split.part == "held" else kept
            self._groups = list(grouped(samples, per_group))
        if not len(self):
            # Zero groups would read as endless.
            raise UserError(f"{self.path} has no samples" + (f" ({self.skipped} bad ones)" if self.skipped else ""))

    def __len__(self) -> int:
        return len(self._rows) if self._table is not None else len(self._groups)

    def group(self, index: int) -> list[Sample]:
        """The samples of group ``index``, which share their pictures.

        Raises:
            IndexError: no such group.
            UserError: a bad parquet row, or (with a cache) a picture that cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"group {index} of a source of {len(self)} groups")
        if self._table is None:
            return self._cache.decoded(index, self._groups[index])
        record = self._table.record(int(self._rows[index]))
        if record.sample is None:
            raise _bad(record)
        return self._cache.decoded(index, [self._noted(record, record.sample, {})])

    def samples(self) -> Iterator[Sample]:
        """Every sample, group by group."""
        for index in range(len(self)):
            yield from self.group(index)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All group indices in random order; for a parquet file one that is cheap to read."""
        if self._table is None:
            return rng.permutation(len(self))
        order = np.asarray(self._table.permutation(rng))
        place = np.full(len(order), -1, dtype=np.int64)
        place[self._rows] = np.arange(len(self._rows))
        places = place[order]
        return places[places >= 0]

    def _good(self, records: Iterator[Record]) -> Iterator[Sample]:
        seen: set[Path] = set()
        known: Known = {}
        for record in records:
            missing = _missing(record.sample, seen) if record.sample is not None else None
            if record.sample is not None and missing is None:
                try:
                    sample = self._noted(record, record.sample, known)
                except UserError:
                    if self._on_error == "raise":
                        raise
                    self.skipped += 1
                    continue
                yield sample
            elif self._on_error == "raise":
                raise UserError(f"{record.where}: picture {missing} does not exist") if missing else _bad(record)
            else:
                self.skipped += 1

    def _noted(self, record: Record, sample: Sample, known: Known) -> Sample:
        if self._notes is None:
            return sample
        try:
            return noted(sample, self._notes, known)
        except UserError as error:
            raise UserError(f"{record.where}: {error}") from None

    def _kept_rows(self, table: Table, split: HoldOut | None) -> np.ndarray:
        if split is None and self._on_error == "raise":
            return np.arange(len(table))
        rows: list[int] = []
        pictures: list[list[Path | str]] = []
        values: list[Hashable | None] = []
        for record in table:
            if record.sample is None:
                if self._on_error == "raise":
                    raise _bad(record)
                self.skipped += 1
                continue
            rows.append(record.index)
            if split is not None and split.by == PICTURE:
                pictures.append([picture_identity(picture) for picture in record.sample.pictures()])
            elif split is not None:
                values.append(meta_value(record.sample, split.by, record.index))
        if split is None:
            return np.array(rows, dtype=np.int64)
        keys: list[Any] = list(linked(pictures)) if split.by == PICTURE else values
        held = chosen(keys, split.fraction, split.by, split.seed)
        wanted = split.part == "held"
        return np.array([row for row, key in zip(rows, keys) if (key in held) == wanted], dtype=np.int64)


@SOURCES.register("files")
class FilesOptions(SourceOptions):
    """The ``data`` section of a stage that learns from a file or folder; keys as :class:`FileSource` takes them.

    ``options`` holds the format's own keys; ``cache_mb`` is in MiB. A stage walks a finite source in an order of its
    own, which is dear for a large parquet file; put that into a ``mixture``, which walks it in a cheap one.
    """

    path: str
    format: str | None = None
    images_root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    hold_out: HoldOut | None = None
    on_error: Literal["raise", "skip"] = "raise"
    per_group: int | None = Field(default=None, ge=1)
    notes: NoteKeys | None = None
    cache_mb: int = Field(default=0, ge=0)

    def check(self) -> None:
        """Look for the file or folder, and for the folder of its pictures.

        Raises:
            UserError: one does not exist, or the data are in no known format.
        """
        open_data(Path(self.path).expanduser(), self.format, self.options)
        checked_root(self._images_root())

    def _images_root(self) -> Path | None:
        return Path(self.images_root).expanduser() if self.images_root is not None else None

    def open(self, seed: int) -> FileSource:
        """The source; the seed is not used, since a file makes no choices."""
        return FileSource(
            Path(self.path).expanduser(),
            self.format,
            images_root=self._images_root(),
            options=self.options,
            split=self.hold_out,
            on_error=self.on_error,
            per_group=self.per_group,
            notes=self.notes,
            cache_bytes=self.cache_mb << 20,
        )


def _bad(record: Record) -> UserError:
    return UserError(f"{record.where}: {'; '.join(record.problems)}")


def _missing(sample: Sample, seen: set[Path]) -> Path | None:
    """The sample's first picture file that does not exist; each file is looked for once."""
    for picture in sample.pictures():
        if picture.path is not None and picture.path not in seen:
            if not picture.path.is_file():
                return picture.path
            seen.add(picture.path)
    return None


def grouped(samples: list[Sample], most: int | None = None) -> Iterator[list[Sample]]:
    """Samples with the very same pictures together, in the order of their first; text-only samples alone."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for number, sample in enumerate(samples):
        key = tuple(id(picture) for picture in sample.pictures()) or (-1 - number,)
        groups.setdefault(key, []).append(sample)
    for group in groups.values():
        step = most or len(group)
        for start in range(0, len(group), step):
            yield group[start : start + step]


class _Cache:
    """Groups whose pictures have been decoded, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.full = most <= 0
        self._groups: dict[int, list[Sample]] = {}

    def decoded(self, index: int, group: list[Sample]) -> list[Sample]:
        """The group with its pictures in memory while they fit, else as it is."""
        if index in self._groups:
            return self._groups[index]
        if self.full:
            return group
        known: dict[Picture, Picture] = {}
        for picture in (picture for sample in group for picture in sample.pictures()):
            if picture not in known:
                known[picture] = Picture(image=picture.load(), notes=picture.notes)
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
