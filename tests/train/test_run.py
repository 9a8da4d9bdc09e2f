from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from growing import assert_same, text_of, weights_after
from rich.console import Console
from toy import Finite, build, toy_recipe

from sightling.errors import UserError
from sightling.train.run import run


def test_a_finished_run_is_left_alone(tmp_path: Path, console: Console) -> None:
    first = weights_after(tmp_path, words={"type": "toy_step"}, one={})
    stamp = (tmp_path / "model" / "toy.safetensors").stat().st_mtime_ns
    assert_same(first, weights_after(tmp_path, console, words={"type": "toy_step"}, one={}))
    assert (tmp_path / "model" / "toy.safetensors").stat().st_mtime_ns == stamp
    assert "finished already" in text_of(console)
    state = json.loads((tmp_path / "run.json").read_text())
    assert state["status"] == "finished" and state["stages"]["words"]["facts"] == {"words": 3}
    one = state["stages"]["one"]
    assert one["status"] == "finished" and one["steps"] == 6
    assert one["seconds"] > 0 and one["peak_memory_bytes"] > 0
    assert len(state["recipe_hash"]) == 64
    assert not (tmp_path / "checkpoints" / "one").exists()
    recipe = (tmp_path / "model" / "recipe.yaml").read_text()
    assert recipe == (tmp_path / "recipe.yaml").read_text() == toy_recipe(words={"type": "toy_step"}, one={}).to_yaml()


def test_a_lost_model_is_made_again_from_the_stages(tmp_path: Path) -> None:
    import shutil

    stages: dict[str, Any] = {"one": {}, "two": {"train": {"connector": True}}}
    first = weights_after(tmp_path, **stages)
    shutil.rmtree(tmp_path / "model")
    assert_same(first, weights_after(tmp_path, **stages))


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda p: run(toy_recipe(one={"learning_rate": 0.5}), p, build=build, threads=1),
         "holds another run: stages.one.learning_rate is 0.5 there and 0.01 here"),
        (lambda p: (p.mkdir(), (p / "photo.jpg").touch()), "holds files but no run"),
        (lambda p: p.touch(), "is a file"),
    ],
)  # fmt: skip
def test_a_folder_with_something_else_in_it(tmp_path: Path, prepare: Any, sentence: str) -> None:
    prepare(tmp_path / "r")
    with pytest.raises(UserError, match=sentence):
        weights_after(tmp_path / "r", one={})


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    from sightling.train.runfolder import RunFolder

    held = RunFolder(tmp_path / "r", toy_recipe(one={}))
    with pytest.raises(UserError, match="another process is training in"):
        weights_after(tmp_path / "r", one={})
    held.release()
    weights_after(tmp_path / "r", one={})


# ---- what is wrong before anything runs


def test_data_that_are_not_there_are_told_before_anything_is_written(tmp_path: Path) -> None:
    words = {"type": "tokenizer", "data": {"type": "samples", "data": {"type": "files", "path": "gone.json"}}}
    answer = {"objective": {"type": "answer"}, "data": {"type": "files", "path": "gone.csv"}}
    mixed = {"type": "mixture", "sources": {"mine": {"type": "files", "path": "gone.json"}}}
    for name, stage in {
        "words": words,
        "answer": answer,
        "mixed": answer | {"data": mixed},
    }.items():
        with pytest.raises(UserError, match=rf"toy\.yaml: stages\.{name}\.data: .*gone\.\w+ does not exist") as told:
            run(toy_recipe(**{name: stage}), tmp_path / "run", threads=1, build=build)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "run").exists()


def test_a_finished_stage_needs_its_data_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Finite, "check", lambda self: asked.append(self.size))
    recipe = toy_recipe(one={"data": {"type": "finite", "size": 9}})
    for _ in range(2):
        run(recipe, tmp_path / "run", threads=1, build=build)
    assert asked == [9]
