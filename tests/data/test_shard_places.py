from __future__ import annotations

import threading
from pathlib import Path

import fsspec
import pytest

from sightling.data.places import HERE_AT_ONCE, Place, at_once, braces, identity, is_pattern, read_range, shards
from sightling.errors import UserError


def names(paths: object) -> list[str]:
    return [str(file).rpartition("/")[2] for file in shards(paths)]  # type: ignore[arg-type]


def touch(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).write_bytes(b"0123456789")
    return folder


def test_ranges_count_with_the_digits_that_are_written() -> None:
    assert braces("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert braces("plain.{x}.tar") == ["plain.{x}.tar"]
    assert len(braces("s3://bucket/shard-{000000..000099}.tar")) == 100
    with pytest.raises(UserError, match=r"the range \{5\.\.3\} of x\{5\.\.3\} ends before it begins"):
        braces("x{5..3}")


def test_patterns_lists_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a-0.tar", "a-1.tar", "a-2.tar", "notes.md", ".hidden.tar")
    assert names(str(tmp_path / "a-*.tar")) == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert names([str(tmp_path / "a-{1..2}.tar"), str(tmp_path / "a-0.tar")]) == ["a-1.tar", "a-2.tar", "a-0.tar"]
    assert names(str(tmp_path)) == ["a-0.tar", "a-1.tar", "a-2.tar"]


def test_a_file_of_that_very_name_is_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "odd{0..1}*.jsonl")
    assert not is_pattern(str(tmp_path / "odd{0..1}*.jsonl"))
    assert names(str(tmp_path / "odd{0..1}*.jsonl")) == ["odd{0..1}*.jsonl"]
    assert is_pattern("s-{0..1}.tar") and is_pattern("s-*.tar") and not is_pattern("s.tar")


def test_what_is_missing_or_named_twice_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a-0.tar", "a-2.tar")
    with pytest.raises(UserError, match=r"2 of 4 shards do not exist; the first is .*a-1\.tar"):
        shards(str(tmp_path / "a-{0..3}.tar"))
    with pytest.raises(UserError, match=r"the shard .*a-0\.tar is named twice"):
        shards([str(tmp_path / "a-0.tar"), str(tmp_path / "a-*.tar")])
    with pytest.raises(UserError, match="no file matches"):
        shards(str(tmp_path / "b-*.tar"))
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"the folder .* holds no shards"):
        shards(str(tmp_path / "sub"))


def test_files_here_are_read_by_few_threads(tmp_path: Path) -> None:
    files = [tmp_path / f"a-{number}" for number in range(40)]
    threads = set()
    together = threading.Barrier(HERE_AT_ONCE)

    def ask(file: Path) -> str:
        threads.add(threading.get_ident())
        together.wait(60)
        return file.name

    # The barrier lets go of none before so many have come, so that the pool must have begun all its threads.
    assert at_once(ask, files) == [file.name for file in files]  # type: ignore[arg-type]
    assert len(threads) == HERE_AT_ONCE


def test_urls() -> None:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/places/s-{number}.jsonl", b"0123456789")
    assert [str(file) for file in shards("memory://places/s-*.jsonl")] == [
        "memory:///places/s-0.jsonl",
        "memory:///places/s-1.jsonl",
    ]
    assert names("memory://places/s-{0..1}.jsonl") == ["s-0.jsonl", "s-1.jsonl"]
    with pytest.raises(UserError, match=r"1 of 3 shards do not exist; the first is memory://places/s-2\.jsonl"):
        shards("memory://places/s-{0..2}.jsonl")
    with pytest.raises(UserError, match="no file matches memory://nowhere"):
        shards("memory://nowhere/*.tar")
    with pytest.raises(UserError, match=r"nosuch://x cannot be opened: Protocol not known"):
        shards("nosuch://x")
    with pytest.raises(UserError, match="a chain of file systems"):
        shards("simplecache::memory://places/*")


def test_bytes_are_read_from_anywhere_and_a_shorter_file_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    fsspec.filesystem("memory").pipe("/places/a", b"0123456789")
    for file in (tmp_path / "a", Place("memory://places/a")):
        assert read_range(file, 2, 5) == b"234"
        assert identity(file)[1] == 10
        with pytest.raises(UserError, match="changed while it was being read: it has no 11 bytes any more"):
            read_range(file, 9, 11)
    with pytest.raises(UserError, match="gone does not exist"):
        identity(tmp_path / "gone")
    with pytest.raises(UserError, match="memory://places/gone does not exist"):
        read_range(Place("memory://places/gone"), 0, 1)
