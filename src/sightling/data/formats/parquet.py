"""Records of a parquet file, by number or in order, for the formats that come as parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sightling.data.formats.base import Record, make_record
from sightling.data.sample import Sample
from sightling.data.tables import ParquetRows
from sightling.errors import UserError


class RecordTable:
    """Random access to the records of one parquet file, in bounded memory.

    Args:
        path: the file.
        required: columns it must have.
        build: a row's sample; raises ``RecordError``. A module's function (or a partial of one), so that the table
            can travel to a worker process.

    Raises:
        UserError: the file cannot be read or lacks a column.
    """

    def __init__(self, path: Path, required: Sequence[str], build: Callable[[dict[str, Any]], Sample]) -> None:
        self.path = path
        self.build = build
        self.rows = ParquetRows(path)
        for column in required:
            if column not in self.rows.names:
                raise UserError(f"{path} has no column {column!r}; it has {', '.join(self.rows.names)}")

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        """The record of that row."""
        return self._made(index, self.rows.row(index))

    def __iter__(self) -> Iterator[Record]:
        for index, row in enumerate(self.rows):
            yield self._made(index, row)

    def _made(self, index: int, row: dict[str, Any]) -> Record:
        return make_record(self.path, index, None, self.build, row)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All row numbers in a random order that is cheap to read."""
        return self.rows.permutation(rng)
