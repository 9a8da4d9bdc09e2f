"""The records of many shards by number, none of them held: lines of JSON, tars, or parquet.

``datasets``, which reads the same files as an ``IterableDataset``, is not used: its ``state_dict`` leaves out what is
in the shuffle buffer. (Tried with its version 5.2: of 3 files of 40 records with a buffer of 20, stopped after 30
records, 10 never came.) Its records have no numbers either, so that what a rank reads would depend on its number of
workers. Here a record's place is known (:mod:`sightling.data.shardindex`), and where a run stands is one number.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sightling.data.formats import Format, recognise_file
from sightling.data.formats.base import Gallery, Look, Record, RecordError, make_record
from sightling.data.formats.webdataset import tar_record
from sightling.data.jsonrows import not_json
from sightling.data.places import File, at_once, digest, identity, read_range
from sightling.data.sample import Picture
from sightling.data.shardindex import index_of
from sightling.data.tables import ParquetRows
from sightling.errors import UserError

RUN = 64
"""Neighbouring records that stay together when runs are shuffled; what is small is read a run at a time."""

KEPT_BYTES = 8 << 20
"""Bytes of runs that are kept, at most, for the records of theirs that are asked for next."""

WINDOW_ROWS = 4096
"""Rows of parquet that are held at once, at most, in each of the windows that :mod:`sightling.data.tables` keeps."""


class Shards(ABC):
    """Records by number over all shards, in the order of the shards.

    Attributes:
        runs: how many records each run holds; a run lies in one shard.
        units: for each run the number of what it belongs to; runs of one unit are cheap to read in order only, so
            that units are shuffled, and a random order stays within a run.
        mixed: whether records of several runs may come in any order at no price.
        key: a name that changes when any shard does.
        content: a name for the shards' own names, sizes and numbers of records, wherever they lie.
        share: how much of the records is read; where it is little, those drawn from at a time lie in more runs.
    """

    mixed = True
    share = 1.0
    runs: np.ndarray
    units: np.ndarray
    key: str
    content: str

    def __len__(self) -> int:
        return int(self.runs.sum())

    @abstractmethod
    def record(self, number: int) -> Record:
        """The record of that number."""

    def __iter__(self) -> Iterator[Record]:
        return (self.record(number) for number in range(len(self)))


class _Pictures(Gallery):
    """The pictures of one record of a shard. Unlike a whole file's, they are not remembered: there is no end of them.

    A shard that lies elsewhere brings its pictures along, or says by ``images_root`` where they are here.
    """

    def __init__(self, shard: File, root: Path | None) -> None:
        super().__init__(root or (shard.parent if isinstance(shard, Path) else Path()))
        self.known = root is not None or isinstance(shard, Path)

    def picture(self, name: Any, box: tuple[int, int, int, int] | None = None) -> Picture:
        if not self.known:
            raise RecordError(
                f"the picture {name!r} is a file's name, and the shard is not on this computer; "
                "say images_root, or put pictures into the records or into tar shards"
            )
        return super().picture(name, box)


class RangeShards(Shards):
    """Shards whose records are ranges of bytes: JSON lines and tars.

    Args:
        files, format, images_root, options: what is read, and how.
        mixed_records: about how many records are drawn from at a time.

    Raises:
        UserError: a shard cannot be read, is of another kind, is empty or is cut off.
    """

    def __init__(
        self, files: Sequence[File], format: Format, images_root: Path | None, options: Any, mixed_records: int
    ) -> None:
        self.files, self.format, self.root, self.options = files, format, images_root, options
        self.mixed_records = mixed_records
        # Runs are read whole where all that are being drawn from can be kept; of others, a record at a time.
        self.small = KEPT_BYTES // (mixed_records // RUN + 2)
        self.tar = format.name == "webdataset"
        self.indexes = at_once(self._index, files)
        counts = np.array([index.count for index in self.indexes])
        self._shard_starts = np.concatenate([[0], np.cumsum(counts)])
        self.runs = np.concatenate([_cut(int(count)) for count in counts])
        self.units = np.arange(len(self.runs))
        self.key = digest([index.key for index in self.indexes])
        self.content = _content(files, [index.size for index in self.indexes], counts.tolist())
        self._kept: OrderedDict[tuple[int, int], tuple[np.ndarray, bytes | None]] = OrderedDict()
        self._kept_bytes = 0

    def _index(self, file: File) -> Any:
        index = index_of(file, "tar" if self.tar else "lines")
        if not index.size:
            raise UserError(f"{file} is empty")
        return index

    def record(self, number: int) -> Record:
        """The record of that number; its bytes are read alone, or with its run's where that is small."""
        shard = int(np.searchsorted(self._shard_starts, number, side="right")) - 1
        place = number - int(self._shard_starts[shard])
        file = self.files[shard]
        offsets, run = self._run(shard, place // RUN)
        start, stop = (int(offset) for offset in offsets[place % RUN : place % RUN + 2])
        first = int(offsets[0])
        content = run[start - first : stop - first] if run is not None else read_range(file, start, stop)
        if self.tar:
            return tar_record(file, number, content, self.options)
        record = make_record(file, place, None, self._sample, content, _Pictures(file, self.root))
        return record if record.sample is not None else self._with_line(record, file, start)

    def _run(self, shard: int, run: int) -> tuple[np.ndarray, bytes | None]:
        """(where a run's records begin and the last ends, its bytes where they are few)."""
        key = shard, run
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        first = run * RUN
        offsets = self.indexes[shard].offsets(first, min(RUN, self.indexes[shard].count - first))
        start, stop = int(offsets[0]), int(offsets[-1])
        found = read_range(self.files[shard], start, stop) if stop - start <= self.small else None
        self._kept[key] = offsets, found
        self._kept_bytes += len(found or b"") + offsets.nbytes
        # Those being drawn from and, where two pieces of an order meet, those of the next. Else what small runs leave
        # of KEPT_BYTES would fill with runs that are over.
        most = 2 * (int(self.mixed_records / self.share) // RUN + 2)
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > most:
            _, (old, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped or b"") + old.nbytes
        return offsets, found

    def _sample(self, content: bytes, gallery: Gallery) -> Any:
        assert self.format.value is not None  # Looked at when the shards were opened.
        try:
            value = json.loads(content)
        except UnicodeDecodeError:
            raise RecordError("is not UTF-8 text") from None
        except json.JSONDecodeError as error:
            raise RecordError(not_json(error)) from None
        except RecursionError:
            raise RecordError("nests JSON values too deeply to be a record") from None
        return self.format.value(value, gallery, self.options)

    @staticmethod
    def _with_line(record: Record, file: File, start: int) -> Record:
        """A bad record with its line, which is counted for no other."""
        line = 1
        for begin in range(0, start, KEPT_BYTES):
            line += read_range(file, begin, min(start, begin + KEPT_BYTES)).count(b"\n")
        return Record(record.index, f"{record.where} (line {line})", None, record.problems, line)


class ParquetShards(Shards):
    """Parquet shards: a run is a window of neighbouring rows, a unit is a row group. One shard is open at a time.

    Raises:
        UserError: a shard cannot be read, or has not the columns that the first one has.
    """

    mixed = False

    def __init__(self, files: Sequence[File], format: Format, images_root: Path | None, options: Any) -> None:
        self.files, self.format, self.root, self.options = files, format, images_root, options
        runs: list[int] = []
        units: list[int] = []
        counts = []
        # An open file holds its whole footer, so that shards are looked at and closed again.
        looked = at_once(_plan, files)
        for file, (names, windows) in zip(files, looked):
            lacking = sorted(looked[0][0] - names)
            if lacking:
                raise UserError(f"{file} has no column {lacking[0]!r}, which the first shard {files[0]} has")
            before = units[-1] + 1 if units else 0
            runs += [length for _, length in windows]
            units += [before + group for group, _ in windows]
            counts.append(sum(length for _, length in windows))
        self._shard_starts = np.concatenate([[0], np.cumsum(counts)])
        self.runs = np.array(runs, dtype=np.int64)
        self.units = np.array(units, dtype=np.int64)
        told = at_once(identity, files)
        self.key = digest(*told)
        self.content = _content(files, [size for _, size in told], counts)
        self._open: tuple[tuple[int, int], ParquetRows] | None = None

    def record(self, number: int) -> Record:
        """The record of that number; its window is read with it."""
        shard = int(np.searchsorted(self._shard_starts, number, side="right")) - 1
        # A worker process opens for itself: a connection of its parent's would be read by both.
        wanted = os.getpid(), shard
        if self._open is None or self._open[0] != wanted:
            self._open = wanted, ParquetRows(self.files[shard], WINDOW_ROWS)
        place = number - int(self._shard_starts[shard])
        file = self.files[shard]
        return make_record(file, place, None, self._sample, self._open[1].row(place), _Pictures(file, self.root))

    def _sample(self, row: dict[str, Any], gallery: Gallery) -> Any:
        assert self.format.row is not None  # Looked at when the shards were opened.
        return self.format.row(row, gallery, self.options)


def _plan(file: File) -> tuple[set[str], list[tuple[int, int]]]:
    """(the columns of a parquet file, the row group and the rows of each window)."""
    rows = ParquetRows(file, WINDOW_ROWS)
    return set(rows.names), [(window.group, window.stop - window.start) for window in rows.windows]


def _content(files: Sequence[File], sizes: Sequence[int], counts: Sequence[int]) -> str:
    return digest(*((str(file).rpartition("/")[2], size, count) for file, size, count in zip(files, sizes, counts)))


def _cut(count: int) -> np.ndarray:
    """The lengths of the runs of a shard of so many records."""
    runs = np.full(-(-count // RUN), RUN, dtype=np.int64)
    if count % RUN:
        runs[-1] = count % RUN
    return runs


def format_of(file: File, format: Format | None = None) -> Format:
    """The format that shards like this one are read in; recognised unless given.

    Raises:
        UserError: the shard is in no known format, or in one whose records cannot be read one by one.
    """
    chosen = format or recognise_file(file)
    kind = Look(file).kind
    able = {"tar": chosen.name == "webdataset", "parquet": chosen.row is not None}.get(kind, chosen.value is not None)
    if not able:
        raise UserError(
            f"{file} is a {kind} file in the format {chosen.name!r}, which cannot be streamed; "
            "JSONL of conversations, parquet and tar shards can be"
        )
    return chosen


def open_shards(
    files: Sequence[File], format: Format, images_root: Path | None, options: Any, mixed_records: int
) -> Shards:
    """The records of these shards, of which about ``mixed_records`` are drawn from at a time.

    Raises:
        UserError: a shard that cannot be read, is cut off, or is not like the first.
    """
    if Look(files[0]).kind == "parquet":
        return ParquetShards(files, format, images_root, options)
    return RangeShards(files, format, images_root, options, mixed_records)
