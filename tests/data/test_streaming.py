"""Shards of all kinds: every record once in every order, wherever it is, and what is wrong told by shard and record."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import makers
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sightling.data.shardindex as shardindex
import sightling.data.shards as shards_module
import sightling.data.tables as tables
from sightling.data.files import FilesOptions, FileSource
from sightling.data.mixture import Mixture
from sightling.data.shardindex import CHUNK, cache_folder, line_starts, tar_starts
from sightling.data.source import SOURCES
from sightling.data.splits import HoldOut
from sightling.data.stream import Order, StreamSource
from sightling.data.tars import record_starts
from sightling.errors import UserError
from sightling.parts import make

SIZES = (150, 3, 70)
TOTAL = sum(SIZES)


def talk(number: int) -> dict[str, Any]:
    return {"id": str(number), "conversations": makers.talk(f"Q{number}", f"A{number}")}


def lines(folder: Path, sizes: tuple[int, ...] = SIZES) -> str:
    start = 0
    for shard, size in enumerate(sizes):
        makers.write_lines(folder / f"s-{shard}.jsonl", [talk(number) for number in range(start, start + size)])
        start += size
    return str(folder / "s-*.jsonl")


def tars(folder: Path) -> str:
    start = 0
    for shard, size in enumerate(SIZES):
        records = [(f"{number:06d}.json", json.dumps(talk(number)).encode()) for number in range(start, start + size)]
        makers.tar(folder / f"s-{shard}.tar", records)
        start += size
    return str(folder / f"s-{{0..{len(SIZES) - 1}}}.tar")


def parquets(folder: Path) -> str:
    rows = makers.minimind_rows(TOTAL)
    start = 0
    for shard, size in enumerate(SIZES):
        path = makers.minimind_parquet(folder / str(shard), rows[start : start + size], row_group_size=40)
        path.rename(folder / f"s-{shard}.parquet")
        start += size
    return str(folder / "s-*.parquet")


KINDS: dict[str, Callable[[Path], str]] = {"lines": lines, "tars": tars, "parquets": parquets}


@pytest.fixture(scope="module", params=sorted(KINDS))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


def answers(source: Any) -> list[int]:
    return [int(sample.answer[1:]) for sample in source.samples()]


def walked(source: StreamSource, seed: int) -> list[int]:
    order = source.order(seed)
    return [int(source.group(order[place])[0].answer[1:]) for place in range(len(order))]


def test_every_record_once_in_order_and_in_any_other(path: str) -> None:
    source = StreamSource(path, shuffle_buffer=50)
    assert len(source) == TOTAL and answers(source) == list(range(TOTAL))
    one, other = walked(source, 1), walked(source, 2)
    assert sorted(one) == sorted(other) == list(range(TOTAL))
    assert one != other and one != list(range(TOTAL))
    assert walked(StreamSource(path, shuffle_buffer=50), 1) == one
    with pytest.raises(IndexError, match="group 223 of a source of 223 groups"):
        source.group(TOTAL)
    assert answers(pickle.loads(pickle.dumps(source))) == list(range(TOTAL))


def test_two_sides_of_a_split_and_the_bits_that_are_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by = "picture" if path.endswith("parquet") else "id"
    sides = [StreamSource(path, split=HoldOut(fraction=0.3, by=by, part=part)) for part in ("kept", "held")]
    kept, held = (answers(side) for side in sides)
    assert sorted(kept + held) == list(range(TOTAL)) and 40 < len(held) < 95
    assert sorted(walked(sides[1], 0)) == held

    def never(*args: Any) -> Any:
        raise AssertionError("the records are read through again")

    monkeypatch.setattr(StreamSource, "_look", never)
    assert answers(StreamSource(path, split=HoldOut(fraction=0.3, by=by, part="held"))) == held
    with pytest.raises(AssertionError):
        StreamSource(path, split=HoldOut(fraction=0.3, by=by, seed=1))


def test_a_split_does_not_depend_on_where_a_record_stands(tmp_path: Path) -> None:
    rows = [talk(number) for number in range(200)]
    one = makers.write_lines(tmp_path / "one.jsonl", rows)
    other = makers.write_lines(tmp_path / "other.jsonl", rows[::-1][:150])
    split = HoldOut(fraction=0.5, by="id", part="held")
    held, some = (set(answers(StreamSource(str(path), split=split))) for path in (one, other))
    assert some == {number for number in held if number >= 50} and 70 < len(held) < 130


def test_no_picture_is_on_both_sides(tmp_path: Path) -> None:
    pictures = [makers.encoded((8, 8 + number), kind="PNG") for number in range(20)]
    members = []
    for number in range(190):
        shown = {number % 20, (number * 7 + 1) % 20}
        members += [(f"{number:04d}.{place}.png", pictures[place]) for place in sorted(shown)]
        members.append((f"{number:04d}.txt", f"A{number}".encode()))
    path = str(makers.tar(tmp_path / "it.tar", members))
    sides = [StreamSource(path, split=HoldOut(fraction=0.4, part=part)) for part in ("kept", "held")]
    shown = [{picture.data for sample in side.samples() for picture in sample.pictures()} for side in sides]
    assert shown[0] and shown[1] and not shown[0] & shown[1]


def test_urls_are_read_as_files_are(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for kind, write in KINDS.items():
        folder = tmp_path / kind
        folder.mkdir()
        local = write(folder)
        for file in folder.iterdir():
            if file.is_file():
                memory.pipe(f"/stream/{file.name}", file.read_bytes())
        url = f"memory://stream/s-*{Path(local).suffix}"
        assert walked(StreamSource(url, shuffle_buffer=9), 3) == walked(StreamSource(local, shuffle_buffer=9), 3)


def test_pictures_of_lines_lie_beside_the_shard_or_under_images_root(tmp_path: Path) -> None:
    makers.picture(tmp_path / "p/a.png")
    row = {"image": "a.png", "conversations": makers.talk("<image>Q", "A0")}
    path = makers.write_lines(tmp_path / "it.jsonl", [row])
    (picture,) = StreamSource(str(path), images_root=tmp_path / "p").group(0)[0].pictures()
    assert picture.path == tmp_path / "p/a.png"
    with pytest.raises(UserError, match=r"it\.jsonl, record 0: picture .*a\.png does not exist"):
        StreamSource(str(path)).group(0)
    fsspec.filesystem("memory").pipe("/lone/it.jsonl", path.read_bytes())
    with pytest.raises(
        UserError, match=r"'a\.png' is a file's name, and the shard is not on this computer; say images_r"
    ):
        StreamSource("memory://lone/it.jsonl").group(0)
    assert len(StreamSource("memory://lone/it.jsonl", images_root=tmp_path / "p").group(0)) == 1


def test_bad_records_are_told_by_shard_and_line_or_skipped(tmp_path: Path) -> None:
    path = lines(tmp_path, (3, 3))
    second = tmp_path / "s-1.jsonl"
    first, _, last = second.read_text().splitlines()
    second.write_text(f'\ufeff{first}\n  \n{{"id": 1, \n\n{last}', encoding="utf-8")
    source = StreamSource(path)
    assert len(source) == 6 and source.group(5)[0].answer == "A5" and source.group(3)[0].answer == "A3"
    with pytest.raises(UserError, match=r"s-1\.jsonl, record 1 \(line 3\): is not JSON: .* at character \d+$"):
        source.group(4)
    skipping = StreamSource(path, on_error="skip")
    assert answers(skipping) == [0, 1, 2, 3, 5] and skipping.skipped == 1
    tar = makers.tar(tmp_path / "it.tar", [("k.txt", b"words"), ("l.txt", b"words")])
    with pytest.raises(UserError, match=r"it\.tar, key 'l': there is a \.txt and no picture"):
        StreamSource(str(tar)).group(1)
    with pytest.raises(UserError, match=r"it\.tar has no samples \(2 bad ones\)"):
        StreamSource(str(tar), on_error="skip")


def test_shards_that_are_no_shards(tmp_path: Path) -> None:
    def opened(name: str, content: bytes) -> StreamSource:
        (tmp_path / "t").mkdir(exist_ok=True)
        lines(tmp_path / "t", (2,))
        (tmp_path / "t" / name).write_bytes(content)
        return StreamSource(sorted(str(file) for file in (tmp_path / "t").iterdir()))

    row = json.dumps(talk(0)).encode()
    for content, message in (
        (b"", "is empty"),
        (b"[" + row + b"]", "holds one JSON array, of which no part can be read alone"),
        (row + b"\n" + row[:-5], "is cut off: its last line is not complete"),
        (b"PAR1\0\0" + row, "is not a text file; expected one record a line"),
    ):
        with pytest.raises(UserError, match=rf"t-1\.jsonl {message}"):
            opened("t-1.jsonl", content)
    whole = makers.webdataset(tmp_path).read_bytes()
    (tmp_path / "shard-000000.tar").write_bytes(whole[:1500])
    with pytest.raises(UserError, match=r"shard-000000\.tar is cut off"):
        StreamSource(str(tmp_path / "shard-000000.tar"))
    with pytest.raises(UserError, match=r"dev\.json is a json file in the format 'nlvr', which cannot be streamed"):
        StreamSource(str(makers.nlvr(tmp_path)))
    pq.write_table(pq.read_table(makers.minimind_parquet(tmp_path / "p")).drop(["image_bytes"]), tmp_path / "q.parquet")
    with pytest.raises(UserError, match=r"q\.parquet has no column 'image_bytes', which the first shard .* has"):
        StreamSource([str(tmp_path / "p/sft.parquet"), str(tmp_path / "q.parquet")])


def test_a_shard_that_changes_gets_a_new_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLING_CACHE", str(tmp_path / "cache"))
    path = lines(tmp_path, (5,))
    assert len(StreamSource(path)) == 5
    lines(tmp_path, (4,))
    assert answers(StreamSource(path)) == [0, 1, 2, 3]
    assert len(list((cache_folder() / "shards").glob("*.idx"))) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGHTLING_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written to: .*; set SIGHTLING_CACHE to another folder"):
        StreamSource(path)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["{}", "", " \t", '{"a": "b"}', "\r", "{" + " " * 40 + "}"]), max_size=12), st.booleans()
)
def test_lines_are_found_whatever_stands_between_them(tmp_path: Path, written: list[str], closed: bool) -> None:
    text = "\n".join(written) + ("\n" if closed else "")
    (tmp_path / "x").write_text(text, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sightling.data.shardindex.CHUNK", 7)
        starts = np.concatenate(list(line_starts(tmp_path / "x"))).tolist()
    assert starts[-1] == len(text)
    found = [text[start:stop] for start, stop in pairwise(starts)]
    assert [piece.strip() for piece in found] == [line.strip() for line in written if line.strip()]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 2**62),
)
def test_an_order_holds_every_number_once(runs: list[tuple[int, bool]], piece: int, mixed: bool, seed: int) -> None:
    counts = np.array([count for count, _ in runs], dtype=np.int64)
    units = np.cumsum([new for _, new in runs])
    order = Order(counts, units - units[0], piece, mixed, seed)
    assert sorted(order[place] for place in range(len(order))) == list(range(int(counts.sum())))
    # Any place can be asked for first.
    again = Order(counts, units - units[0], piece, mixed, seed)
    assert [again[place] for place in reversed(range(len(order)))] == [order[place] for place in range(len(order))][
        ::-1
    ]


def test_parquet_is_read_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WINDOW_BYTES", 1500)
    source = StreamSource(parquets(tmp_path))
    windows = np.repeat(np.arange(len(source.shards.runs)), source.shards.runs)
    order = source.order(5)
    visited = [int(windows[order[place]]) for place in range(len(order))]
    changes = [one for one, before in zip(visited, [-1, *visited]) if one != before]
    assert len(changes) == len(set(changes)) == len(source.shards.runs) > 6
    # A row group's windows follow one another, forwards.
    units = source.shards.units[changes]
    assert np.all((np.diff(changes) == 1) | (np.diff(units) != 0))


def test_little_is_kept_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "KEPT_BYTES", 20_000)
    source = StreamSource(lines(tmp_path, (500,)), shuffle_buffer=1)
    assert answers(source) == list(range(500))
    assert source.shards._run(0, 0)[1] is not None  # type: ignore[attr-defined]
    assert 0 < source.shards._kept_bytes <= 20_000  # type: ignore[attr-defined]
    # Where more runs are mixed than can be kept, records are read one by one.
    mixing = StreamSource(str(tmp_path / "s-0.jsonl"), shuffle_buffer=10_000)
    assert answers(mixing) == list(range(500)) and mixing.shards._run(0, 0)[1] is None  # type: ignore[attr-defined]


def test_small_runs_that_are_over_are_not_kept(tmp_path: Path) -> None:
    path = lines(tmp_path, (6400,))
    source = StreamSource(path, shuffle_buffer=640)
    drawn = 640 // shards_module.RUN + 2
    order = source.order(0)
    read: list[tuple[int, int]] = []
    find = source.shards._run  # type: ignore[attr-defined]
    for place in range(len(order)):
        before = set(source.shards._kept)  # type: ignore[attr-defined]
        source.group(order[place])
        read += set(source.shards._kept) - before  # type: ignore[attr-defined]
        assert len(source.shards._kept) <= 2 * drawn  # type: ignore[attr-defined]
    # None was dropped too early: each is read once.
    assert len(read) == len(set(read)) == 100 and find(0, 0)[1] is not None
    # Of a set that is read in part, as many records lie in more runs.
    some = StreamSource(path, shuffle_buffer=640, split=HoldOut(fraction=0.25, by="id", part="held"))
    order = some.order(0)
    for place in range(len(order)):
        some.group(order[place])
    assert 3 * drawn < len(some.shards._kept) <= 10 * drawn  # type: ignore[attr-defined]


def test_what_is_held_while_lines_are_found_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes((b'{"a": "' + b"b" * 120 + b'"}\n') * (40 * CHUNK // 130))
    tracemalloc.start()
    try:
        count = sum(len(starts) for starts in line_starts(tmp_path / "x")) - 1
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40 * CHUNK // 130 and most < 6 * CHUNK


def test_places_in_a_tar_are_handed_on_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shardindex, "WRITTEN_AT_ONCE", 4)
    tars(tmp_path)
    pieces = list(tar_starts(tmp_path / "s-0.tar"))
    assert max(map(len, pieces)) == 4
    assert np.concatenate(pieces).tolist() == list(record_starts(tmp_path / "s-0.tar"))


def test_a_mixture_walks_a_stream_in_its_own_order(tmp_path: Path) -> None:
    source = StreamSource(lines(tmp_path))
    other = FileSource(makers.write_lines(tmp_path / "x.json", [talk(number) for number in range(1000, 1010)]))
    mixture = Mixture([(source, 3), (other, 1)], seed=4)
    own = [index for number, index in map(mixture.pick, range(2 * TOTAL)) if number == 0]
    assert sorted(own[:TOTAL]) == list(range(TOTAL)) and own[:TOTAL] != sorted(own[:TOTAL])


def test_the_section_of_a_recipe(tmp_path: Path) -> None:
    path = tars(tmp_path)
    options = make(SOURCES, {"type": "files", "path": path, "shuffle_buffer": 7, "cache_mb": 1}, "data")
    assert isinstance(options, FilesOptions)
    options.check()
    assert options.streams() and len(options.open(0)) == TOTAL
    assert FilesOptions(path=str(tmp_path / "s-0.tar")).streams()
    plain = str(makers.write_lines(tmp_path / "x.jsonl", [talk(0)]))
    assert not FilesOptions(path=plain).streams() and FilesOptions(path=plain, stream=True).streams()
    assert FilesOptions(path=path).files() & FilesOptions(path=[str(tmp_path / "s-2.tar")]).files()
    for told, message in (
        ({"path": path, "stream": False}, "stream is false, but the path is a list, a pattern or a URL"),
        ({"path": str(tmp_path / "s-0.tar"), "stream": False}, "stream is false, but the path is a tar"),
        ({"path": path, "per_group": 2}, "per_group does not go with a stream"),
        ({"path": plain, "shuffle_buffer": 2}, "shuffle_buffer goes with a stream only"),
        ({"path": str(tmp_path / "s-{0..9}.tar")}, r"7 of 10 shards do not exist; the first is .*s-3\.tar"),
        ({"path": path, "format": "llava"}, "is a tar file in the format 'llava', which cannot be streamed"),
        ({"path": path, "options": {"questoin": "x"}}, "data format 'webdataset' has no key 'questoin'; did you mean"),
    ):
        with pytest.raises(UserError, match=message):
            FilesOptions.model_validate(told).check()
