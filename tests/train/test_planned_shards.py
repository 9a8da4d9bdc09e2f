"""A plan of a model that is cut among processes, against what the first of them really holds.

torch's fake process group sends nothing, so that one process can be the first of several.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from planned import REST, WORLD, grown, planned, recipe
from rich.console import Console
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from sightling.errors import UserError
from sightling.train.optimizers import build_optimizers
from sightling.train.parallel import Parallel
from sightling.train.plan_text import show
from sightling.train.planning import plan_recipe
from sightling.train.plans import StagePlan
from sightling.train.recipe import Recipe
from sightling.train.sharding import Sharded, make_mesh
from sightling.train.summary import expected_memory

GATED = {"type": "cross_attention", "form": "mllama", "layers": [1]}


@contextmanager
def first_of(ranks: int) -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def cut(small: Recipe, replicate: int | None = None) -> Recipe:
    return small.model_copy(update={"parallel": Parallel(type="fsdp", replicate=replicate)})


def of(small: Recipe, processes: int) -> StagePlan:
    (stage,) = plan_recipe(small, probe_seconds=0, processes=processes).stages
    return stage


def own(module: Any) -> int:
    """Bytes of what a unit gathers, and of its gradients."""
    group = module._get_fsdp_state()._fsdp_param_group
    module.unshard()
    full = [one._unsharded_param for one in group.fsdp_params]
    module.reshard()
    return sum(one.numel() * one.element_size() * (2 if one.requires_grad else 1) for one in full)


@pytest.mark.parametrize(
    ("told", "ranks", "replicate"),
    [
        ({}, 2, None),
        ({"optim": "muon", "train": REST, "model": {"connector": GATED}}, 3, None),
        ({"bf16": True, "train": {"connector": True}}, 4, 2),
        ({"objective": {"type": "words", "captions": 20}, "train": {"encoder": True}, "bf16": True}, 2, None),
    ],
    ids=["all", "gated", "copies in bf16", "an objective's own"],
)
def test_a_process_holds_and_gathers_what_a_real_one_does(
    words: str, told: dict[str, Any], ranks: int, replicate: int | None
) -> None:
    small = cut(recipe(words, **told), replicate)
    plan = of(small, ranks)
    assert plan.sharded is not None
    assert (plan.sharded.shards, plan.sharded.copies) == (ranks // (replicate or 1), replicate or 1)
    bf16 = bool(told.get("bf16"))
    with first_of(ranks):
        whole, _, _, parts, rates, stage = *grown(small), next(iter(small.stages.values()))
        Sharded(whole, make_mesh(small.parallel, ranks, torch.device("cpu")), torch.device("cpu"), bf16)
        real = expected_memory(whole, rebuilt(stage, parts, rates))
        units = [own(one) for one in whole.modules() if isinstance(one, FSDPModule) and one is not whole]
        rest = own(whole)
    memory = plan.memory
    assert (memory.weights, memory.gradients, memory.optimizer) == (real.weights, real.gradients, real.optimizer)
    for key in ("weights", "gradients", "optimizer_state"):
        assert sum(getattr(part, key) for part in plan.parts) == getattr(memory, key.removesuffix("_state"))
    assert plan.sharded.unit_weights + plan.sharded.unit_gradients == max(units)
    assert plan.sharded.rest_weights + plan.sharded.rest_gradients == rest
    assert plan.sharded.gathered == max(units) + rest
    assert plan.peak > memory.total - (memory.activations or 0) + plan.sharded.gathered


def rebuilt(stage: Any, parts: Any, rates: Any) -> Any:
    """Optimizers of the parameters as they are now."""
    return build_optimizers(stage, parts, rates)


def test_towers_that_are_gathered_whole_count_whole(words: str) -> None:
    """Layers of a tower are units; one that looks at its tiles together is of the rest."""
    single = of(cut(recipe(words)), 2).sharded
    assert single is not None and single.unit.startswith(("encoder.", "language_model."))
    tower = {"type": "mllama", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1,
             "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 3,
             "intermediate_layers_indices": [0]}  # fmt: skip
    canvas = {"encoder": tower, "tiling": {"type": "canvas", "max_tiles": 3}}
    plan = of(cut(recipe(words, model=canvas, train=REST)), 2)
    assert plan.sharded is not None
    encoder = next(part for part in plan.parts if part.name == "encoder")
    assert plan.sharded.rest_weights > 4 * encoder.parameters
    assert set(plan.sharded.rest) == {"encoder", "connector", "language_model"}
    assert plan.sharded.unit.startswith("language_model.")


def test_what_arrives_in_bfloat16_is_not_kept_a_second_time(words: str) -> None:
    """Autocast keeps a cast of each matrix for the way back; a matrix that is gathered in bfloat16 needs none."""
    for bf16 in (False, True):
        small = recipe(words, bf16=bf16)
        whole, parts = planned(small), of(cut(small), 2)
        fewer = (whole.memory.activations or 0) - (parts.memory.activations or 0)
        assert fewer > 0 if bf16 else fewer == 0
        assert parts.flops == 2 * whole.flops and parts.tokens.all == 2 * whole.tokens.all


def test_steps_are_those_of_all_processes_and_muon_is_computed_once_a_copy(words: str) -> None:
    small = recipe(words, data={**WORLD, "length": 40}, max_steps=None, num_train_epochs=2, optim="muon")
    alone, four, copies = planned(small), of(cut(small), 4), of(cut(small, 2), 4)
    assert (alone.steps, four.steps, copies.steps) == (20, 5, 5)
    assert alone.optimizer_flops == four.optimizer_flops == copies.optimizer_flops / 2
    assert of(small, 4).steps == 5 and of(small, 4).sharded is None


def test_text_tells_what_is_gathered_and_when_nothing_is_cut(words: str) -> None:
    for processes, sentence in ((4, "2 copies of the model, each cut among 2 processes; gathered by each"),
                                (2, "2 copies of the model, each cut among 1 process;")):  # fmt: skip
        assert sentence in said(cut(recipe(words), 2), processes)
    assert "parallel: fsdp is told for one process, which holds the whole model" in said(cut(recipe(words)), 1)


def said(small: Recipe, processes: int) -> str:
    console = Console(file=io.StringIO(), width=160)
    show(plan_recipe(small, probe_seconds=0.3, processes=processes), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_copies_that_do_not_divide_the_processes_are_one_sentence(words: str) -> None:
    with pytest.raises(UserError, match=r"parallel\.replicate = 2 does not divide the number of processes, which is 3"):
        of(cut(recipe(words), 2), 3)
