"""A run that is killed, stopped or crashes goes on to bit for bit the weights of one that was left alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from toy import ToyStep, build, parse_recipe, toy_tree, write_recipe

from sightling.errors import UserError
from sightling.train.checkpoint import CheckpointFolder
from sightling.train.loop import StageLoop
from sightling.train.run import run
from sightling.train.stopping import Interrupted, StopNow, Stopping
from sightling.train.trackers import read_metrics


def tree() -> dict[str, Any]:
    """Two stages with all that could go wrong: dropout, statistics, a head of its own, epochs, Muon, workers."""
    return toy_tree(
        words={"type": "toy_step"},
        first={"objective": {"type": "toy", "head": True, "noise": True}, "optim": "muon", "max_steps": 12,
               "logging_steps": 5, "gradient_accumulation_steps": 2},
        second={"train": {"language_model": True, "encoder": 1e-3}, "data": {"type": "finite", "size": 9},
                "max_steps": 24, "logging_steps": 7, "save_steps": 3, "lr_scheduler_type": "cosine",
                "eval_steps": 10},
    )  # fmt: skip


def quiet() -> Console:
    return Console(file=io.StringIO())


def final(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "toy.safetensors")


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The log without what the clock decides."""
    clock = ("samples_per_second", "tokens_per_second", "waiting_for_data", "seconds")
    return [{k: v for k, v in line.items() if k not in clock} for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(parse_recipe(tree(), "toy.yaml"), folder, threads=1, build=build, console=quiet())
    return folder


def assert_same_run(folder: Path, uninterrupted: Path) -> None:
    one, two = final(folder), final(uninterrupted)
    assert set(one) == set(two)
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert numbers(folder) == numbers(uninterrupted)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real program that grows the same recipe, slowly enough to be met in the middle."""
    # Only the program that is killed is slow; what the recipe says is the same.
    program = Path(__file__).with_name("toy.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOY_PAUSE": "0.05"}
    recipe = write_recipe(tmp_path / "toy.yaml", tree())
    running = subprocess.Popen(
        [sys.executable, str(program), str(recipe), str(tmp_path / "run")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield running
    running.kill()
    running.communicate()


def wait_for_step(process: subprocess.Popen[str], folder: Path, stage: str, step: int) -> None:
    deadline = time.monotonic() + 300
    checkpoints = CheckpointFolder(folder / "checkpoints" / stage, 1)
    while not any(saved >= step for saved in checkpoints.steps()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_in_the_middle_of_a_stage(tmp_path: Path, uninterrupted: Path, process: subprocess.Popen[str]) -> None:
    wait_for_step(process, tmp_path / "run", "second", 6)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "model").exists()
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [stage["status"] for stage in state["stages"].values()] == ["finished", "finished", "running"]
    console = quiet()
    run(parse_recipe(tree(), "toy.yaml"), tmp_path / "run", threads=1, build=build, console=console)
    assert isinstance(console.file, io.StringIO)
    # At most save_steps = 3 updates are lost: it goes on from the last multiple of 3.
    assert "going on after step" in console.file.getvalue()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_sigterm_saves_at_the_next_step_and_says_how_to_go_on(
    tmp_path: Path, uninterrupted: Path, process: subprocess.Popen[str]
) -> None:
    wait_for_step(process, tmp_path / "run", "first", 2)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 143, told
    last = told.splitlines()[-1]
    assert last.startswith("stopped after step ") and last.endswith("; the same command continues from there")
    saved = CheckpointFolder(tmp_path / "run" / "checkpoints" / "first", 1).steps()[-1]
    assert f"stopped after step {saved} of 12 of stage first" in last
    run(parse_recipe(tree(), "toy.yaml"), tmp_path / "run", threads=1, build=build, console=quiet())
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("at", [1, 12, 13, 36])
def test_stopped_anywhere(tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ctrl-C arrives while update ``at`` (counted over both stages) is under way; a data worker helps after."""
    done = 0
    real = StageLoop.update

    def interrupted(self: StageLoop, *args: Any) -> Any:
        nonlocal done
        done += 1
        if done == at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "update", interrupted)
        with pytest.raises(Interrupted, match="the same command continues") as stop:
            run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    assert stop.value.exit_code == 130
    again = tree() | {"dataloader_num_workers": 1 if at == 13 else 0, "save_steps": 100}
    run(parse_recipe(again, "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("place", ["save_checkpoint", "RunFolder.note", "RunFolder.state"])
def test_crashed_while_a_stage_was_written_down(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A crash before, between and after a finished stage's weights and its line in ``run.json``."""

    def crash(*args: Any, **told: Any) -> None:
        raise ZeroDivisionError("power cut")

    with monkeypatch.context() as patch:
        if place == "save_checkpoint":
            patch.setattr("sightling.train.run.save_checkpoint", crash)
        elif place == "RunFolder.note":
            patch.setattr("sightling.train.run._Run._reconcile", crash)
        else:
            patch.setattr("sightling.train.run._Run._save_model", crash)
        with pytest.raises(ZeroDivisionError):
            run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    assert_same_run(tmp_path, uninterrupted)
    state = json.loads((tmp_path / "run.json").read_text())
    assert {stage["status"] for stage in state["stages"].values()} == {"finished"}
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_step_that_is_interrupted_leaves_nothing_and_starts_over(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: ToyStep, context: Any) -> dict[str, Any]:
        (context.output / "words.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(ToyStep, "run", half)
        with pytest.raises(Interrupted) as stop:
            run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    assert stop.value.exit_code == 143
    assert not (tmp_path / "words").exists() and not (tmp_path / ".words.partial").exists()
    run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    assert (tmp_path / "words" / "words.txt").read_text() == (uninterrupted / "words" / "words.txt").read_text()


def test_a_stage_keeps_the_precision_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured anew, ``auto`` could change its mind in the middle of a stage."""
    told = tree() | {"bf16": "auto"}
    bf16 = iter([1.0, 0.1, 0.1, 1.0])
    monkeypatch.setattr("sightling.train.precision._seconds", lambda device, bf16_=None, **k: next(bf16))
    real = StageLoop.save
    with monkeypatch.context() as patch:

        def save_and_die(self: StageLoop) -> None:
            real(self)
            raise ZeroDivisionError

        patch.setattr(StageLoop, "save", save_and_die)
        with pytest.raises(ZeroDivisionError):
            run(parse_recipe(told, "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    console = quiet()
    run(parse_recipe(told, "toy.yaml"), tmp_path, threads=1, build=build, console=console)
    assert isinstance(console.file, io.StringIO)
    assert "precision of stage first: bf16 (as this stage began)" in console.file.getvalue()
    assert "precision of stage second: float32 (bf16 is 10.0x slower" in console.file.getvalue()


@pytest.mark.parametrize("told", ["[]", "{", "{}", '{"stages": {"one": 5}}', '{"stages": 5}'])
def test_a_record_that_is_none_is_told(tmp_path: Path, told: str) -> None:
    run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    (tmp_path / "run.json").write_text(told)
    with pytest.raises(UserError, match=r"run\.json is corrupt; delete it to continue"):
        run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())


def test_another_number_of_threads_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sightling.train.run.save_checkpoint", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=quiet())
    state = json.loads((tmp_path / "run.json").read_text())
    assert state["threads"] == 1
    (tmp_path / "run.json").write_text(json.dumps(state | {"threads": 2}))
    console = quiet()
    run(parse_recipe(tree(), "toy.yaml"), tmp_path, threads=1, build=build, console=console)
    assert isinstance(console.file, io.StringIO)
    assert "this run had 2 threads before" in console.file.getvalue()


def test_the_first_signal_waits_for_a_boundary_and_the_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stopping() as stopping:
        with stopping.at_a_boundary():
            os.kill(os.getpid(), signal.SIGINT)
            assert stopping.asked == signal.SIGINT
            with pytest.raises(StopNow):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
