"""A stage's own loss on micro-batches run dry, forward and backward (:mod:`sightling.train.dry`)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sightling.errors import UserError
from sightling.train.dry import Operation, dry_run
from sightling.train.objectives.base import Batch
from sightling.train.summary import ActivationMeter
from sightling.train.trained import Whole


@dataclass(frozen=True)
class DryStep:
    """A micro-batch that was run dry, forward and backward; ``peak`` counts neither weights nor gradients."""

    operations: dict[Any, Operation]
    activations: int
    peak: int


def dry_step(whole: Whole, batch: Batch, device_type: str, bf16: bool, gathered: Set[int] = frozenset()) -> DryStep:
    """Run the loss of a micro-batch and its gradients on a model of the meta device.

    ``gathered``: the ids of weights that are gathered, and let go, in the type that they are computed with.

    Raises:
        NotImplementedError: a step whose shapes follow from values that are not there.
        RuntimeError: the same, as torch says it.
    """
    trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    pixels = batch.get("pixel_values")
    if isinstance(pixels, Tensor):
        batch = {**batch, "pixel_values": pixels.to("meta")}
    held = [*whole.parameters(), *whole.buffers()]
    with dry_run(held, device_type, bf16, gathered) as dry, ExitStack() as hooks:

        def gradient(parameter: Tensor) -> None:
            if parameter.grad is not None:
                dry.keep(parameter.grad)

        for parameter in trained:
            hooks.callback(parameter.register_post_accumulate_grad_hook(gradient).remove)
        with ActivationMeter(whole, dry.gathered) as meter:
            loss, _ = whole(batch)
        loss.backward()
    del loss
    for parameter in trained:
        parameter.grad = None
    return DryStep(dry.operations, meter.size, dry.peak)


@dataclass(frozen=True)
class DryStage:
    """Several micro-batches that were run dry: their operations together, and what the largest one holds.

    Attributes:
        operations: of all of them.
        micro_batches: how many they are.
        flops: floating-point operations of all of them.
        activations: bytes that the largest keeps for its way back.
        peak: the most bytes at once, neither weights nor gradients among them.
    """

    operations: dict[Any, Operation]
    micro_batches: int
    flops: int
    activations: int
    peak: int


def dry_stage(
    whole: Whole, batches: Sequence[Batch], device_type: str, bf16: bool, where: str, gathered: Set[int] = frozenset()
) -> DryStage:
    """Run each of these micro-batches dry, as :func:`dry_step` does.

    Raises:
        UserError: a step whose shapes follow from values that are not there.
    """
    operations: dict[Any, Operation] = {}
    flops, activations, peak = 0, 0, 0
    for batch in batches:
        try:
            found = dry_step(whole, batch, device_type, bf16, gathered)
        except (NotImplementedError, RuntimeError) as error:
            raise UserError(f"{where} cannot be planned: the model's step depends on its values ({error})") from error
        for key, operation in found.operations.items():
            known = operations.setdefault(key, replace(operation, count=0))
            known.count += operation.count
            flops += operation.flops * operation.count
        activations, peak = max(activations, found.activations), max(peak, found.peak)
    return DryStage(operations, len(batches), flops, activations, peak)
