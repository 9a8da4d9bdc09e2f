"""How the processes of a stage hold its model: each the whole of it, or each a part (:mod:`.sharding`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import Tensor, nn

from sightling.train.parallel import Parallel, is_cut
from sightling.train.trained import Whole

if TYPE_CHECKING:
    from sightling.train.sharding import Sharded


class Replicated:
    """The whole model on each process, gradients averaged where there are several.

    Attributes:
        module: what is run.
        storages: storages that are held for a moment only.
    """

    storages: frozenset[int] = frozenset()

    def __init__(self, whole: Whole, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        whole.to(accelerator.device)
        # One process needs no wrapper, and accelerate would hold on to the objective and its data.
        self.module: Any = accelerator.prepare(whole) if accelerator.num_processes > 1 else whole

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """What surrounds one: gradients are averaged after the last of an update."""
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def settle(self) -> None:
        """After the gradients of an update: nothing."""

    def let_go(self) -> None:
        """After a forward pass without a backward pass: nothing."""


def held_by(whole: Whole, accelerator: Accelerator, parallel: Parallel, bf16: bool) -> Replicated | Sharded:
    """The model of a stage as the recipe's ``parallel`` says, on the device. One process holds all of it."""
    if not parallel.sharded or accelerator.num_processes == 1:
        return Replicated(whole, accelerator)
    from sightling.train.sharding import Sharded, make_mesh

    mesh = make_mesh(parallel, accelerator.num_processes, accelerator.device)
    return Sharded(whole, mesh, accelerator.device, bf16)


def held_tensors(tensors: Mapping[str, Tensor], first: bool) -> dict[str, Tensor]:
    """Tensors in full: as they are, or, of a model in parts, gathered into the first process's memory.

    All processes must call it.
    """
    if not any(is_cut(tensor) for tensor in tensors.values()):
        return dict(tensors)
    from sightling.train.sharding import gathered

    return gathered(tensors, first)


def parameter_names(whole: nn.Module) -> dict[nn.Parameter, str]:
    """The name of each parameter of model and objective together."""
    return {parameter: name for name, parameter in whole.named_parameters()}
