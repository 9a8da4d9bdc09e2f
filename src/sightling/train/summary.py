"""What is about to happen: each part, its parameters, what trains and how, and what it will cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
import torch.nn as nn
from rich.table import Table
from torch import Tensor

from sightling.model.adapters import adapter_parameters, described
from sightling.model.quantised import weights_of
from sightling.train.optimizers import Optimizers, short_number
from sightling.train.parallel import count_held, local
from sightling.train.progress import short_bytes, short_time


@dataclass(frozen=True)
class Memory:
    """Bytes that a stage needs on its device. All but ``activations`` follow from shapes, exactly.

    ``activations`` is what the first micro-batch kept for its backward pass, measured; ``None`` before.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None = None

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)

    def with_activations(self, size: int) -> Memory:
        """The same with the activations measured."""
        return replace(self, activations=size)

    def line(self) -> str:
        """For a person: the sum and what it is made of."""
        parts = [f"weights {short_bytes(self.weights)}", f"gradients {short_bytes(self.gradients)}",
                 f"optimizer {short_bytes(self.optimizer)}"]  # fmt: skip
        if self.activations is None:
            return f"memory: {short_bytes(self.total)} ({', '.join(parts)}), and the activations, measured below"
        parts.append(f"activations {short_bytes(self.activations)}, measured in the first micro-batch")
        return f"memory: {short_bytes(self.total)} ({', '.join(parts)})"


def tensor_bytes(tensors: Any, shards: int = 1) -> int:
    """Bytes that this process holds of tensors, each counted once; or one of so many among which they would be cut."""
    return sum(count_held(tensor, shards) * tensor.element_size() for tensor in {id(t): t for t in tensors}.values())


def expected_memory(whole: nn.Module, optimizers: Optimizers, shards: int = 1) -> Memory:
    """Weights and buffers, gradients of what trains, and the optimizer's states once it has stepped.

    ``shards``: among how many processes a model that is whole here would be cut. Buffers never are.
    """
    gradients = tensor_bytes((parameter for parameter in whole.parameters() if parameter.requires_grad), shards)
    weights = tensor_bytes(whole.parameters(), shards) + tensor_bytes(whole.buffers())
    return Memory(weights, gradients, optimizers.state_bytes(shards=shards))


def stage_table(
    title: str, parts: Mapping[str, nn.Module], rates: Mapping[str, float], optimizers: Optimizers
) -> Table:
    """One row a part: parameters, frozen or its learning rate, optimizer. An adapter has a row below its part."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading, side in (("part", "left"), ("parameters", "right"), ("learning rate", "right"), ("optimizer", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    seen: set[int] = set()
    whole = 0
    for name, part in parts.items():
        own = {key: count for key, count in weights_of(part).items() if key not in seen}
        seen |= set(own)
        whole += sum(own.values())
        adapter = sum(parameter.numel() for parameter in adapter_parameters(part))
        trains = rates.get(name, 0.0) > 0
        how = (f"{rates[name]:g}", optimizers.described(name)) if trains else ("[dim]frozen[/dim]", "")
        table.add_row(name, short_number(sum(own.values()) - adapter), *(("[dim]frozen[/dim]", "") if adapter else how))
        if adapter:
            table.add_row(f"  {described(part)}", short_number(adapter), *how)
    trained = sum(parameter.numel() for parameter in optimizers.parameters())
    table.add_section()
    table.add_row("all", short_number(whole), f"{short_number(trained)} train", "")
    return table


class ActivationMeter:
    """Context that counts the bytes autograd keeps for the backward pass, each storage once.

    Parameters are not counted: they are kept anyway. It changes no number. ``others``: storages that are not counted
    either, which may become more in the meantime.
    """

    def __init__(self, module: nn.Module, others: Set[int] = frozenset()) -> None:
        self.size = 0
        self._others = others
        # Not by address: tensors on the meta device have none.
        self._seen = {local(parameter).untyped_storage()._cdata for parameter in module.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen and storage._cdata not in self._others:
            self._seen.add(storage._cdata)
            self.size += storage.nbytes()
        return tensor

    def __enter__(self) -> ActivationMeter:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, value, trace)


def time_line(each: float, steps: int, measured: str) -> str:
    """The expected time of a stage, for a person."""
    whole = short_time(each * steps)
    return f"time: about {whole} for {steps:,} steps ({each:.3g} s each, measured on {measured})"


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held so far: on the accelerator, or resident where there is none.

    0 where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
