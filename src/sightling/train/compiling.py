"""The language model's layers compiled by ``torch.compile``.

One graph serves all layers of a kind and rows of all lengths: lengths are symbols in it and rows are filled up to
multiples of :data:`MULTIPLE`. What no compiler follows is called from between two graphs: attention over packed rows on
a CPU, which reckons in numpy where tokens stand. Hooks and checkpointing stay outside of the graphs.
"""

from __future__ import annotations

import shutil
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sightling.errors import UserError
from sightling.model import tree

BACKEND = "inductor"
"""Which of torch's compilers."""

MULTIPLE = 64
"""Rows are filled up to multiples of so many tokens: kernels for attention with a mask ask for even lengths."""

GRAPHS = 64
"""Graphs of one piece of code before torch runs it uncompiled; few are needed, one for each mode and kind of batch."""


def check_compiler(device: torch.device, where: str) -> None:
    """See that what ``torch.compile`` needs on a device is there.

    Raises:
        UserError: it is not.
    """
    if BACKEND != "inductor":
        return
    if device.type != "cpu":
        if find_spec("triton") is None:
            raise UserError(f"{where}.torch_compile needs the package triton on {device.type}, which is not installed")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise UserError(
            f"{where}.torch_compile needs a C++ compiler, and there is none here; install g++ or clang++ (or name one "
            "in the environment's CXX), or leave torch_compile out"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise UserError(
            f"{where}.torch_compile needs Python's headers, and {header} is not there; install them (python3-dev), or "
            "leave torch_compile out"
        )


def plain_forward(layer: nn.Module) -> Callable[..., Any]:
    """The forward pass of a layer's class, without what transformers puts around it for checkpointing."""
    forward: Any = type(layer).forward
    return getattr(forward, "__wrapped__", forward)


@contextmanager
def compiled_layers(model: Any, device: torch.device, where: str) -> Iterator[dict[type, Callable[..., Any]]]:
    """In the body the language model's layers are compiled; they were computed as ever before and will be after.

    Yields the compiled forward pass of each class of layers, for layers that are checkpointed.

    Raises:
        UserError: no compiler, or a language model that is no list of layers.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"{where}.torch_compile compiles the language model's layers, and this one has no list of them")
    check_compiler(device, where)
    import torch._dynamo

    kinds = {type(layer): torch.compile(plain_forward(layer), backend=BACKEND, dynamic=True) for layer in layers}
    usual, multiple = ALL_ATTENTION_FUNCTIONS[tree.NAME], model.row_multiple
    ALL_ATTENTION_FUNCTIONS.register(tree.NAME, torch.compiler.disable(usual))
    try:
        model.row_multiple = MULTIPLE
        for layer in layers:
            layer.forward = types.MethodType(kinds[type(layer)], layer)
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            yield kinds
    finally:
        model.row_multiple = multiple
        ALL_ATTENTION_FUNCTIONS.register(tree.NAME, usual)
        for layer in layers:
            vars(layer).pop("forward", None)


def graphs() -> int:
    """How many graphs were compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
