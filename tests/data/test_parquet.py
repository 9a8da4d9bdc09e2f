from __future__ import annotations

import io
import itertools
import pickle
from pathlib import Path

import makers
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sightling.data import tables
from sightling.data.files import FileSource, HoldOut
from sightling.data.tables import ParquetRows
from sightling.errors import UserError


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 rows in row groups of 16, in windows of a few rows."""
    monkeypatch.setattr(tables, "WINDOW_BYTES", 600)
    return makers.minimind_parquet(tmp_path, makers.minimind_rows(40), row_group_size=16)


def number(row: dict[str, object]) -> int:
    """The number a row was made with, from its text."""
    return int(str(row["conversations"]).split("Q")[1].split('"')[0])


def test_windows_cover_every_row_once_and_stay_within_a_row_group(wide: Path) -> None:
    rows = ParquetRows(wide)
    assert len(rows) == 40 and len(rows.windows) > 6
    assert [index for window in rows.windows for index in range(window.start, window.stop)] == list(range(40))
    assert all(window.start // 16 == (window.stop - 1) // 16 == window.group for window in rows.windows)


def test_rows_in_order_and_by_number(wide: Path) -> None:
    rows = ParquetRows(wide)
    assert [number(row) for row in rows] == list(range(40))
    for index in (39, 0, 17, 16, 3, 38):
        assert number(rows.row(index)) == index
    with pytest.raises(IndexError, match="row 40 of a table of 40 rows"):
        rows.row(40)


def test_the_cheap_order_holds_every_row_once_and_reads_each_row_group_once(wide: Path) -> None:
    rows = ParquetRows(wide)
    order = rows.permutation(np.random.default_rng(0))
    assert sorted(order) == list(range(40)) and list(order) != list(range(40))
    groups = [int(index) // 16 for index in order]
    assert len(list(itertools.groupby(groups))) == 3
    opened = 0
    batches = rows._file.iter_batches

    def counting(**options: object) -> object:
        nonlocal opened
        opened += 1
        return batches(**options)

    class File:
        iter_batches = staticmethod(counting)
        metadata = rows._file.metadata

    rows._file = File()  # type: ignore[assignment]
    assert [number(rows.row(int(index))) for index in order] == list(order)
    assert opened == 3


def test_memory_is_bounded_by_the_window_and_not_by_the_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    text = makers.minimind_rows(1)[0]["conversations"]
    # Bytes that do not repeat, so that dictionary encoding and compression do not shrink them.
    rows = [
        {"conversations": text, "image_bytes": buffer.getvalue() + number.to_bytes(2, "big")} for number in range(1500)
    ]
    # A page is read whole, and a writer ends one only after this many rows.
    path = makers.minimind_parquet(tmp_path, rows, compression=None, use_dictionary=False, write_batch_size=16)
    del rows
    monkeypatch.setattr(tables, "WINDOW_BYTES", 512 << 10)
    monkeypatch.setattr(tables, "READ_BUFFER", 64 << 10)
    table = ParquetRows(path)
    assert len({window.group for window in table.windows}) == 1 and path.stat().st_size > 15 << 20
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for _ in table:
        most = max(most, pool.bytes_allocated() - before)
    assert most < 4 << 20


def test_few_windows_are_kept_and_what_was_freed_is_given_back(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = 0

    def counting() -> None:
        nonlocal given
        given += 1

    monkeypatch.setattr(tables, "_give_back", counting)
    monkeypatch.setattr(tables, "BATCHES_A_TIDYING", 2)
    rows = ParquetRows(wide)
    for index in range(40):
        rows.row(index)
        assert len(rows._kept) <= tables.KEPT_WINDOWS
    # Each row is a batch of its own in windows as small as these: 16, 16 and 8 of them, before every third.
    assert given == 7 + 7 + 3


def test_a_source_over_parquet_travels_to_a_worker(wide: Path) -> None:
    source = FileSource(wide)
    source.group(0)
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 40
    assert copy.group(23)[0].answer == "A23"
    assert next(copy.group(23)[0].pictures()).size() == (16, 12)


def test_splitting_and_skipping_parquet(wide: Path, tmp_path: Path) -> None:
    split = [FileSource(wide, split=HoldOut(fraction=0.25, part=part)) for part in ("kept", "held")]
    kept, held = ({sample.answer for sample in source.samples()} for source in split)
    assert len(kept) == 30 and len(held) == 10 and not kept & held
    order = split[0].permutation(np.random.default_rng(1))
    assert sorted(order) == list(range(30))
    rows = makers.minimind_rows(3)
    rows[1]["conversations"] = "[]"
    bad = makers.minimind_parquet(tmp_path / "bad", rows)
    lazy = FileSource(bad)
    assert lazy.group(0)[0].answer == "A0"
    with pytest.raises(UserError, match="record 1: 'conversations' is empty"):
        lazy.group(1)
    skipping = FileSource(bad, on_error="skip")
    assert [sample.answer for sample in skipping.samples()] == ["A0", "A2"] and skipping.skipped == 1
