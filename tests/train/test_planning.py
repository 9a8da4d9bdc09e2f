"""A plan against what really happens: parameters, bytes that are held, and operations that are counted."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from planned import grown, planned, recipe
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sightling.errors import UserError
from sightling.train.dry import ATTENTION, Operation, Shape, aten
from sightling.train.dry_step import dry_step
from sightling.train.plan_text import show
from sightling.train.planning import plan_recipe
from sightling.train.probe import LARGEST, Probe, smaller
from sightling.train.recipe import parse_recipe
from sightling.train.summary import ActivationMeter, tensor_bytes


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"optim": "muon", "train": {"connector": True, "language_model": True, "layers": [0]}},
        {"objective": {"type": "words", "captions": 20}, "train": {"encoder": True}},
    ],
    ids=["all", "muon", "words"],
)
def test_parts_and_bytes_are_those_of_a_real_stage_after_its_first_update(words: str, told: dict[str, Any]) -> None:
    small = recipe(words, **told)
    plan = planned(small)
    whole, optimizers, batches, parts, rates = grown(small)
    with ActivationMeter(whole) as meter:
        loss, _ = whole(batches[0])
    loss.backward()
    optimizers.step()
    for part in plan.parts:
        real = parts[part.name]
        assert part.parameters == sum(one.numel() for one in real.parameters())
        assert part.trained == sum(one.numel() for one in real.parameters() if one.requires_grad)
        assert part.learning_rate == rates.get(part.name, 0.0)
    assert plan.memory.weights == tensor_bytes([*whole.parameters(), *whole.buffers()])
    assert plan.memory.weights == sum(part.weights for part in plan.parts)
    gradients = tensor_bytes(one.grad for one in whole.parameters() if one.grad is not None)
    assert plan.memory.gradients == gradients == sum(part.gradients for part in plan.parts)
    states = [state for inner in optimizers.inner.values() for state in inner.state.values()]
    held = tensor_bytes(value for state in states for value in state.values() if isinstance(value, torch.Tensor))
    assert plan.memory.optimizer == held == sum(part.optimizer_state for part in plan.parts)
    sizes = [meter.size]
    for batch in batches[1:]:
        with ActivationMeter(whole) as meter:
            whole(batch)
        sizes.append(meter.size)
    assert plan.memory.activations == pytest.approx(max(sizes), rel=0.02)
    assert plan.peak > plan.memory.total - plan.memory.activations


@pytest.mark.parametrize("share", [True, False])
def test_operations_are_those_that_torch_counts(words: str, share: bool) -> None:
    small = recipe(words, objective={"type": "answer", "max_length": 256, "share": share})
    plan = planned(small)
    whole, _, batches, _, _ = grown(small)
    fused = {name: formula.__wrapped__ for name, formula in ATTENTION.items()}  # type: ignore[attr-defined]
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        for batch in batches:
            whole(batch)[0].backward()
    assert plan.flops == counter.get_total_flops() // len(batches)
    shown = [int((batch["input_ids"] == whole.model.config.image_token_id).sum()) for batch in batches]
    real = [int((batch["document_ids"] >= 0).sum()) for batch in batches]
    assert (plan.tokens.visual, plan.tokens.all) == (sum(shown) / len(shown), sum(real) / len(real))


class Rows(nn.Module):
    """Stands for a model: three matrices one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.third(self.second(self.first(batch["x"]))).sum(), {}


@pytest.mark.parametrize(
    ("trained", "times"),
    [
        # Forward, the weight's gradient, and the input's: none is asked of what comes in.
        ("first second third", (2, 3, 3)),
        # Nothing that trains stands before the first two.
        ("third", (1, 1, 2)),
        # Gradients pass through the frozen last one.
        ("second", (1, 2, 2)),
    ],
)
def test_a_frozen_matrix_costs_once_and_twice_where_gradients_pass(trained: str, times: tuple[int, ...]) -> None:
    with torch.device("meta"):
        rows = Rows().requires_grad_(False)
    for name in trained.split():
        getattr(rows, name).requires_grad_(True)
    found = dry_step(rows, {"x": torch.zeros(16, 8)}, "cpu", False)  # type: ignore[arg-type]
    once = 2 * 16 * 8 * 8
    assert sum(one.flops * one.count for one in found.operations.values()) == once * sum(times)
    assert all(parameter.grad is None for parameter in rows.parameters())


def test_what_is_held_at_once_grows_with_the_batch_and_never_counts_weights_or_gradients() -> None:
    with torch.device("meta"):
        rows = Rows()
    small, large = (dry_step(rows, {"x": torch.zeros(n, 8)}, "cpu", False).peak for n in (64, 128))  # type: ignore[arg-type]
    # Three outputs, of which the first two are kept, and the gradients on the way back.
    assert 64 * 8 * 4 * 2 <= small <= 64 * 8 * 4 * 6
    assert large == pytest.approx(2 * small, rel=0.05)


