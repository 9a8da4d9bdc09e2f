"""A model in parts learns what it learns in one process, is saved in parts, and goes on in any number of processes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from cut import CASES, alone, learn
from growing import text_of
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from toy import build, toy_recipe, toy_tree, write_recipe

from sightling.errors import UserError
from sightling.train.checkpoint import ABOUT, STATE, CheckpointFolder
from sightling.train.loop import StageLoop
from sightling.train.order import batch_numbers
from sightling.train.parallel import Parallel
from sightling.train.recipe import Recipe, load_recipe, parse_recipe
from sightling.train.resuming import total_steps
from sightling.train.run import run
from sightling.train.runfolder import recipe_hash
from sightling.train.sharded_muon import shares
from sightling.train.trackers import read_metrics

HERE, PATIENCE = Path(__file__).parent, 600

STAGE = {
    "train": {"connector": True, "language_model": True},
    "data": {"type": "finite", "size": 50},
    "max_steps": 24,
    "save_steps": 2,
    "optim": "muon",
    "eval_steps": 12,
}


def a_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**told: Any) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK")}
    told |= {"OMP_NUM_THREADS": 1, "PYTHONPATH": os.pathsep.join(sys.path)}
    return kept | {key: str(value) for key, value in told.items()}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case learns in parts; ``tied`` also goes on from what one process saved."""
    folder = tmp_path_factory.mktemp("learnt")
    learn(CASES["tied"], alone(), save=folder / "tied.one")
    program = [sys.executable, str(HERE / "cut.py"), str(folder), str(a_port())]
    ended = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.bf16])
def test_parts_learn_what_a_whole_learns(learnt: Path, name: str) -> None:
    """Uneven micro-batches, pictures on some ranks only, an update without any, clipping, frozen and tied weights."""
    expected = learn(CASES[name], alone())
    # Products of sums in another order; Muon's iteration makes more of a difference than Adam.
    torch.testing.assert_close(load_file(learnt / f"{name}.safetensors"), expected, atol=2e-4, rtol=1e-3)


def test_bf16_keeps_float32_masters(learnt: Path) -> None:
    learnt_so = load_file(learnt / "bf16.safetensors")
    expected = learn(CASES["bf16"], alone())
    assert {tensor.dtype for tensor in learnt_so.values()} == {torch.float32}
    # Three updates of Adam at 1e-2 each: a sign that bfloat16 turned is twice that.
    torch.testing.assert_close(learnt_so, expected, atol=0.07, rtol=0.1)
    mean = torch.stack([(learnt_so[name] - expected[name]).abs().mean() for name in expected]).mean()
    assert mean < 5e-3


