"""Short runs of a real model, for the tests of what a stage trades and of what is seen of its steps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

import kit
from sightling.train.recipe import Recipe, parse_recipe
from sightling.train.run import run

WORLD = {"type": "world", "languages": ["en"], "families": ["color"], "questions_per_picture": 2,
         "scene": {"max_things": 2}}  # fmt: skip
STEPS = 4


def recipe(words: Path, **told: Any) -> Recipe:
    """All of a tiny model learns in one stage."""
    stage = {"objective": {"type": "answer", "max_length": 128}, "data": WORLD, "learning_rate": 1e-3,
             "train": {"encoder": True, "connector": True, "language_model": True}, "max_steps": STEPS,
             "per_device_train_batch_size": 2, "bf16": False}  # fmt: skip
    if not words.is_dir():
        kit.tokenizer().save_pretrained(words)
    tree = {"name": "small", "report_to": "none", "model": kit.section(tokenizer={"pretrained": str(words)}),
            "stages": {"one": {**stage, **told}}}  # fmt: skip
    return parse_recipe(tree, "small.yaml")


def learnt(folder: Path, profile: int | None = None, **told: Any) -> tuple[dict[str, Tensor], str]:
    """(weights, what was printed) of a run."""
    console = Console(file=io.StringIO(), width=120)
    run(recipe(folder.parent / "words", **told), folder, threads=1, console=console, profile=profile)
    assert isinstance(console.file, io.StringIO)
    return load_file(folder / "model" / "model.safetensors"), console.file.getvalue()
