from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import build, toy_recipe

from sightling.errors import UserError
from sightling.train import checkpoint as module
from sightling.train.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    write_text,
    write_whole,
)
from sightling.train.order import random_state, restore_random_state
from sightling.train.run import run


def example(value: float = 1.0) -> Checkpoint:
    weights = {"a": torch.full((3, 2), value), "b": torch.arange(4)}
    state = {
        "optimizers": {"adamw": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        "random": [random_state(torch.device("cpu"))],
    }
    return Checkpoint(weights, state, {"stage": "one", "step": 3, "seconds": 1.5})


def full_disk(*args: Any, **told: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torch_full_disk(*args: Any, **told: Any) -> None:
    # The words of torch's own writer on a full disk.
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ---- round trips


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", example())
    found = load_checkpoint(tmp_path / "c")
    assert {name: tensor.tolist() for name, tensor in found.weights.items()} == {
        name: tensor.tolist() for name, tensor in example().weights.items()
    }
    assert found.state["optimizers"]["adamw"]["state"][0]["exp_avg"].tolist() == [1, 1]
    assert found.about["step"] == 3 and found.about["stage"] == "one"
    assert hidden(tmp_path) == []


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))]

    random.gauss(0, 1)
    save_checkpoint(tmp_path / "c", Checkpoint({}, {"random": random_state(torch.device("cpu"))}))
    expected = draw()
    draw()
    restore_random_state(load_checkpoint(tmp_path / "c").state["random"], torch.device("cpu"))
    assert draw() == expected


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "one", limit=2)
    assert folder.newest() is None
    for step in (2, 4, 10):
        folder.save(step, example(step))
    assert folder.steps() == [4, 10]
    newest = folder.newest()
    assert newest is not None and newest[0] == 10 and newest[1].weights["a"][0, 0] == 10
    folder.clear()
    assert folder.steps() == []


# ---- a disk that takes no more


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        ("save_file", full_disk),
        ("torch.save", full_disk),
        ("torch.save", torch_full_disk),
        ("_flush", full_disk),
    ],
)
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: Callable[..., None]
) -> None:
    folder = CheckpointFolder(tmp_path / "one", limit=1)
    folder.save(1, example(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(f"sightling.train.checkpoint.{place}", failure)
        with pytest.raises(UserError, match=r"could not be written to .*step-00000002: the disk is full"):
            folder.save(2, example(2.0))
    assert folder.steps() == [1] and hidden(tmp_path / "one") == []
    newest = folder.newest()
    assert newest is not None and newest[1].weights["a"][0, 0] == 1.0
    folder.save(2, example(2.0))
    assert folder.steps() == [2]


def test_a_bug_while_writing_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def broken(into: Path) -> None:
        (into / "half").write_text("x")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "somewhere else")

    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "c", broken, "a thing")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "c", lambda into: (into / "one").mkdir(), "a thing")
    write_whole(tmp_path / "c", lambda into: (into / "two").mkdir(), "a thing")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["two"]
    monkeypatch.setattr(module, "_flush", full_disk)
    with pytest.raises(UserError):
        write_whole(tmp_path / "c", lambda into: (into / "three").mkdir(), "a thing")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["two"] and hidden(tmp_path) == []


def test_a_small_file_is_replaced_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(module.os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"a.json could not be written: the disk is full"):
        write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old" and hidden(tmp_path) == []


def test_a_run_whose_disk_fills_up_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(one={"max_steps": 6, "save_steps": 2})
    run(recipe, tmp_path / "whole", threads=1, build=build)
    real = module.save_file

    def fails_at_four(tensors: Any, path: Path) -> None:
        if "step-00000004" in str(path):
            full_disk()
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", fails_at_four)
        with pytest.raises(UserError, match="the disk is full"):
            run(recipe, tmp_path / "cut", threads=1, build=build)
    assert CheckpointFolder(tmp_path / "cut" / "checkpoints" / "one", 2).steps() == [2]
    run(recipe, tmp_path / "cut", threads=1, build=build)
    whole, cut = (load_file(tmp_path / name / "model" / "toy.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


# ---- what is damaged or does not fit


def damage(folder: Path, kind: str) -> None:
    if kind == "no facts":
        (folder / "checkpoint.json").unlink()
    elif kind == "cut facts":
        (folder / "checkpoint.json").write_text('{"step": 3, "siz')
    elif kind == "missing":
        (folder / "state.pt").unlink()
    elif kind == "cut":
        data = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])
    elif kind == "garbled weights":
        size = (folder / "weights.safetensors").stat().st_size
        (folder / "weights.safetensors").write_bytes(b"\xff" * size)
    elif kind == "garbled state":
        size = (folder / "state.pt").stat().st_size
        (folder / "state.pt").write_bytes(b"\x00" * size)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no facts", "is incomplete: it has no checkpoint.json"),
        ("cut facts", "is corrupt: checkpoint.json cannot be read"),
        ("missing", "is incomplete: state.pt is missing"),
        ("cut", r"is incomplete: weights.safetensors has [\d,]+ bytes, [\d,]+ were written"),
        ("garbled weights", "is corrupt: weights.safetensors cannot be read"),
        ("garbled state", "is corrupt: state.pt cannot be read"),
    ],
)
def test_damage_is_detected(tmp_path: Path, kind: str, sentence: str) -> None:
    folder = CheckpointFolder(tmp_path, limit=3)
    folder.save(3, example())
    damage(folder.path(3), kind)
    with pytest.raises(UserError, match=sentence) as told:
        folder.newest()
    assert "delete that folder" in str(told.value) and "\n" not in str(told.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (shutil.rmtree, (str(tmp_path / "precious"),))

    (tmp_path / "precious").mkdir()
    save_checkpoint(tmp_path / "c", Checkpoint({}, {"trap": Trap()}))
    with pytest.raises(UserError, match=r"is corrupt: state\.pt"):
        load_checkpoint(tmp_path / "c")
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("a"), "there does not fit this model: it lacks key a"),
        (lambda w: w.update(c=torch.zeros(1)), "there does not fit this model: it holds the unknown key c"),
        (
            lambda w: w.update(a=torch.zeros(2, 3)),
            "there does not fit this model: a has shape (2, 3) there and (3, 2) here",
        ),
        (
            lambda w: w.update({f"x{i}": torch.zeros(1) for i in range(5)}),
            "there does not fit this model: it holds the unknown keys x0, x1, x2 and 2 more",
        ),
    ],
)
def test_keys_and_shapes_must_fit(change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    weights = dict(example(5.0).weights)
    change(weights)
    into = dict(example(1.0).weights)
    with pytest.raises(UserError) as told:
        load_weights(into, weights, "there")
    assert str(told.value) == sentence
    assert into["a"].max() == 1.0


def test_a_checkpoint_with_a_key_too_many_stops_a_run(tmp_path: Path) -> None:
    recipe = toy_recipe(one={"objective": {"type": "toy", "poison": 17}, "max_steps": 6, "save_steps": 2})
    with pytest.raises(UserError, match="not finite at step 5"):
        run(recipe, tmp_path / "r", threads=1, build=build)
    newest = CheckpointFolder(tmp_path / "r" / "checkpoints" / "one", 2).path(4)
    weights = load_file(newest / "weights.safetensors")
    save_checkpoint(newest, Checkpoint(weights | {"stray": torch.zeros(1)}, load_checkpoint(newest).state,
                                       load_checkpoint(newest).about))  # fmt: skip
    with pytest.raises(UserError, match="step-00000004 does not fit this model: it holds the unknown key stray"):
        run(recipe, tmp_path / "r", threads=1, build=build)