def test_a_checkpoint_in_parts_is_read_by_another_number_of_processes(learnt: Path) -> None:
    expected = load_file(learnt / "tied.safetensors")
    assert len(list((learnt / "tied.step").glob("shard-*.safetensors"))) == 2
    torch.testing.assert_close(learn(CASES["tied"], alone(), load=learnt / "tied.step"), expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(load_file(learnt / "tied.again.safetensors"), expected, atol=2e-4, rtol=1e-3)


def tree(**told: Any) -> dict[str, Any]:
    # Dropout draws differ between one process and two; nothing else may.
    return toy_tree(words={"type": "toy_step"}, one={**STAGE, **told}) | {"model": {"dropout": 0.0}, "parallel": "fsdp"}


def final(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "toy.safetensors")


def started(folder: Path, processes: int = 2, pause: float = 0.0) -> subprocess.Popen[str]:
    """The toy grown by a process that starts the other, as ``cpu_processes`` says."""
    told = tree(per_device_train_batch_size=8) | {"cpu_processes": processes}
    recipe = write_recipe(folder.parent / "toy.yaml", told)
    program = [sys.executable, str(HERE / "toy.py"), str(recipe), str(folder)]
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(program, env=environment(TOY_PAUSE=pause), **said)


def test_a_killed_process_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = started(folder, pause=0.05)
    try:
        deadline = time.monotonic() + PATIENCE
        while not CheckpointFolder(folder / "checkpoints" / "one", 1).steps():
            assert running.poll() is None and time.monotonic() < deadline, running.communicate()[0]
            time.sleep(0.02)
        (second,) = psutil.Process(running.pid).children()
        second.kill()
        told, _ = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert running.returncode == 2, told
    assert "process 2 of 2 was killed by signal 9; the same command goes on from the last checkpoint" in told
    told, _ = started(folder).communicate(timeout=PATIENCE)
    assert "2 processes with a part each" in told and "going on after step" in told, told
    assert not any((folder / "checkpoints").iterdir())
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", tree(per_device_train_batch_size=8)))
    run(recipe, tmp_path / "one", threads=1, build=build, console=Console(file=io.StringIO()))
    torch.testing.assert_close(final(folder), final(tmp_path / "one"), atol=1e-4, rtol=1e-3)


def test_a_run_of_two_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positions of the data go on where two processes left them, and epochs end after as many items."""
    one = {"data": {"type": "finite", "size": 40}, "max_steps": None, "num_train_epochs": 2, "save_steps": 2}
    recipe = parse_recipe(toy_tree(one=one) | {"parallel": "fsdp"}, "toy.yaml")
    real = StageLoop.save

    def save_and_die(self: StageLoop) -> None:
        real(self)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "save", save_and_die)
        with pytest.raises(ZeroDivisionError):
            run(recipe, tmp_path / "run", threads=1, build=build, console=Console(file=io.StringIO()))
    # As if two processes had taken a micro-batch each.
    path = tmp_path / "run" / "checkpoints" / "one" / "step-00000002" / STATE
    state = torch.load(path, weights_only=True)
    assert state["taken"] == 2 * 4
    changed = {"random": 2 * state["random"], "windows": 2 * state["windows"], "taken": 2 * 4 * 2}
    torch.save(state | changed, path)
    about = json.loads(path.with_name(ABOUT).read_text())
    about["sizes"][STATE] = path.stat().st_size
    path.with_name(ABOUT).write_text(json.dumps(about))
    console = Console(file=io.StringIO(), width=400)
    run(recipe, tmp_path / "run", threads=1, build=build, console=console)
    line = "is of 2 processes and there are 1 now: batches are divided anew, from position 16"
    assert line in text_of(console)
    # 80 items in all, 16 of them taken in 2 updates, 4 in each of the others.
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")][-1] == 2 + 16


def test_checkpoints_of_the_other_kind_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightling.train.run.save_checkpoint", lambda *args: 1 / 0)
    one = {"one": {"max_steps": 3, "save_steps": 2}}

    def grown(kind: str, folder: str) -> None:
        recipe = parse_recipe(toy_tree(**one) | {"parallel": kind}, "toy.yaml")
        run(recipe, tmp_path / folder, threads=1, build=build, console=Console(file=io.StringIO()))

    for first, second in (("ddp", "fsdp"), ("fsdp", "ddp")):
        with pytest.raises(ZeroDivisionError):
            grown(first, first)
        with pytest.raises(UserError, match=f"step-00000002 was made with parallel: {first}; take that to go on"):
            grown(second, first)


def test_the_key() -> None:
    def told(value: Any) -> Parallel:
        return parse_recipe(toy_tree(one={}) | {"parallel": value}, "toy.yaml").parallel

    assert toy_recipe(one={}).parallel == told("ddp") == Parallel()
    assert told("fsdp") == told({"type": "fsdp"}) and told("fsdp").sharded
    copies = told({"type": "fsdp", "replicate": 2})
    assert copies.described(4) == ", 2 copies of the model in 2 parts" and copies.described(1) == ""
    assert copies.cuts(4, "toy") and not told("fsdp").cuts(1, "toy") and not told("ddp").cuts(4, "toy")
    recipe = parse_recipe(toy_tree(one={}) | {"parallel": {"type": "fsdp", "replicate": 2}}, "toy.yaml")
    assert parse_recipe(recipe.to_dict(), "again").to_dict() == recipe.to_dict()
    # What decides how, not what.
    assert recipe_hash(recipe) == recipe_hash(toy_recipe(one={}))
    for wrong, why in (("fsdq", "parallel.type = 'fsdq' is wrong"), (3, "ddp, fsdp or"),
                       ({"type": "fsdp", "copies": 2}, "parallel has no key 'copies'"),
                       ({"replicate": 2}, "replicate is about copies")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            told(wrong)
    with pytest.raises(UserError, match=r"toy: parallel\.replicate = 2 does not divide .* is 3; choose a divisor"):
        copies.cuts(3, "toy: parallel")


def test_what_parts_cannot_is_refused(tmp_path: Path) -> None:
    recipe: Recipe = parse_recipe(toy_tree(one={}) | {"parallel": "fsdp"}, "toy.yaml")
    with pytest.raises(UserError, match=r"toy\.yaml: parallel: models of the way are kept by ddp only"):
        run(recipe, tmp_path / "run", threads=1, build=build, keep={"one": [2]})
    with pytest.raises(UserError, match=r"toy\.yaml: parallel: steps are profiled by ddp only"):
        run(recipe, tmp_path / "run", threads=1, build=build, profile=2)
    compiled = parse_recipe(toy_tree(one={"torch_compile": True}) | {"parallel": "fsdp"}, "toy.yaml")
    with pytest.raises(UserError, match=r"stages\.one\.torch_compile is for parallel: ddp; leave it out with fsdp"):
        run(compiled, tmp_path / "run", threads=1, build=build)


def test_positions_go_on_for_another_number_of_ranks() -> None:
    """Two ranks took 3 updates of 2 micro-batches each, 12 in all; three go on from the thirteenth."""
    taken = [list(batch_numbers(3, 5, 2, rank, 3, shift=12 - 3 * 2 * 3)) for rank in range(3)]
    assert taken == [[12, 15, 18, 21], [13, 16, 19, 22], [14, 17, 20, 23]]


def test_epochs_end_after_as_many_items() -> None:
    stage = toy_recipe(one={"data": {"type": "finite"}, "max_steps": None, "num_train_epochs": 2}).stages["one"]
    assert total_steps(stage, 20, 1, "one") == 10  # type: ignore[arg-type]
    assert total_steps(stage, 20, 1, "one", step=3, taken=24) == 7  # type: ignore[arg-type]
    assert total_steps(stage, 20, 1, "one", step=3, taken=48) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "ranks"), [(5, 2), (8, 4), (3, 4), (1, 3), (9, 4)])
def test_rows_are_held_as_torch_cuts_them(rows: int, ranks: int) -> None:
    cut = [len(one) for one in torch.arange(rows).chunk(ranks)]
    assert shares(rows, ranks) == cut + [0] * (ranks - len(cut))
