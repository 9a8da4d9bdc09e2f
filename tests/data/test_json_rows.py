from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.data import jsonrows
from sightling.data.jsonrows import json_rows
from sightling.errors import UserError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def values(path: Path) -> list[Any]:
    return [row.value for row in json_rows(path)]


def write(text: str, name: str = "it.json") -> Path:
    path = Path(tempfile.mkdtemp()) / name
    path.write_text(text, encoding="utf-8")
    return path


@given(
    records=st.lists(VALUES, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    plain=st.booleans(),
    chunk=st.sampled_from([1, 3, 64]),
)
@settings(max_examples=60, deadline=None)
def test_an_array_is_read_whatever_the_window(records: list[Any], indent: int | None, plain: bool, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(jsonrows, "CHUNK", chunk)
        path = Path(folder) / "it.json"
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=plain), encoding="utf-8")
        assert values(path) == records


@given(
    records=st.lists(VALUES, min_size=1, max_size=3),
    chunk=st.sampled_from([1, 5, 64]),
    share=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=80, deadline=None)
def test_an_array_cut_anywhere_is_cut_off(records: list[Any], chunk: int, share: float) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(jsonrows, "CHUNK", chunk)
        whole = json.dumps(records, indent=1)
        path = Path(folder) / "it.json"
        path.write_text(whole[: max(1, int(share * len(whole)))], encoding="utf-8")
        with pytest.raises(UserError, match="is cut off"):
            values(path)


@given(records=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_lines_are_read_with_their_numbers(records: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.json"
        path.write_text("\n\n".join(json.dumps(record) for record in records), encoding="utf-8")
        rows = list(json_rows(path))
        assert [row.value for row in rows] == records
        assert [(row.index, row.line) for row in rows] == [(n, 2 * n + 1) for n in range(len(records))]


def test_where_an_array_breaks_off_is_told_by_line() -> None:
    whole = json.dumps([{"a": 1}, {"b": 2}, {"c": 3}], indent=1)
    within = write(whole[: whole.index('"b"') + 2])
    with pytest.raises(UserError) as told:
        values(within)
    assert str(told.value) == (
        f"{within} is cut off: record 1, which starts at line 5, is not complete (the file ends at line 6 after "
        f"1 complete records)"
    )
    between = write(whole[: whole.index("}") + 1])
    with pytest.raises(UserError, match=r"the array that starts at line 1 is never closed .* after 1 complete records"):
        values(between)


def test_lines_that_break_off_are_told_by_line() -> None:
    path = write('{"a": 1}\n{"b": 2}\n{"c": ')
    rows = json_rows(path)
    assert [next(rows).value, next(rows).value] == [{"a": 1}, {"b": 2}]
    with pytest.raises(UserError, match=r"is cut off: the record at line 3 is not complete \(2 are\)"):
        next(rows)


def test_a_wrong_line_does_not_stop_the_reading() -> None:
    rows = list(json_rows(write('{"a": 1}\n{"a" 2}\n{"a": "\n{"a": 3}\n')))
    assert [row.value for row in rows] == [{"a": 1}, None, None, {"a": 3}]
    assert rows[1].problem == "is not JSON: expecting ':' delimiter at character 6"
    assert (rows[2].problem or "").startswith("is not JSON")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{\n"a": 1\n}', "one JSON value over several lines"),
        ('[{"a": 1}\n{"b": 2}]', "expected ',' or ']' after record 0"),
        ('[{"a": 1},\n{"b": \'x\'}]', "is not JSON: expecting value at line 2, in record 1"),
        ('[{"a": 1}] x', "there is more after the array's end"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_what_is_no_json_data_set(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        values(write(text))


def test_what_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text: it holds the byte 0xe9"):
        values(path)
    path.write_bytes('[{"a": "中"}]'.encode()[:-4])
    with pytest.raises(UserError, match="is cut off: it ends in the middle of a character"):
        values(path)
    path.write_bytes(b"\xef\xbb\xbf" + b'[{"a": 1}]')
    assert values(path) == [{"a": 1}]
    with pytest.raises(UserError, match=r"missing\.json does not exist"):
        values(tmp_path / "missing.json")
