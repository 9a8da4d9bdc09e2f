"""Shards as groups of samples, for training: any number of records, a bounded part of them in memory.

A stage shares positions 0, 1, 2, ... out among ranks and workers (:mod:`sightling.train.order`). The shuffled order is
a function of seed and position, so that no record is missed or met twice, whoever reads, and a stopped stage goes on at
its next position without a look at what came before: runs of neighbouring records are put in random order over all
shards, the result is cut into pieces of ``shuffle_buffer`` records, and each piece is shuffled. That mixes at least as
well as a buffer that is filled and drawn from, since what is in it comes from all shards.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sightling.data.formats import FORMATS, checked_root
from sightling.data.formats.base import Record
from sightling.data.notes import NoteKeys
from sightling.data.places import digest, shards
from sightling.data.records import Decoded, good
from sightling.data.sample import Sample
from sightling.data.shardindex import VERSION, remembered
from sightling.data.shards import Shards, format_of, open_shards
from sightling.data.splits import HoldOut, side
from sightling.errors import UserError
from sightling.parts import validate

BUFFER = 10_000
"""Records that are shuffled among each other, unless something else is said."""

KEPT_PIECES = 4
"""Shuffled pieces whose inner order is remembered: neighbouring positions lie in one or two."""


class Order(Sequence[int]):
    """Numbers of records in random order, worked out where they are asked for. Holds a few numbers a run.

    Args:
        runs: how many records each run holds.
        units: as :class:`sightling.data.shards.Shards` has them.
        piece: how many neighbours in the order of the runs are shuffled at once.
        mixed: whether a piece may go over several runs.
        seed: of all that is random.
    """

    def __init__(self, runs: np.ndarray, units: np.ndarray, piece: int, mixed: bool, seed: int) -> None:
        self.seed = seed
        generator = np.random.default_rng((seed, 0))
        lots = generator.permutation(int(units[-1]) + 1 if len(units) else 0)
        order = np.argsort(lots[units], kind="stable")
        self._starts = (np.cumsum(runs) - runs)[order]
        counts = runs[order]
        self._ends = np.cumsum(counts)
        total = int(self._ends[-1]) if len(runs) else 0
        if mixed:
            self._pieces = np.append(np.arange(0, total, piece), total)
        else:
            begins = self._ends - counts
            inner = [np.arange(begin, end, piece) for begin, end in zip(begins, self._ends)]
            self._pieces = np.append(np.concatenate(inner), total) if inner else np.zeros(1, dtype=np.int64)
        self._inner: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return int(self._pieces[-1])

    def __getitem__(self, place: Any) -> Any:
        """The number of the record at a place."""
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} of an order of {len(self)}")
        piece = int(np.searchsorted(self._pieces, place, side="right")) - 1
        first = int(self._pieces[piece])
        place = first + int(self._shuffled(piece)[place - first])
        run = int(np.searchsorted(self._ends, place, side="right"))
        begin = int(self._ends[run - 1]) if run else 0
        return int(self._starts[run]) + place - begin

    def _shuffled(self, piece: int) -> np.ndarray:
        if piece not in self._inner:
            length = int(self._pieces[piece + 1] - self._pieces[piece])
            self._inner[piece] = np.random.default_rng((self.seed, 1, piece)).permutation(length)
            if len(self._inner) > KEPT_PIECES:
                self._inner.popitem(last=False)
        return self._inner[piece]


class StreamSource:
    """Groups of samples from shards on a disk or at any URL that fsspec knows; a record is a group.

    Where each record begins is found at first by reading every shard through, and kept
    (:mod:`sightling.data.shardindex`). Records are checked when they are read, unless they are to be skipped or split;
    then all are read once at the beginning.

    Args:
        path: a path, a pattern, a URL, a folder of shards, or a list of them, as :func:`sightling.data.places.shards`.
        format, images_root, options, notes, cache_bytes: as :class:`sightling.data.files.FileSource`.
        split: one side of a split, told record by record (:func:`sightling.data.splits.side`).
        on_error: ``"raise"`` at a bad record, or ``"skip"`` bad ones (``skipped`` says how many).
        shuffle_buffer: how many records are shuffled among each other; 1 shuffles runs only. Of parquet, a piece ends
            with its window (:mod:`sightling.data.tables`).

    Raises:
        UserError: shards are missing, cut off or in no known format; a bad record; no sample at all.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        format: str | None = None,
        *,
        images_root: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        split: HoldOut | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        notes: NoteKeys | None = None,
        shuffle_buffer: int = BUFFER,
        cache_bytes: int = 0,
    ) -> None:
        files = shards(path)
        self.format = format_of(files[0], FORMATS.get(format, where=str(path)) if format is not None else None)
        checked = validate(self.format.options, options or {}, f"data format {self.format.name!r}")
        root = checked_root(images_root)
        self.shards: Shards = open_shards(files, self.format, root, checked, shuffle_buffer)
        self.skipped = 0
        here = files[0].parent if isinstance(files[0], Path) else None
        self._root = root or here
        self._notes = notes
        self._buffer = shuffle_buffer
        self._cache = Decoded(cache_bytes)
        # A bit a record, where not all are read.
        self._bits: np.ndarray | None = None
        runs = self.shards.runs
        self._firsts = np.cumsum(runs) - runs
        self._counts = runs
        if split is not None or on_error == "skip":
            name = digest(VERSION, self.shards.key, self.format.name, checked, str(root), split, on_error, notes)
            self._read_kept(name, split, on_error)
            self.shards.share = max(1, int(self._counts.sum())) / max(1, len(self.shards))
        self._ends = np.cumsum(self._counts)
        if not len(self):
            told = f" ({self.skipped} bad ones)" if self.skipped else ""
            raise UserError(f"{files[0]}{' and the other shards have' if files[1:] else ' has'} no samples{told}")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def group(self, index: int) -> list[Sample]:
        """The sample of record ``index`` of those that are read.

        Raises:
            IndexError: no such record.
            UserError: a bad record, or a picture that is missing or (with a cache) cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"group {index} of a source of {len(self)} groups")
        record = self.shards.record(self._number(index))
        return self._cache.group(index, [good(record, set(), self._notes, {})])

    @property
    def content(self) -> str:
        """A name for the records that are read, by which a run that goes on knows them again."""
        return digest(self.shards.content, len(self))

    def samples(self) -> Iterator[Sample]:
        """Every sample, in the order of the shards."""
        for index in range(len(self)):
            yield from self.group(index)

    def order(self, seed: int) -> Order:
        """All group indices in an order that is random, cheap to read, and not held in memory."""
        return Order(self._counts, self.shards.units, self._buffer, self.shards.mixed, seed)

    def _number(self, index: int) -> int:
        """The number of a record among all, the unread ones too."""
        if self._bits is None:
            return index
        run = int(np.searchsorted(self._ends, index, side="right"))
        place = index - int(self._ends[run] - self._counts[run])
        first, count = int(self._firsts[run]), int(self.shards.runs[run])
        return first + int(np.flatnonzero(self._kept(first, count))[place])

    def _kept(self, first: int, count: int) -> np.ndarray:
        assert self._bits is not None
        bits = np.unpackbits(self._bits[first // 8 : (first + count + 7) // 8])
        return bits[first % 8 : first % 8 + count]

    def _read_kept(self, name: str, split: HoldOut | None, on_error: str) -> None:
        """Find out which records are read. Kept for the next time where only the shards decide it."""

        def write(path: Path) -> None:
            bits, skipped = self._look(split, on_error)
            path.write_bytes(json.dumps({"skipped": skipped}).encode() + b"\n" + bits.tobytes())

        if on_error == "skip" and self.format.name != "webdataset":
            # A picture that is missing today may be there tomorrow.
            self._bits, self.skipped = self._look(split, on_error)
        else:
            head, _, body = remembered(f"{name}.kept", write).read_bytes().partition(b"\n")
            self._bits, self.skipped = np.frombuffer(body, np.uint8), json.loads(head)["skipped"]
        runs = zip(self._firsts.tolist(), self.shards.runs.tolist())
        self._counts = np.array([int(self._kept(first, count).sum()) for first, count in runs], dtype=np.int64)

    def _look(self, split: HoldOut | None, on_error: str) -> tuple[np.ndarray, int]:
        """(a bit for each record, how many bad ones were passed over)."""
        kept = bytearray(-(-len(self.shards) // 8))
        skipped = 0
        for number, record in enumerate(self.shards):
            try:
                sample = good(record, set(), self._notes, {})
            except UserError:
                if on_error == "raise":
                    raise
                skipped += 1
                continue
            if split is None or self._side(record, sample, split) == split.part:
                kept[number // 8] |= 128 >> number % 8
        return np.frombuffer(bytes(kept), np.uint8), skipped

    def _side(self, record: Record, sample: Sample, split: HoldOut) -> str | None:
        try:
            return side(sample, split, self._root)
        except UserError as error:
            raise UserError(f"{record.where}: {error}") from None
