"""Rows of a parquet file in bounded memory, one after another or by number.

A row group is the smallest piece that parquet can seek to, and writers' defaults make it a million rows: with
pictures inside, tens of gigabytes (what is decoded at once is a page, which writers end every 1,024 rows or so). So
rows are handled by *windows*: runs of neighbouring rows of one row group
of about ``WINDOW_BYTES``. Windows of one row group are cheap to read in order and dear to read out of it, which
is what :meth:`ParquetRows.permutation` is for.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightling.data.places import File, Place
from sightling.errors import UserError

WINDOW_BYTES = 16 << 20
"""How much of a table, uncompressed, is a window; ``KEPT_WINDOWS`` of them stay in memory."""

KEPT_WINDOWS = 2  # Where one ends and the next begins, several readers are in both.
BATCHES_A_WINDOW = 32  # What pyarrow decodes at once: small pieces keep its own memory small.
BATCHES_A_TIDYING = 8  # After so many, what pyarrow has freed is given back; more often, pictures are read slower.
READ_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """Rows ``start`` to ``stop`` of the file; they lie in row group ``group`` from its row ``offset`` on."""

    group: int
    offset: int
    start: int
    stop: int


class ParquetRows:
    """A parquet file as a sequence of rows (dictionaries of its columns).

    Args:
        path: the file.
        most_rows: no window has more; a row of few bytes costs hundreds as a dictionary.

    Raises:
        UserError: the file is missing, cut off or not parquet.
    """

    def __init__(self, path: File, most_rows: int | None = None) -> None:
        self.path = path
        self.most_rows = most_rows
        self._open()
        self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        self.windows = list(self._plan())
        self._starts = [window.start for window in self.windows]

    def _open(self) -> None:
        with self._told():
            # A buffer makes pyarrow stream a column's pages instead of reading the whole row group's.
            source = self.path.open("rb") if isinstance(self.path, Place) else self.path
            self._file = pq.ParquetFile(source, buffer_size=READ_BUFFER, pre_buffer=False)
        self._kept: OrderedDict[int, _Rows] = OrderedDict()
        self._cursor: _Cursor | None = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist") from None
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{self.path} is cut off or is not a parquet file that can be read: {first}") from None

    def _plan(self) -> Iterator[Window]:
        start = 0
        for group in range(self._file.num_row_groups):
            about = self._file.metadata.row_group(group)
            rows = about.num_rows
            each = max(1, about.total_byte_size // max(1, rows))
            step = max(1, WINDOW_BYTES // each)
            step = min(step, self.most_rows or step)
            for offset in range(0, rows, step):
                count = min(step, rows - offset)
                yield Window(group, offset, start, start + count)
                start += count

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(len(self.windows)):
            yield from self._window(number)

    def row(self, index: int) -> dict[str, Any]:
        """Row ``index`` of the file."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        number = bisect.bisect_right(self._starts, index) - 1
        return self._window(number)[index - self.windows[number].start]

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All row numbers in an order that is random yet cheap to read: row groups are shuffled, and rows within
        a window, but a row group's windows follow one another."""
        groups: dict[int, list[Window]] = {}
        for window in self.windows:
            groups.setdefault(window.group, []).append(window)
        pieces = [
            rng.permutation(np.arange(window.start, window.stop))
            for group in rng.permutation(len(groups))
            for window in list(groups.values())[group]
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def _window(self, number: int) -> _Rows:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        window = self.windows[number]
        cursor = self._cursor
        if cursor is None or cursor.group != window.group or cursor.at > window.offset:
            batches = self._file.iter_batches(
                batch_size=-(-(window.stop - window.start) // BATCHES_A_WINDOW),
                row_groups=[window.group],
                use_threads=False,
            )
            cursor = self._cursor = _Cursor(window.group, batches)
        with self._told():
            cursor.skip(window.offset - cursor.at)
            rows = cursor.take(window.stop - window.start)
        self._kept[number] = rows
        if len(self._kept) > KEPT_WINDOWS:
            self._kept.popitem(last=False)
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # A worker process opens the file for itself.
        return {**self.__dict__, "_file": None, "_kept": None, "_cursor": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class _Rows(Sequence[dict[str, Any]]):
    """Rows by column: a dictionary a row would take more memory than a short row's values do."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        for name, column in dict(zip(batch.schema.names, batch.columns)).items():
            self._columns.setdefault(name, []).extend(column.to_pylist())
        self._count += batch.num_rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return {name: values[index] for name, values in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = tuple(self._columns)
        return (dict(zip(names, values)) for values in zip(*self._columns.values()))


def _give_back() -> None:
    """Give the system what pyarrow has freed: else it stays for about a second, in which much more is decoded."""
    pool = pa.default_memory_pool()
    # The system's own pool gives large pieces back by itself; asked to, it would go through all the process has.
    if pool.backend_name != "system":
        pool.release_unused()


class _Cursor:
    """A place within a row group that only moves forward."""

    def __init__(self, group: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.group = group
        self.at = 0
        self._batches = batches
        self._rest: pa.RecordBatch | None = None
        self._untidied = 0

    def _next(self, most: int) -> pa.RecordBatch:
        batch = self._rest if self._rest is not None and self._rest.num_rows else self._decoded()
        piece, self._rest = batch.slice(0, most), batch.slice(most)
        self.at += piece.num_rows
        return piece

    def _decoded(self) -> pa.RecordBatch:
        if self._untidied == BATCHES_A_TIDYING:
            _give_back()
            self._untidied = 0
        self._untidied += 1
        return next(self._batches)

    def skip(self, count: int) -> None:
        while count > 0:
            count -= self._next(count).num_rows

    def take(self, count: int) -> _Rows:
        rows = _Rows()
        while len(rows) < count:
            rows.add(self._next(count - len(rows)))
        return rows