def test_bfloat16_halves_what_products_keep(words: str) -> None:
    plain = planned(recipe(words)).memory
    half = planned(recipe(words, bf16=True)).memory
    assert (half.weights, half.gradients, half.optimizer) == (plain.weights, plain.gradients, plain.optimizer)
    assert 0.4 * plain.activations < half.activations < 0.95 * plain.activations


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_trains_its_factors_alone_and_the_next_stage_finds_none(words: str, dora: bool) -> None:
    """Rank 2 of two layers' seven matrices; DoRA has a number for each of their rows, too."""
    told = recipe(words).to_dict()
    (stage,) = told["stages"].values()
    adapter = {"type": "lora", "r": 2, "lora_dropout": 0.1, "use_dora": dora}
    told["stages"] = {
        "adapt": {**stage, "train": {"connector": True, "language_model": adapter}},
        "whole": {**stage, "train": {"language_model": True}},
    }
    adapt, whole = plan_recipe(parse_recipe(told, "small.yaml"), probe_seconds=0).stages
    parts = {part.name: part for part in adapt.parts}
    rows, columns = 32 + 16 + 16 + 32 + 48 + 48 + 32, 4 * 32 + 2 * 32 + 48
    factors = 2 * (2 * (rows + columns) + (rows if dora else 0))
    assert parts["language_model"].trained == factors and parts["encoder"].trained == 0
    assert parts["connector"].trained == parts["connector"].parameters
    after = {part.name: part for part in whole.parts}["language_model"]
    assert after.trained == after.parameters == parts["language_model"].parameters - factors
    assert adapt.memory.gradients < whole.memory.gradients and adapt.flops > 0


def test_without_the_data_items_fill_rows_and_it_is_said(words: str) -> None:
    absent = {"type": "files", "format": "llava", "path": "nowhere/data.json"}
    plan = planned(recipe(words, data=absent, max_steps=None, num_train_epochs=1, gradient_accumulation_steps=2))
    assert plan.steps is None and plan.sampled == 0
    assert "nowhere/data.json" in plan.note and "640 x 480" in plan.note
    assert plan.tokens.all == plan.tokens.padded == 2 * 4 * 256
    assert plan.tokens.visual == 2 * 4 * 16 and plan.tokens.supervised == 2 * 4 * (256 - 16)


def test_a_probe_tells_time_and_text_tells_all(words: str) -> None:
    found = plan_recipe(recipe(words, optim="muon"), probe_seconds=0.5)
    (stage,) = found.stages
    assert stage.time is not None and stage.time.whole == pytest.approx(5 * stage.time.step)
    parts = (stage.time.compute, stage.time.data, stage.time.optimizer)
    assert min(parts) > 0 and stage.time.step == pytest.approx(sum(parts))
    assert found.machine.rates["float32"] > 1e6
    assert stage.largest_batch > 4
    console = Console(file=io.StringIO(), width=160)
    show(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words_told in ("stage one", "largest batch that fits", "visual", "in all", "s optimizer"):
        assert words_told in text


def test_every_operation_of_a_step_can_be_timed_and_large_products_are_made_smaller() -> None:
    with torch.device("meta"):
        rows = Rows()
    found = dry_step(rows, {"x": torch.zeros(16, 8)}, "cpu", False).operations  # type: ignore[arg-type]
    probe = Probe(torch.device("cpu"), 60.0)
    probe.time([found])
    assert probe.measured == len(found) and probe.seconds(found) > 0
    large = Operation(aten.addmm.default, [Shape((11008,), (1,), torch.float32), *factors(32768, 4096, 11008)],
                      None, 2 * 32768 * 4096 * 11008, 2**31)  # fmt: skip
    (bias, one, other), times = smaller(large)
    assert one.shape[1] == other.shape[0] and other.shape[1:] == bias.shape and other.stride == (1, other.shape[0])
    assert 2 * one.shape[0] * one.shape[1] * other.shape[1] * times == large.flops
    assert 2 * one.shape[0] * one.shape[1] * other.shape[1] <= LARGEST


def factors(rows: int, middle: int, columns: int) -> list[Shape]:
    """Of a product with a linear layer's weight, whose axes lie in memory the other way round."""
    one = Shape((rows, middle), (middle, 1), torch.float32)
    return [one, Shape((middle, columns), (1, middle), torch.float32)]


def test_experts_and_large_models_need_no_memory() -> None:
    tree = {"type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 4, "num_local_experts": 64,
            "num_experts_per_tok": 4, "moe_intermediate_size": 1024, "vocab_size": 32000}  # fmt: skip
    large = recipe("nowhere/tokenizer", model={"language_model": tree}, gradient_accumulation_steps=3)
    found = plan_recipe(large, probe_seconds=0)
    (stage,) = found.stages
    experts = 4 * 64 * 3 * 2048 * 1024
    assert stage.parts[2].parameters > experts and "no tokenizer" in stage.note
    # Four of the 64 experts see a token.
    tokens = 3 * 4 * 256
    assert 3 * 2 * tokens * experts * 4 // 64 < stage.flops < 3 * 2 * tokens * experts * 16 // 64


def test_a_wrong_recipe_is_one_sentence(words: str) -> None:
    with pytest.raises(UserError, match=r"^small\.yaml: stages\.one\.train\.layers names layer 7, but"):
        planned(recipe(words, train={"language_model": True, "layers": [7]}))
    with pytest.raises(UserError, match=r"^a warm-up of 9 steps does not fit into a stage of 5; lower"):
        planned(recipe(words, warmup_steps=9))
