from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import assert_differ, assert_same, text_of, weights_after
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import ToyItems, ToyModel, build, toy_recipe, toy_tree, write_recipe

from sightling.errors import UserError
from sightling.train import loop as loop_module
from sightling.train.checkpoint import load_checkpoint
from sightling.train.objectives import OBJECTIVES
from sightling.train.order import Batches, derive_seed
from sightling.train.precision import choose_bf16, choose_threads
from sightling.train.recipe import parse_recipe
from sightling.train.run import run
from sightling.train.summary import ActivationMeter
from sightling.train.trackers import MetricsFile, check_trackers, read_metrics
from sightling.train.trained import model_parts, set_training


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- the numbers


def gradients(monkeypatch: pytest.MonkeyPatch, folder: Path, **stage: Any) -> dict[str, Tensor]:
    """The gradients that a stage of one step arrives at, dropout put away."""
    seen: dict[str, Tensor] = {}

    def spy(self: Any) -> Tensor:
        seen.update({name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None})
        return torch.zeros(())

    monkeypatch.setattr(loop_module.StageLoop, "_gradient_norm", spy)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    weights_after(folder, one={"max_steps": 1, "train": {"connector": True, "language_model": True}, **stage})
    return seen


def test_a_step_is_the_gradient_of_the_mean_over_all_supervised_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = gradients(monkeypatch, tmp_path / "a", per_device_train_batch_size=6)
    in_three = gradients(monkeypatch, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=3)
    torch.testing.assert_close(at_once, in_three)
    model, _ = build({}, 1, tmp_path)
    model.encoder.eval()
    batch = batch_zero(6)
    nn.functional.cross_entropy(model(batch["x"], batch["hint"]), batch["label"]).backward()
    plain = {name: p.grad for name, p in model.named_parameters() if not name.startswith("encoder.")}
    torch.testing.assert_close(at_once, plain)


def batch_zero(size: int) -> dict[str, Tensor]:
    """The first micro-batch of stage ``one`` of the toy recipe."""
    toy = OBJECTIVES.get("toy")
    objective = toy(nn.Module(), None, toy.Options(), toy.sources.get("endless")(), 0)
    return Batches(ToyItems(), objective.collate, size, derive_seed(1, "one"))[0]


def test_what_is_frozen_stays_and_what_trains_moves(tmp_path: Path) -> None:
    before = build({}, 1, tmp_path)[0].state_dict()
    after = weights_after(tmp_path / "r", one={"train": {"connector": True}})
    for name, tensor in before.items():
        # The frozen encoder's running statistics rest too.
        assert torch.equal(after[name], tensor) != name.startswith("connector."), name
    trained = load_checkpoint(tmp_path / "r" / "stages" / "one").weights
    assert set(trained) == {"connector.weight", "connector.bias"}


def test_what_a_model_holds_fixed_never_trains(tmp_path: Path) -> None:
    def with_fixed_bias(section: dict[str, Any], seed: int, folder: Path) -> Any:
        model, processor = build(section, seed, folder)
        model.connector.bias.requires_grad_(False)
        return model, processor

    fixed = with_fixed_bias({}, 1, tmp_path)[0].connector.bias
    run(toy_recipe(one={}, two={}), tmp_path / "r", threads=1, build=with_fixed_bias)
    assert torch.equal(load_file(tmp_path / "r" / "model" / "toy.safetensors")["connector.bias"], fixed)


def test_learning_rates_by_part_follow_the_schedule(tmp_path: Path) -> None:
    weights_after(tmp_path, one={"max_steps": 4, "logging_steps": 1, "warmup_steps": 2, "learning_rate": 0.1,
                                 "train": {"connector": True, "encoder": 0.01}})  # fmt: skip
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.0, 0.05, 0.1, 0.05])
    assert [line["learning_rate/encoder"] for line in lines] == pytest.approx([0.0, 0.005, 0.01, 0.005])


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    real = loop_module.StageLoop._gradient_norm

    def spy(self: Any) -> Tensor:
        norm = real(self)
        seen.append(float(nn.utils.get_total_norm([p.grad for p in self.trained])))
        return norm

    monkeypatch.setattr(loop_module.StageLoop, "_gradient_norm", spy)
    weights_after(tmp_path / "a", one={"max_grad_norm": 1e-3, "logging_steps": 1})
    assert seen == pytest.approx([1e-3] * 6, rel=1e-2)
    told = [line["grad_norm"] for line in read_metrics(tmp_path / "a" / "metrics.jsonl")]
    assert min(told) > 1e-2
    seen.clear()
    weights_after(tmp_path / "b", one={"max_grad_norm": 0.0, "logging_steps": 1})
    assert seen == pytest.approx([line["grad_norm"] for line in read_metrics(tmp_path / "b" / "metrics.jsonl")])


