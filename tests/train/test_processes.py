"""Processes that share one computer's batches: they learn what one learns, and come and go together."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from growing import assert_same
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from toy import build, toy_recipe, toy_tree, write_recipe

from sightling.errors import UserError
from sightling.train.checkpoint import CheckpointFolder
from sightling.train.processes import PROGRAM, SHARE, helpers, wanted
from sightling.train.recipe import load_recipe
from sightling.train.run import run

# The encoder's batch statistics are of a process's own half, so it stays out of the comparison.
STAGE = {
    "train": {"connector": True, "language_model": True},
    "data": {"type": "finite", "size": 50},
    "max_steps": 24,
    "save_steps": 2,
    "optim": "muon",
}

PATIENCE = 300


def tree(processes: int) -> dict[str, Any]:
    # Dropout draws differ between one process and two; nothing else may.
    return toy_tree(words={"type": "toy_step"}, one=STAGE) | {
        "model": {"dropout": 0.0},
        "cpu_processes": processes,
    }


def start(folder: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    recipe = write_recipe(folder.parent / "toy.yaml", tree(2))
    program = [sys.executable, str(Path(__file__).with_name("toy.py")), str(recipe), str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    environment |= {"OMP_NUM_THREADS": "1", "TOY_PAUSE": str(pause)}
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def final(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "toy.safetensors")


def disturbed(folder: Path, do: Callable[[psutil.Process, psutil.Process], None]) -> tuple[int, str]:
    """Start it, or go on, until two more checkpoints are there; do something to (first, second process)."""
    steps = CheckpointFolder(folder / "checkpoints" / "one", 1).steps
    before = max(steps(), default=0)
    running = start(folder, pause=0.05)
    try:
        first = psutil.Process(running.pid)
        deadline = time.monotonic() + PATIENCE
        while max(steps(), default=0) < before + 4:
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (second,) = first.children()
        do(first, second)
        told, _ = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    # However the first ended, the second is gone too, and the folder is free.
    psutil.wait_procs([second], timeout=30)
    assert not second.is_running()
    return running.returncode, told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    running = start(folder)
    told, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, told
    return folder, told


def test_two_processes_take_half_of_each_batch_and_learn_what_one_does(
    tmp_path: Path, undisturbed: tuple[Path, str]
) -> None:
    folder, told = undisturbed
    assert "2 processes" in told and told.count("stage one finished") == 1
    alone = load_recipe(write_recipe(tmp_path / "toy.yaml", tree(1)))
    run(alone, tmp_path / "one", threads=1, build=build, console=Console(file=io.StringIO()))
    torch.testing.assert_close(final(folder), final(tmp_path / "one"))


def test_stopped_and_killed_in_turn_it_ends_as_if_left_alone(
    tmp_path: Path, undisturbed: tuple[Path, str]
) -> None:
    code, told = disturbed(tmp_path / "run", lambda first, second: first.send_signal(signal.SIGINT))
    assert code == 130 and "the same command continues from there" in told, told
    code, told = disturbed(tmp_path / "run", lambda first, second: second.kill())
    assert code == 2, told
    assert "process 2 of 2 was killed by signal 9; the same command goes on from the last checkpoint" in told
    assert "Traceback" not in told
    code, _ = disturbed(tmp_path / "run", lambda first, second: first.kill())
    assert code == -signal.SIGKILL
    ended = start(tmp_path / "run")
    told, _ = ended.communicate(timeout=PATIENCE)
    assert ended.returncode == 0 and "going on after step" in told, told
    assert_same(final(tmp_path / "run"), final(undisturbed[0]))


def test_a_process_that_ends_without_a_word_is_noticed(tmp_path: Path) -> None:
    """In a program of its own: this one would end with it."""
    program = "import sys, time; from sightling.train import processes; processes.GRACE = 0.2\n"
    program += "with processes.helpers(2, [], (sys.executable, '-c', 'pass')): time.sleep(100)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == "error: process 2 of 2 ended too early\n"


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), helpers(2, [], (sys.executable, "-c", "raise SystemExit(1)")):
        time.sleep(0.5)
        raise RuntimeError("a bug")


def test_what_lies_in_the_folder_is_not_imported(tmp_path: Path) -> None:
    for name in ("token", "sightling"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)", encoding="utf-8")
    ended = subprocess.run([*PROGRAM, "recipes"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "quickstart" in ended.stdout


def test_batches_must_be_shared_evenly(tmp_path: Path) -> None:
    recipe = toy_recipe(one={"per_device_train_batch_size": 9})
    with pytest.raises(UserError, match=r"one\.per_device_train_batch_size = 9 cannot be shared evenly by .* = 2"):
        run(recipe, tmp_path / "run", threads=1, build=build, share=2)
    assert not (tmp_path / "run").exists()


def test_who_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert (wanted(1), wanted(3)) == (1, 3)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert wanted(3) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert wanted(3) == 1
    monkeypatch.setenv(SHARE, "2")
    assert wanted(3) == 2


def test_one_process_starts_no_other_and_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    before = dict(os.environ)
    with helpers(1, ["train"]):
        assert dict(os.environ) == before


def test_what_goes_wrong_here_ends_the_others(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import time; time.sleep(600)")
    before = dict(os.environ)
    with pytest.raises(UserError, match="bad input"), helpers(3, [], program):
        assert os.environ["WORLD_SIZE"] == "3"
        others = [child for child in psutil.Process().children() if program[-1] in child.cmdline()]
        raise UserError("bad input")
    assert len(others) == 2 and not any(other.is_running() for other in others)
    assert dict(os.environ) == before
