"""What is told of the steps of a stage, and that looking changes nothing."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from growing import assert_same
from levered import STEPS, learnt
from rich.console import Console
from torch import Tensor, nn

from sightling import cli
from sightling.model.recomputing import recompute
from sightling.train import watch as watch_module
from sightling.train.profiling import Products, lines, table
from sightling.train.watch import BACKWARD, BEFORE, DATA, FORWARD, HEAD, OPTIMIZER, REST, Stopwatch, watched


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(watch_module, "time", SimpleNamespace(perf_counter=lambda: self.now))


class Slow(torch.autograd.Function):
    """The same out as in; takes so long forward, and twice as long backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clock: Clock, seconds: float) -> Tensor:
        clock.now += seconds
        ctx.told = clock, seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        clock, seconds = ctx.told
        clock.now += 2 * seconds
        return grad, None, None


class Part(nn.Module):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        return Slow.apply(x, self.clock, self.seconds)


def test_each_part_is_told_its_time_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    parts = {"encoder": Part(clock, 1.0), "connector": Part(clock, 2.0), "language_model": Part(clock, 4.0)}
    watch = Stopwatch(torch.device("cpu"))
    x = torch.ones(2, requires_grad=True)
    watch.switch(DATA)
    clock.now += 50
    with watched(watch, SimpleNamespace(parts=lambda: parts)):
        watch.start()
        with watch.phase(DATA):
            clock.now += 0.25
        with watch.phase(FORWARD, BEFORE):
            clock.now += 0.5
            seen = parts["connector"](parts["encoder"](x))
            clock.now += 0.5
            loss = Slow.apply(parts["language_model"](seen), clock, 8.0).sum()
        clock.now += 0.125
        with watch.phase(BACKWARD, HEAD):
            loss.backward()
        with watch.phase(OPTIMIZER):
            clock.now += 3
        watch.stop()
    clock.now += 50
    assert dict(watch.seconds) == {
        (REST, ""): 0.125, (DATA, ""): 0.25, (FORWARD, BEFORE): 1.0, (FORWARD, "encoder"): 1.0,
        (FORWARD, "connector"): 2.0, (FORWARD, "language_model"): 4.0, (FORWARD, HEAD): 8.0, (BACKWARD, HEAD): 16.0,
        (BACKWARD, "language_model"): 8.0, (BACKWARD, "connector"): 4.0, (BACKWARD, "encoder"): 2.0,
        (OPTIMIZER, ""): 3.0,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    console.print(table(watch, 2, "a step"))
    assert isinstance(console.file, io.StringIO)
    cells = [line.split("│")[1:-1] for line in console.file.getvalue().splitlines() if "│" in line]
    rows = {name.strip(): [cell.strip() for cell in rest] for name, *rest in cells}
    assert rows["language model"] == ["2,000 ms", "4,000 ms", "6,000 ms", "24 %"]
    assert rows["optimizer"] == ["", "", "1,500 ms", "6 %"]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts.values())


def test_products_are_counted_and_those_done_twice_apart() -> None:
    weight = torch.ones(3, 5, requires_grad=True)
    x = torch.ones(7, 3, requires_grad=True)
    with Products() as plain:
        (x @ weight).square().sum().backward()
    assert (plain.flops, plain.again) == (3 * 2 * 7 * 3 * 5, 0)
    with Products() as twice:
        recompute(lambda own: (own @ weight).square(), x).sum().backward()
    assert (twice.flops, twice.again) == (plain.flops, 2 * 7 * 3 * 5)


def test_utilisation_is_products_by_time_by_what_the_machine_does() -> None:
    first, second = lines(3e9, 0.25, 0.5, 24e9, "float32")
    assert first.startswith("products of the model: 3.0 GFLOP a step, forward and backward, and 25 % more")
    assert second == "model FLOP utilisation: 25.0 %, 6.0 GFLOP/s of the 24.0 GFLOP/s of a large float32 product here"


def test_a_profiled_run_learns_the_same_and_says_where_its_time_goes(tmp_path: Path) -> None:
    weights, _ = learnt(tmp_path / "plain")
    again, said = learnt(tmp_path / "seen", profile=1)
    assert_same(again, weights)
    for word in ("encoder", "connector", "language model", "head and loss", "optimizer", "data", "rest"):
        assert f"│ {word} " in said, word
    assert "model FLOP utilisation: " in said and "of a large float32 product here" in said
    with gzip.open(tmp_path / "seen" / "profile" / "one.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"data", "optimizer", f"{BACKWARD} {HEAD}"} <= names
    short, told = learnt(tmp_path / "short", profile=STEPS)
    assert_same(short, weights)
    assert f"stage one is not profiled: that takes {1 + 3 * STEPS} steps, and {STEPS} are left" in told
    assert not (tmp_path / "short" / "profile").exists()


def test_no_steps_to_profile_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "quickstart", "--profile", "0", "--output", str(tmp_path / "run")])
    assert "--profile 0 is too few; at least 1 step is needed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