def test_an_objectives_own_weights_train_and_are_not_kept(tmp_path: Path, console: Console) -> None:
    after = weights_after(tmp_path, console, one={"objective": {"type": "toy", "head": True}, "save_steps": 2})
    assert "objective" in text_of(console)
    assert set(after) == set(ToyModel().state_dict())
    assert not any(name.startswith("objective") for name in load_checkpoint(tmp_path / "stages" / "one").weights)


def test_muon_trains_too(tmp_path: Path) -> None:
    lines = {}
    for optim in ("adamw", "muon"):
        weights_after(tmp_path / optim, one={"optim": optim, "max_steps": 40, "logging_steps": 10})
        lines[optim] = [line["loss"] for line in read_metrics(tmp_path / optim / "metrics.jsonl")]
        assert lines[optim][-1] < lines[optim][0] - 0.2
    assert lines["adamw"] != lines["muon"]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Each of two real processes takes half of the rows; the log and the weights are those of one process."""
    plain = {"train": {"connector": True, "language_model": True}, "data": {"type": "finite", "size": 50},
             "eval_steps": 3, "gradient_accumulation_steps": 2, "optim": "muon"}  # fmt: skip

    def tree(rows: int) -> dict[str, Any]:
        stages = {"words": {"type": "toy_step"}, "one": plain | {"per_device_train_batch_size": rows}}
        return toy_tree(**stages) | {"model": {"dropout": 0.0}}

    recipe = write_recipe(tmp_path / "toy.yaml", tree(4))
    program = [sys.executable, str(Path(__file__).with_name("toy.py")), str(recipe), str(tmp_path / "two")]
    shared = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            program,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    run(
        parse_recipe(tree(8), "toy.yaml"), tmp_path / "one", threads=1, build=build, console=Console(file=io.StringIO())
    )
    told = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert "2 processes" in told[0] and "stage one" in told[0] and "stage one" not in told[1]
    one, two = (load_file(tmp_path / name / "model" / "toy.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(one, two)
    logs = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("one", "two")]
    for line, other in zip(*logs, strict=True):
        for key in ("loss", "accuracy", "eval_loss", "epoch", "padding", "learning_rate"):
            assert other.get(key) == pytest.approx(line.get(key)), key


# ---- the log


def test_the_log_holds_means_over_each_window(tmp_path: Path) -> None:
    weights_after(tmp_path / "a", one={"logging_steps": 1})
    weights_after(tmp_path / "b", one={"logging_steps": 3})
    single = list(read_metrics(tmp_path / "a" / "metrics.jsonl"))
    triple = list(read_metrics(tmp_path / "b" / "metrics.jsonl"))
    assert [line["step"] for line in single] == [1, 2, 3, 4, 5, 6] and [line["step"] for line in triple] == [3, 6]
    for key in ("loss", "accuracy"):
        assert triple[0][key] == pytest.approx(sum(line[key] for line in single[:3]) / 3)
    assert all(line["padding"] == 0.25 and line["samples_per_second"] > 0 for line in triple)
    assert triple[1]["tokens_per_second"] == pytest.approx(3 * triple[1]["samples_per_second"])


def test_held_out_loss_is_measured_without_a_trace(tmp_path: Path) -> None:
    stage = {"data": {"type": "finite", "size": 9}}
    with_it = weights_after(tmp_path / "a", one=stage | {"eval_steps": 2, "per_device_eval_batch_size": 3})
    assert_same(with_it, weights_after(tmp_path / "b", one=stage))
    measured = [line for line in read_metrics(tmp_path / "a" / "metrics.jsonl") if "eval_loss" in line]
    assert [line["step"] for line in measured] == [2, 4, 6]
    assert all(0 <= line["eval_accuracy"] <= 1 for line in measured)


def test_rewinding_the_log_forgets_only_what_is_done_again(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for stage, step in (("one", 2), ("one", 4), ("two", 2), ("two", 4)):
        file.write({"stage": stage, "step": step})
    with file.path.open("a") as half:
        half.write('{"stage": "two", "st')
    file.rewind("two", 2)
    assert [(line["stage"], line["step"]) for line in read_metrics(file.path)] == [("one", 2), ("one", 4), ("two", 2)]


def test_tensorboard_gets_the_numbers_and_a_missing_tracker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tree = toy_tree(one={}, two={"max_steps": 2})
    tree["report_to"] = "tensorboard"
    run(parse_recipe(tree, "toy.yaml"), tmp_path, threads=1, build=build, console=Console(file=io.StringIO()))
    events = EventAccumulator(str(tmp_path / "logs" / "toy"))
    events.Reload()
    assert [event.step for event in events.Scalars("one/loss")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("two/loss")] == [8]
    with pytest.raises(UserError, match="there is no tracker 'tensorbord'; did you mean 'tensorboard'"):
        check_trackers(["tensorbord"], "toy.yaml")
    monkeypatch.setattr("sightling.train.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb is not installed; run: pip install wandb"):
        check_trackers(["wandb"], "toy.yaml")


# ---- what a person sees


def test_the_table_and_the_expected_memory_and_time(tmp_path: Path, console: Console) -> None:
    train = {"connector": True, "language_model": 5e-4}
    weights_after(tmp_path, console, words={"type": "toy_step"}, one={"train": train, "optim": "muon"})
    told = text_of(console)
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]]
            for line in told.splitlines() if line.startswith("│")}  # fmt: skip
    assert rows == {
        "encoder": ["48", "frozen", ""],
        "connector": ["72", "0.01", "AdamW"],
        "language_model": ["656", "0.0005", "Muon 512 + AdamW 144"],
        "all": ["776", "728 train", ""],
    }
    assert "measured in the first micro-batch" in told
    assert "for 6 steps" in told and "measured on steps 2 to 6" in told
    assert "1 thread (as asked by --threads)" in told and "precision of stage one: float32" in told
    assert "stage words finished" in told and "words 3" in told
    assert "padding 25.0%" in told and "samples/s" in told and "tokens/s" in told


def test_activations_are_what_autograd_keeps() -> None:
    layer = nn.Linear(8, 16)
    x = torch.rand(5, 8, requires_grad=True)
    with ActivationMeter(layer) as meter:
        layer(x).tanh()
    # The input for the layer's weight and the output of tanh; the weight itself is not counted.
    assert meter.size == 4 * (5 * 8 + 5 * 16)


def test_threads_and_precision_are_chosen_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose_threads().value == 1 and "OMP_NUM_THREADS" in choose_threads().reason
    assert choose_threads(2).value == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert choose_threads().value >= 1 and "every core" in choose_threads().reason
    with pytest.raises(UserError):
        choose_threads(0)
    torch.set_num_threads(before)
    cpu = torch.device("cpu")
    assert choose_bf16(True, cpu).value is True and choose_bf16(False, cpu).value is False
    for times, faster in (([2.0, 1.0], True), ([1.0, 2.0], False), ([1.05, 1.0], False)):
        told = iter(times)
        monkeypatch.setattr("sightling.train.precision._seconds", lambda device, bf16, told=told: next(told))
        assert choose_bf16("auto", cpu).value is faster
    assert "1.1x faster" in choose_bf16_reason(monkeypatch, [1.05, 1.0])
    assert "2.0x slower" in choose_bf16_reason(monkeypatch, [1.0, 2.0])


def choose_bf16_reason(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> str:
    told = iter(times)
    monkeypatch.setattr("sightling.train.precision._seconds", lambda device, bf16: next(told))
    return choose_bf16("auto", torch.device("cpu")).reason


def test_bf16_computes_in_bf16(tmp_path: Path) -> None:
    plain = weights_after(tmp_path / "a", one={"bf16": False})
    short = weights_after(tmp_path / "b", one={"bf16": True})
    assert_differ(plain, short)
    assert all(tensor.dtype != torch.bfloat16 for tensor in short.values())
    for name in plain:
        torch.testing.assert_close(plain[name], short[name], atol=0.1, rtol=0.1)


# ---- what is wrong is told in one sentence


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"objective": {"type": "toy", "poison": 9}}, "not finite at step 3; try a lower learning_rate .now 0.01."),
        (
            {"objective": {"type": "toy", "blind": True}},
            "trains 'connector', but the loss gave it no gradient in 6 steps",
        ),
        ({"objective": {"type": "toy", "unsupervised": True}}, "nothing is supervised in step 1"),
        ({"data": {"type": "finite", "size": 0}}, "holds no samples"),
        ({"max_steps": None, "num_train_epochs": 1.0}, "is endless, so num_train_epochs has no meaning"),
        ({"eval_steps": 2}, "hold no items out"),
        ({"warmup_steps": 7}, "a warm-up of 7 steps does not fit"),
    ],
)
def test_bad_stages(tmp_path: Path, stage: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        weights_after(tmp_path, one=stage)
    assert "\n" not in str(told.value)


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ToyModel, "forward", exhausted)
    with pytest.raises(UserError, match=r"ran out of memory at step 1; lower per_device_train_batch_size \(now 4\)"):
        weights_after(tmp_path, one={})


def test_parts_must_cover_the_model_and_be_known() -> None:
    model = ToyModel()
    with pytest.raises(UserError, match="trains 'encoder', which has no parameters that can"):
        set_training(model, model_parts(model), {"encoder": 0.1}, set(), "toy.yaml: stages.one")
    with pytest.raises(UserError, match="names 'conector', which this model has not; did you mean 'connector'"):
        set_training(model, model_parts(model), {"conector": 0.1}, set(model.parameters()), "toy.yaml: stages.one")
    model.stray = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="stray"):
        model_parts(model)
