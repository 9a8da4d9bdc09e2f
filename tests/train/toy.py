"""A tiny model, objective and step for the tests of the training machinery; also a program that grows them.

``python toy.py RECIPE.yaml FOLDER [key=value ...]`` is what a person would run.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from sightling.errors import UserError
from sightling.parts import Part
from sightling.registry import Registry
from sightling.train.objectives import OBJECTIVES, Objective
from sightling.train.recipe import Recipe, load_recipe, parse_recipe
from sightling.train.steps import STEPS, StageStep, StepContext
from sightling.train.stopping import Interrupted

CLASSES, WIDTH = 5, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Decoder(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.layers = nn.ModuleList([Block(), Block()])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        x = x + self.embedding(hint)
        for layer in self.layers:
            x = self.dropout(layer(x))
        return self.head(x)


class ToyModel(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, WIDTH), nn.BatchNorm1d(WIDTH))
        self.connector = nn.Linear(WIDTH, WIDTH)
        self.language_model = Decoder(dropout)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "connector": self.connector, "language_model": self.language_model}

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        return self.language_model(self.connector(self.encoder(x)), hint)

    def save_pretrained(self, folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "toy.safetensors")


class ToyProcessor:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "processor.txt").write_text("toy", encoding="utf-8")


def build(section: dict[str, Any], seed: int, folder: Path) -> tuple[ToyModel, ToyProcessor]:
    torch.manual_seed(seed)
    return ToyModel(**section), ToyProcessor()


class Endless(Part):
    """Fresh items without end."""


class Finite(Part):
    """``size`` items, each drawn anew whenever it is asked for."""

    size: int = 10


TOY_DATA: Registry[type[Part]] = Registry("toy data")
TOY_DATA.register("endless")(Endless)
TOY_DATA.register("finite")(Finite)


class ToyItems(Dataset[Any]):
    """Items that draw from all three random generators, as careless data sets do."""

    def __getitem__(self, index: int) -> tuple[int, Tensor, int, int]:
        x = torch.rand(3) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return index, x, int(index) % CLASSES, int(x.argmax())


class FiniteItems(ToyItems):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class ToyOptions(Part):
    poison: int = -1
    head: bool = False
    blind: bool = False
    unsupervised: bool = False
    noise: bool = False


class Toy(Objective):
    Options = ToyOptions
    sources = TOY_DATA

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[int] = []
        self.head = nn.Linear(CLASSES, CLASSES) if self.options.head else None

    def dataset(self) -> Dataset[Any]:
        return FiniteItems(self.data.size) if isinstance(self.data, Finite) else ToyItems()

    def held_out(self) -> Dataset[Any] | None:
        return FiniteItems(7) if isinstance(self.data, Finite) else None

    def extra(self) -> nn.Module | None:
        return self.head

    def collate(self, items: list[Any]) -> dict[str, Any]:
        index, x, hint, label = zip(*items, strict=True)
        noise = 0.01 * torch.rand(len(items), 3) if self.options.noise else 0.0
        return {"index": torch.tensor(index), "x": torch.stack(x) + noise, "hint": torch.tensor(hint),
                "label": torch.tensor(label)}  # fmt: skip

    def count(self, batch: dict[str, Any]) -> int:
        return 0 if self.options.unsupervised else len(batch["label"])

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        # From outside, so that the program that a test kills grows by the same recipe as the one it does not.
        time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
        self.seen += batch["index"].tolist()
        x = torch.zeros_like(batch["x"]) if self.options.blind else batch["x"]
        if self.options.blind:
            logits = model.parts()["language_model"](torch.zeros(len(x), WIDTH), batch["hint"])
        else:
            logits = model(x, batch["hint"])
        if self.head is not None:
            logits = self.head(logits)
        loss = F.cross_entropy(logits, batch["label"], reduction="sum")
        if self.options.poison in batch["index"].tolist():
            loss = loss * float("nan")
        return loss, {"accuracy": (logits.argmax(-1) == batch["label"]).sum()}

    def tokens(self, batch: dict[str, Any]) -> tuple[int, int]:
        return 3 * len(batch["label"]), 4 * len(batch["label"])


class ToyStep(StageStep):
    folder = "words"
    size: int = 3

    def run(self, context: StepContext) -> dict[str, Any]:
        (context.output / "words.txt").write_text(f"{self.size} {context.seed}", encoding="utf-8")
        return {"words": self.size}


if "toy" not in OBJECTIVES:
    OBJECTIVES.register("toy")(Toy)
    STEPS.register("toy_step")(ToyStep)


def toy_tree(**stages: dict[str, Any]) -> dict[str, Any]:
    """A recipe's tree; each stage says only what differs from a plain one."""
    plain = {
        "objective": {"type": "toy"},
        "data": {"type": "endless"},
        "train": {"encoder": True, "connector": True, "language_model": 5e-3},
        "learning_rate": 1e-2,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "save_steps": 2,
    }
    told = {name: stage if "type" in stage else {**plain, **stage} for name, stage in stages.items()}
    return {"name": "toy", "seed": 1, "bf16": False, "report_to": "none", "model": {}, "stages": told}


def toy_recipe(**stages: dict[str, Any]) -> Recipe:
    return parse_recipe(toy_tree(**stages), "toy.yaml")


def write_recipe(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def main(argv: list[str]) -> int:
    from sightling.train.processes import helpers, wanted
    from sightling.train.run import run

    try:
        recipe = load_recipe(argv[0], argv[2:])
        share = wanted(recipe.cpu_processes)
        with helpers(share, argv, (sys.executable, __file__)):
            run(recipe, argv[1], threads=1, build=build, share=share)
    except Interrupted as stop:
        print(stop, flush=True)
        return stop.exit_code
    except UserError as error:
        print("error:", error, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
