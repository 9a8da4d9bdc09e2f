"""A model that is cut among processes: each holds a part of every matrix, its gradient and its optimizer state.

It stands on PyTorch's ``fully_shard`` (FSDP2; the method is Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, and Zhao
et al. 2023, "PyTorch FSDP", arXiv:2304.11277). Each block of the language model and each layer of the tower is a unit
that is gathered just before it runs and let go just after, forward and backward. The rest (connector, embeddings, head,
and towers that :func:`~sightling.train.sharded_tower.tower_layers` leaves whole) is gathered at the beginning of a
micro-batch. A unit that only some processes ask for would leave them waiting for the others, and a process without a
picture runs no tower: :mod:`~sightling.train.sharded_tower` keeps them in step. Gated layers are gathered with the
block that they stand before, pictures or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm

from sightling.errors import UserError
from sightling.train.parallel import Parallel, whole_of
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.sharded_tower import InStep, tower_layers
from sightling.train.trained import Whole

LANGUAGE_MODEL, GUEST = "language_model", "_gated_before_it"


def check_run(recipe: Recipe, keep: bool, profile: bool) -> None:
    """Refuse what a model in parts cannot: to be kept on the way, profiled, compiled or quantised; and an old torch.

    Raises:
        UserError: the first of them.
    """
    where = f"{recipe.source}: parallel"
    if keep:
        raise UserError(f"{where}: models of the way are kept by ddp only")
    if profile:
        raise UserError(f"{where}: steps are profiled by ddp only")
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and stage.torch_compile:
            stands = f"{recipe.source}: stages.{name}.torch_compile"
            raise UserError(f"{stands} is for parallel: ddp; leave it out with fsdp")
        for part, lora in stage.train.adapters().items() if isinstance(stage, TrainStage) else ():
            if lora.quantize is not None:
                stands = f"{recipe.source}: stages.{name}.train.{part}.quantize"
                raise UserError(f"{stands} is for parallel: ddp; leave it out with fsdp")
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(f"{where}: fsdp needs torch 2.13 or later, and this is {torch.__version__}; update, or say ddp")


def make_mesh(parallel: Parallel, ranks: int, device: torch.device) -> DeviceMesh:
    """The processes in a row, or, with copies, (copies, processes of a copy). Neighbours share a copy."""
    if parallel.replicate is None:
        return init_device_mesh(device.type, (ranks,), mesh_dim_names=("shard",))
    shape = (parallel.replicate, ranks // parallel.replicate)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors in full, in the processor's memory, where ``keep`` is true; nothing elsewhere.

    All processes must call it. A device holds one of them in full at a time.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = whole_of(tensor.detach())
        if keep:
            found[name] = whole.to("cpu", copy=True)
    return found


def blocks(part: nn.Module) -> list[nn.Module]:
    """The elements of a part's outermost lists of modules, which transformers' models keep their layers in."""
    found: list[nn.Module] = []
    lists: list[str] = []
    for name, module in part.named_modules():
        inside = any(name.startswith(f"{outer}.") or not outer for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside:
            lists.append(name)
            found += module
    return found


def _guests(model: Any) -> dict[nn.Module, nn.Module]:
    """The gated layer that stands before each block, of those that have one."""
    gated = getattr(getattr(model, "connector", None), "gated", None)
    if gated is None:
        return {}
    layers = model.get_decoder().layers
    return {layers[place]: layer for place, layer in zip(gated.places, gated.layers, strict=True)}


def gathered_together(model: Any) -> list[list[nn.Module]]:
    """The modules whose parameters are gathered as one, unit by unit; what is in none of them is the rest.

    Blocks of the language model, each with the gated layer before it, and then the layers of the tower.
    """
    guests = _guests(model)
    found = [[block] for block in blocks(model.parts()[LANGUAGE_MODEL])]
    for members in found:
        if members[0] in guests:
            members.append(guests[members[0]])
    return found + [[layer] for layer in tower_layers(model)]


class Sharded:
    """A stage's model, cut in place, with what keeps the processes in step.

    A parameter that no process used in an update has no gradient, as in one process, though FSDP fills up with zeros
    what some do not use: otherwise Adam would move it by its momentum and weight decay.

    Args:
        whole: model and objective, on the processor or the device; cut in place, and then on the device.
        mesh: the processes.
        device: where this process computes.
        bf16: gather matrices in bfloat16. Each process's own part, the gradients' sums and the optimizer stay float32.
    """

    def __init__(self, whole: Whole, mesh: DeviceMesh, device: torch.device, bf16: bool) -> None:
        self.module = cast(Any, whole)
        self.device = device
        self.storages: set[int] = set()
        plain = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else plain
        model: Any = whole.model
        guests, together = _guests(model), gathered_together(model)
        # There is nothing of an empty one to cut.
        held = {parameter for parameter in whole.parameters() if not parameter.numel()}
        units: list[nn.Module] = []
        for block in blocks(model.parts()[LANGUAGE_MODEL]):
            if block in guests:
                # A child for this moment: its parameters join the block's, and its names stay what they are.
                block.add_module(GUEST, guests[block])
            fully_shard(block, mesh=mesh, mp_policy=half)
            if block in guests:
                del block._modules[GUEST]
                held |= set(guests[block].parameters())
            units.append(block)
        first_block, layers = units[0], tower_layers(model)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=half)
        others = (part for name, part in model.parts().items() if name != LANGUAGE_MODEL)
        if any(parameter.requires_grad for part in others for parameter in part.parameters()):
            for unit in units:
                # The last to be registered is the first to run.
                unit.register_forward_pre_hook(_always_backward, prepend=True)
        fully_shard(whole, mesh=mesh, mp_policy=plain if exact(whole) else half, ignored_params=held)
        self.module.set_reduce_scatter_unused_params(True)
        self.module.to(device)
        if layers:
            InStep(whole, layers, first_block, device)
            for layer in layers:
                # All processes run a layer, or none does, and then there is nothing to fill up.
                cast(Any, layer).set_reduce_scatter_unused_params(False)
        units += layers
        by_batch = (one for one in whole.modules() if isinstance(one, _BatchNorm) and one.training)
        self._statistics = [buffer for one in by_batch for buffer in one.buffers()]
        self._used: set[str] = set()
        self._parameters = {name: p for name, p in whole.named_parameters() if p.requires_grad}
        of_blocks: set[str] = set()
        for unit, members in zip(units, together, strict=True):
            names = self._names(whole, members)
            of_blocks |= set(names)
            self._watch(unit, names)
        self._watch(whole, [name for name, _ in whole.named_parameters() if name not in of_blocks])

    @staticmethod
    def _names(whole: nn.Module, members: Iterable[nn.Module]) -> list[str]:
        own = {id(parameter) for member in members for parameter in member.parameters()}
        return [name for name, parameter in whole.named_parameters() if id(parameter) in own]

    def _watch(self, unit: nn.Module, names: list[str]) -> None:
        """When the unit is gathered for the first time, ask to be told when a parameter of it gets a gradient."""

        def look(*_: Any) -> None:
            for name in names:
                # While it is gathered, the model's own names lead to the full parameters, which then stay the same.
                full = self.module.get_parameter(name)
                self.storages.add(full.untyped_storage()._cdata)
                if full.requires_grad:
                    full.register_post_accumulate_grad_hook(lambda _, name=name: self._used.add(name))
            handle.remove()

        handle = unit.register_forward_pre_hook(look)

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """What surrounds one: nothing. Gradients are summed after each, so that none is ever held in full."""
        return nullcontext()

    def settle(self) -> None:
        """After the gradients of an update: forget those that nobody computed, and take the first's statistics.

        All processes must call it.
        """
        names = list(self._parameters)
        told = torch.tensor([name in self._used for name in names], dtype=torch.uint8, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        for name, used in zip(names, told.tolist(), strict=True):
            if not used:
                self._parameters[name].grad = None
        self._used.clear()
        for buffer in self._statistics:
            dist.broadcast(buffer, 0)

    def let_go(self) -> None:
        """Let go of what a forward pass without a backward pass left gathered: names lead to the parts again."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _always_backward(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Before a block: what it is given takes gradients on every process, or on none.

    Embeddings that rest take none where they are of text alone, and some where a connector that trains has put pictures
    among them. A process that had no way back through the block would sum its gradients at another time than the rest.
    """
    if not torch.is_grad_enabled() or not args or not isinstance(args[0], Tensor) or args[0].requires_grad:
        return None
    return (args[0].detach().requires_grad_(), *args[1:])


def exact(whole: Whole) -> bool:
    """Whether what stands outside the blocks is gathered in float32 even where products run in bfloat16.

    Batch statistics are float32 and want weights like themselves; scales and biases of a loss lose what they learn.
    """
    by_batch = any(isinstance(module, _BatchNorm) for module in whole.modules())
    return by_batch or whole.extra is not None
