"""Tiny models learn in one process or in parts in several; also a program that makes those processes.

``python cut.py FOLDER`` writes what each of :data:`CASES` learns in parts to ``FOLDER/CASE.safetensors``. The processes
are forked, because what is imported in one is then there in all.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from kit import LLAMA, grow, picture, talk
from sightling.data.sample import Sample
from sightling.model.recomputing import checkpoint_layers
from sightling.parts import validate
from sightling.train.adapters import attach_adapters
from sightling.train.held import held_by, held_tensors, parameter_names
from sightling.train.objectives import OBJECTIVES
from sightling.train.optimizers import build_optimizers
from sightling.train.parallel import Parallel, whole_of
from sightling.train.recipe import TrainStage, parse_recipe
from sightling.train.sharded_checkpoint import ShardedCheckpoint, save_sharded
from sightling.train.trained import Whole, able_to_learn, model_parts, set_training, trained_tensors

GATED = {"type": "cross_attention", "form": "mllama", "layers": [1]}
# Nobody looks at the last layer, and pictures of unlike sizes go through the tower one after another. Its places are
# not drawn anew each time, which each process would do in its own way.
SIZES = {"encoder": {"type": "dinov3", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 3,
                     "num_attention_heads": 2, "intermediate_size": 48, "layer": -2, "pos_embed_rescale": None},
         "tiling": {"type": "native", "merge": 1}}  # fmt: skip
ALL = {"encoder": True, "connector": True, "language_model": True}
REST = {"connector": True, "language_model": True}


@dataclass(frozen=True)
class Case:
    """What is made of what, how it trains, and by how many processes in how many copies."""

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=lambda: dict(ALL))
    optim: str = "adamw"
    ranks: int = 2
    replicate: int | None = None
    bf16: bool = False
    saves: bool = False
    checkpoints: tuple[str, ...] = ()


CASES = {
    "tied": Case({"language_model": {**LLAMA, "tie_word_embeddings": True}}, saves=True),
    "gated": Case({"connector": GATED}, REST, "muon", checkpoints=("connector", "language_model")),
    "adapter": Case(train={"connector": True, "language_model": {"type": "lora", "r": 2}}),
    "copies": Case(optim="muon", ranks=4, replicate=2),
    "bf16": Case(bf16=True),
    "frozen tower": Case(SIZES, REST),
    "tower": Case(SIZES, optim="muon", checkpoints=("encoder", "language_model")),
    "copies of a tower": Case(SIZES, ranks=4, replicate=2),
}


class Told:
    """A source of these samples, a group each."""

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def open(self, seed: int) -> Told:
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def group(self, index: int) -> list[Sample]:
        return [self.samples[index]]


SAMPLES = (
    talk((picture(1), "what colour is the circle?"), "red and very large", "sure?", "no"),
    talk("what is left of the star?", "a heart"),
    talk((picture(2), "is there a blue square?"), "yes"),
    talk("how many?", "2"),
    talk((picture(3, 12, 16), "or ", picture(4, 16, 12), "?"), "the second"),
)

UPDATES = ((0, 1, 2, 4), (1, 3, 0, 2), (1, 3, 1, 3))
"""The samples of each update's micro-batches. In some only one process sees a picture, or more, in the last none."""


def stage_of(case: Case) -> TrainStage:
    """A stage with momentum, weight decay and clipping, so that nothing is left out."""
    told = {"objective": {"type": "answer"}, "data": {"type": "world"}, "train": case.train, "learning_rate": 1e-2,
            "max_steps": 3, "optim": case.optim, "weight_decay": 0.1, "adam_epsilon": 1e-5}  # fmt: skip
    stage = parse_recipe({"name": "cut", "model": {}, "stages": {"one": told}}, "cut.yaml").stages["one"]
    assert isinstance(stage, TrainStage)
    return stage


def learn(
    case: Case, accelerator: Accelerator, save: Path | None = None, load: Path | None = None
) -> dict[str, Tensor]:
    """The weights that train after all updates; all are saved, or taken up again, before the last update."""
    ranks, rank = accelerator.num_processes, accelerator.process_index
    model, processor = grow(**case.model)
    able, stage = able_to_learn(model), stage_of(case)
    attach_adapters(model, stage.train, able, "one", 3)
    parts, rates = model_parts(model), stage.train.rates(stage.learning_rate)
    set_training(model, parts, rates, able, "one", stage.train)
    if case.checkpoints:
        checkpoint_layers(model, case.checkpoints)
    kind = OBJECTIVES.get("answer")
    objective = kind(model, processor, validate(kind.Options, {}, "objective"), Told(*SAMPLES), 5)
    items = objective.dataset()
    whole = Whole(model, objective, None)
    parallel = Parallel(type="fsdp", replicate=case.replicate if ranks > 1 else None)
    held = held_by(whole, accelerator, parallel, case.bf16)
    # The tower's layers are cut one by one, too.
    assert all(isinstance(layer, FSDPModule) == (ranks > 1) for layer in model.encoder.running())
    optimizers, names = build_optimizers(stage, parts, rates), parameter_names(whole)
    trained: list[nn.Parameter] = list(optimizers.parameters())

    def tensors() -> dict[str, Tensor]:
        return trained_tensors(model, parts, rates)

    for number, update in enumerate(UPDATES):
        if number == len(UPDATES) - 1 and save is not None:
            save_sharded(save, tensors(), optimizers, names, {"random": []}, {"step": number}, accelerator)
        if load is not None and number < len(UPDATES) - 1:
            continue
        if load is not None:
            ShardedCheckpoint(load).fill(tensors(), optimizers, names)
        batches = [objective.collate([items[index]]) for index in update]
        count = sum(objective.count(batch) for batch in batches)
        for batch in batches[rank::ranks]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.bf16):
                loss, _ = held.module(batch)
            (loss * (ranks / count)).backward()
        held.settle()
        norm = whole_of(nn.utils.get_total_norm([one.grad for one in trained if one.grad is not None]))
        nn.utils.clip_grads_with_norm_(trained, 0.5, norm)
        optimizers.step()
        optimizers.zero_grad()
    return held_tensors(tensors(), accelerator.is_main_process)


def alone() -> Accelerator:
    """One process."""
    return Accelerator(cpu=True)


def in_processes(ranks: int, port: int, do: Callable[[Accelerator], None]) -> None:
    """Do it in so many forked processes that know each other."""
    children = []
    for rank in range(ranks):
        child = os.fork()
        if not child:
            code = 1
            try:
                told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
                os.environ.update({key: str(value) for key, value in told.items()})
                do(alone())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise SystemExit(1)


def main(folder: Path, port: int, names: list[str]) -> None:
    """Every case, the four processes' last, so that a failure is told by its name."""
    for number, name in enumerate(names):
        case = CASES[name]

        def do(accelerator: Accelerator, name: str = name, case: Case = case) -> None:
            learnt = learn(case, accelerator, folder / f"{name}.step" if case.saves else None)
            if case.saves:
                again = learn(case, accelerator, load=folder / f"{name}.one")
                if accelerator.is_main_process:
                    save_file(again, folder / f"{name}.again.safetensors")
            if accelerator.is_main_process:
                save_file(learnt, folder / f"{name}.safetensors")

        in_processes(case.ranks, port + number, do)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(CASES))
