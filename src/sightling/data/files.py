"""A data set on disk as groups of samples, for training: samples about one picture come together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sightling.data.formats import FORMATS, checked_root, open_data
from sightling.data.formats.base import Look, Record, Table
from sightling.data.notes import Known, NoteKeys
from sightling.data.places import is_pattern, is_url, shards
from sightling.data.records import Decoded, bad, good, with_notes
from sightling.data.sample import Sample
from sightling.data.shards import format_of
from sightling.data.source import SOURCES, SourceOptions
from sightling.data.splits import PICTURE, HoldOut, chosen, hold_out, linked, meta_value, picture_identity
from sightling.data.stream import BUFFER, StreamSource
from sightling.errors import UserError
from sightling.parts import validate


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
        self._cache = Decoded(cache_bytes)
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
            return self._cache.group(index, self._groups[index])
        record = self._table.record(int(self._rows[index]))
        if record.sample is None:
            raise bad(record)
        return self._cache.group(index, [with_notes(record, record.sample, self._notes, {})])

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
            try:
                sample = good(record, seen, self._notes, known)
            except UserError:
                if self._on_error == "raise":
                    raise
                self.skipped += 1
                continue
            yield sample

    def _kept_rows(self, table: Table, split: HoldOut | None) -> np.ndarray:
        if split is None and self._on_error == "raise":
            return np.arange(len(table))
        rows: list[int] = []
        pictures: list[list[Path | str]] = []
        values: list[Hashable | None] = []
        for record in table:
            if record.sample is None:
                if self._on_error == "raise":
                    raise bad(record)
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

    ``options`` holds the format's own keys; ``cache_mb`` is in MiB.

    ``stream`` reads shards as :class:`sightling.data.stream.StreamSource` does: several files, one at a URL and tars
    always, one file only when it is asked for. ``shuffle_buffer`` (10,000) is that source's. A stage walks a finite
    source that is not streamed in an order of its own, which is dear for a large parquet file.
    """

    path: str | list[str]
    format: str | None = None
    images_root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    hold_out: HoldOut | None = None
    on_error: Literal["raise", "skip"] = "raise"
    per_group: int | None = Field(default=None, ge=1)
    notes: NoteKeys | None = None
    cache_mb: int = Field(default=0, ge=0)
    stream: bool | None = None
    shuffle_buffer: int | None = Field(default=None, ge=1)

    def check(self) -> None:
        """Look for the file or folder, or for every shard, and for the folder of the pictures.

        Raises:
            UserError: one does not exist, the data are in no known format, or a key does not go with the others.
        """
        checked_root(self._images_root())
        if not self.streams():
            open_data(self._one(), self.format, self.options)
            return
        chosen = FORMATS.get(self.format, where="format") if self.format is not None else None
        chosen = format_of(shards(self.path)[0], chosen)
        validate(chosen.options, self.options, f"data format {chosen.name!r}")

    def streams(self) -> bool:
        """Whether the records are streamed; see the class.

        Raises:
            UserError: ``stream``, ``shuffle_buffer`` and ``per_group`` do not go together or with the path.
        """
        many = isinstance(self.path, list) or is_pattern(self.path) or is_url(self.path)
        tar = not many and self._one().is_file() and Look(self._one()).kind == "tar"
        if self.stream is False and (many or tar):
            what = "a tar" if tar else "a list, a pattern or a URL"
            raise UserError(f"stream is false, but the path is {what}, which is always streamed; leave stream out")
        streamed = many or tar or bool(self.stream)
        if streamed and self.per_group is not None:
            raise UserError("per_group does not go with a stream, in which every record is a group of its own")
        if not streamed and self.shuffle_buffer is not None:
            raise UserError("shuffle_buffer goes with a stream only; say stream: true, or leave it out")
        return streamed

    def files(self) -> set[str]:
        """The files by name, as far as they can be found."""
        if not self.streams():
            return {str(self._one().resolve())}
        try:
            return {str(file.resolve() if isinstance(file, Path) else file) for file in shards(self.path)}
        except UserError:
            return {self.path} if isinstance(self.path, str) else set(self.path)

    def _one(self) -> Path:
        """The path, where it is one."""
        assert isinstance(self.path, str)
        return Path(self.path).expanduser()

    def _images_root(self) -> Path | None:
        return Path(self.images_root).expanduser() if self.images_root is not None else None

    def open(self, seed: int) -> FileSource | StreamSource:
        """The source; the seed is not used, since a file makes no choices."""
        if self.streams():
            return StreamSource(
                self.path,
                self.format,
                images_root=self._images_root(),
                options=self.options,
                split=self.hold_out,
                on_error=self.on_error,
                notes=self.notes,
                shuffle_buffer=self.shuffle_buffer or BUFFER,
                cache_bytes=self.cache_mb << 20,
            )
        return FileSource(
            self._one(),
            self.format,
            images_root=self._images_root(),
            options=self.options,
            split=self.hold_out,
            on_error=self.on_error,
            per_group=self.per_group,
            notes=self.notes,
            cache_bytes=self.cache_mb << 20,
        )


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
