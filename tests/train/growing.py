"""Growing the toy model, and comparing what came of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from toy import build, toy_recipe

from sightling.train.run import run


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def weights_after(folder: Path, console: Console | None = None, **stages: dict[str, Any]) -> dict[str, Tensor]:
    run(toy_recipe(**stages), folder, threads=1, build=build, console=console or Console(file=io.StringIO()))
    return load_file(folder / "model" / "toy.safetensors")


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert set(one) == set(two)
    for name in one:
        assert torch.equal(one[name], two[name]), name


def assert_differ(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert any(not torch.equal(one[name], two[name]) for name in one)
