"""Features on disk: what was written is read back or told to be damaged, by several processes, within a bound."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sightling.errors import UserError
from sightling.train.features.space import differences
from sightling.train.features.store import FeatureStore

SPACE = {"weights": "a", "encoder": "b", "pictures": "c", "precision": "float32", "dtype": "float32"}


def store(root: Path, most: int = 2**20, **other: str) -> FeatureStore:
    return FeatureStore(root, SPACE | other, most)


def key(number: int) -> str:
    return f"{number:064x}"


def drawn(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(number)).to(dtype)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_kept_is_read_back_and_counted(tmp_path: Path, dtype: torch.dtype) -> None:
    one = store(tmp_path)
    assert one.read(key(1)) == (None, "") and one.entries == 0 == one.bytes()
    one.write(key(1), drawn(1, dtype))
    one.write(key(1), drawn(2, dtype))
    found, damage = store(tmp_path).read(key(1))
    assert found is not None and damage == ""
    assert found.dtype == dtype and torch.equal(found, drawn(1, dtype))
    assert store(tmp_path).entries == 1 and one.bytes() == size_of(tmp_path) > 0
    assert store(tmp_path, weights="z").read(key(1)) == (None, "")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def renamed(path: Path) -> None:
    other = path.with_name(f"{key(7)}.safetensors")
    store(path.parent.parent.parent).write(key(7), drawn(7))
    shutil.copy(other, path)


@pytest.mark.parametrize("harm", [
    flipped, renamed, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b""),
], ids=["flipped", "another's", "cut", "empty"])  # fmt: skip
def test_a_damaged_entry_is_told_and_written_anew(tmp_path: Path, harm: Any) -> None:
    one = store(tmp_path)
    one.write(key(1), drawn(1))
    path = one.path(key(1))
    harm(path)
    found, damage = one.read(key(1))
    assert found is None and damage.startswith(f"{path}: ") and "\n" not in damage
    assert one.read(key(1)) == (None, "")
    one.write(key(1), drawn(1))
    again, damage = one.read(key(1))
    assert damage == "" and again is not None and torch.equal(again, drawn(1))


def test_a_full_folder_takes_no_more_and_keeps_what_is_there(tmp_path: Path) -> None:
    other = store(tmp_path, weights="z")
    other.write(key(0), drawn(0))
    each = other.bytes()
    one = store(tmp_path, most=3 * each + each // 2)
    for number in range(4):
        assert one.full == "" or number == 3
        one.write(key(number), drawn(number))
    assert one.full == "max_gib is reached"
    assert [one.read(key(number))[0] is not None for number in range(4)] == [True, True, False, False]
    assert one.bytes() == size_of(tmp_path) == 3 * each
    shutil.rmtree(other.folder)
    again = store(tmp_path, most=3 * each + each // 2)
    again.write(key(2), drawn(2))
    assert again.full == "" and again.bytes() == 3 * each


def test_a_disk_that_takes_no_more_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = store(tmp_path)

    def refuse(*told: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    for owner, name in ((Path, "write_bytes"), (Path, "write_text"), (os, "replace")):
        one.full = ""
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            one.write(key(1), drawn(1))
        assert one.full == "the disk takes no more (no space left on device)"
        assert store(tmp_path).bytes() == 0 and not list(tmp_path.rglob("*.safetensors"))
    low = store(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    low.write(key(1), drawn(1))
    assert low.full == "the disk is almost full"


def test_what_a_killed_process_left_is_counted_anew(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.write(key(1), drawn(1))
    (one.folder / "bytes").write_text("no number")
    left = one.path(key(1)).with_name(".left.partial")
    left.touch()
    assert one.bytes() == size_of(tmp_path) and left.exists()
    os.utime(left, (0, 0))
    assert store(tmp_path).bytes() == size_of(tmp_path) and not left.exists()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^features cannot be kept in .*/file: .*$"):
        store(tmp_path / "file")


def _fill(root: Path, first: int) -> None:
    one = store(root)
    for number in range(first, first + 30):
        one.write(key(number), drawn(number))
        assert one.read(key(number))[0] is not None


def test_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, first)) for first in (0, 0, 10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    one = store(tmp_path)
    assert one.entries == 40 and one.bytes() == size_of(tmp_path)
    for number in range(40):
        found, _ = one.read(key(number))
        assert found is not None and torch.equal(found, drawn(number))


def test_other_spaces_are_known_by_what_differs(tmp_path: Path) -> None:
    store(tmp_path, weights="z", dtype="float16").write(key(1), drawn(1))
    one = store(tmp_path)
    ((folder, about, size),) = one.others()
    assert size == size_of(folder) > 0
    assert differences(SPACE, about) == "the encoder's weights and features.dtype"
