"""Checkpoints that every process writes its part of, whole or absent, and that any number of processes can read.

The parts are written by ``torch.distributed.checkpoint`` in the safetensors format: ``shard-*.safetensors``, a file a
process, with each tensor's place in the whole. What is small is as in other checkpoints: ``state.pt`` (numbers that are
no matrices, random states of each process) and ``checkpoint.json``. All processes must see the same folder.

A tensor's name begins with ``weights.`` (the model's own name follows) or ``optimizers.`` and the optimizer's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from sightling.errors import UserError
from sightling.train.checkpoint import ABOUT, SHARDED, STATE, failed_for, finish, partial_of, read_about, read_state
from sightling.train.optimizers import Optimizers


def optimizer_tensors(optimizers: Optimizers, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Every tensor of the optimizers' states by optimizer, parameter and its own name there."""
    return {
        f"optimizers.{kind}.{names[parameter]}.{key}": value
        for kind, optimizer in optimizers.inner.items()
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _told(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(matrices and vectors, single numbers): the safetensors format cuts only what has an axis."""
    axes = {name: tensor.detach() for name, tensor in tensors.items() if tensor.ndim}
    return axes, {name: tensor.detach().cpu() for name, tensor in tensors.items() if not tensor.ndim}


class ShardedCheckpoint:
    """One that is there, with its facts read and its tensors still on the disk.

    Raises:
        UserError: it is incomplete or corrupt, or was not written in parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_about(folder)
        if SHARDED not in self.about:
            raise UserError(
                f"checkpoint {folder} was made with parallel: ddp; take that to go on from it, or delete that folder"
            )
        self.state = read_state(folder)

    @property
    def ranks(self) -> int:
        """How many processes wrote it."""
        return int(self.about[SHARDED])

    def fill(
        self, weights: Mapping[str, Tensor], optimizers: Optimizers, names: Mapping[nn.Parameter, str]
    ) -> None:
        """Put it into weights and optimizers, this process's parts. All processes must call it.

        Raises:
            UserError: names or shapes that are not those of the weights.
        """
        reader = HuggingFaceStorageReader(str(self.folder))
        found = reader.read_metadata().state_dict_metadata
        numbers: dict[str, Tensor] = self.state["numbers"]
        wanted = {f"weights.{name}": tensor for name, tensor in weights.items()}
        sizes = {name: tuple(told.size) for name, told in found.items() if isinstance(told, TensorStorageMetadata)}
        sizes |= dict.fromkeys(numbers, ())
        self._check({name: tuple(tensor.shape) for name, tensor in wanted.items()}, sizes)
        states: dict[str, dict[nn.Parameter, dict[str, Tensor]]] = {}
        for kind, optimizer in optimizers.inner.items():
            for parameter in (one for group in optimizer.param_groups for one in group["params"]):
                start = f"optimizers.{kind}.{names[parameter]}."
                keys = [name for name in sizes if name.startswith(start) and "." not in name[len(start) :]]
                made = {key: torch.zeros_like(parameter, requires_grad=False) for key in keys if sizes[key]}
                wanted |= made
                own = {key[len(start) :]: made[key] if key in made else numbers[key] for key in keys}
                states.setdefault(kind, {})[parameter] = own
        into, single = _told(wanted)
        _together(lambda: dcp.load(into, storage_reader=reader, no_dist=not torch.distributed.is_initialized()))
        with torch.no_grad():
            for name in single:
                wanted[name].copy_(numbers[name])
        for kind, optimizer in optimizers.inner.items():
            told = optimizer.state_dict()
            params = [one for group in optimizer.param_groups for one in group["params"]]
            kept = {number: states[kind][one] for number, one in enumerate(params) if states[kind][one]}
            optimizer.load_state_dict({"state": kept, "param_groups": told["param_groups"]})

    def _check(self, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
        there = {name for name in found if name.startswith("weights.")}
        for kind, keys in (("lacks", set(wanted) - there), ("holds the unknown", there - set(wanted))):
            if keys:
                key = min(keys)
                raise UserError(f"checkpoint {self.folder} does not fit this model: it {kind} {key[len('weights.'):]}")
        for name, shape in wanted.items():
            if found[name] != shape:
                raise UserError(
                    f"checkpoint {self.folder} does not fit this model: {name[len('weights.'):]} has shape "
                    f"{found[name]} there and {shape} here"
                )


def save_sharded(
    folder: Path,
    weights: Mapping[str, Tensor],
    optimizers: Optimizers,
    names: Mapping[nn.Parameter, str],
    state: Mapping[str, Any],
    about: Mapping[str, Any],
    accelerator: Accelerator,
) -> None:
    """Write one, whole or not at all; ``state`` and ``about`` are the first process's. All processes must call it.

    Raises:
        UserError: the disk is full or cannot be written, on every process; earlier checkpoints stay as they are.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
    axes, numbers = _told(tensors | optimizer_tensors(optimizers, names))
    partial, first = partial_of(folder), accelerator.is_main_process
    several = accelerator.num_processes > 1

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def end() -> None:
        torch.save({**state, "numbers": numbers}, partial / STATE)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        told = {**about, SHARDED: accelerator.num_processes, "sizes": sizes}
        (partial / ABOUT).write_text(json.dumps(told, indent=1), encoding="utf-8")
        finish(partial, folder)

    def write() -> None:
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        dcp.save(axes, storage_writer=writer, no_dist=not several)

    for do, alone in ((begin, True), (write, False), (end, True)):
        why = None
        try:
            if first or not alone:
                _together(do)
        except (OSError, RuntimeError) as error:
            why = failed_for(error)
            if why is None:
                raise
        # The others wait for the first: they must learn that it could not.
        why = broadcast_object_list([why])[0] if several and alone else why
        if why is not None:
            if first:
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"a checkpoint could not be written to {folder}: {why}; what was saved before is whole, "
                "so make room and run the same command again to continue"
            )


def _together(do: Callable[[], object]) -> None:
    """Do it; what torch reports of all processes becomes an error of the kind that the first failure was.

    Raises:
        OSError, RuntimeError: as one of the processes had it.
    """
    try:
        do()
    except dcp.api.CheckpointException as failed:
        error = next(iter(failed.failures.values()))[0]
        if isinstance(error, OSError):
            raise error from None
        raise RuntimeError(str(error)) from failed
