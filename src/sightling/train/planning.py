"""What a recipe will need, stage by stage, before anything is allocated: parameters, memory, tokens, operations, time.

The model stands on the meta device and each stage's own loss runs dry (:mod:`sightling.train.dry`) on micro-batches of
the stage's own data, or on one that stands for data that are not there. Time comes of a short probe of this machine
(:mod:`sightling.train.probe`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sightling.errors import UserError
from sightling.model.adapters import detach
from sightling.model.modeling import IGNORED
from sightling.model.quantised import weights_of
from sightling.model.recomputing import checkpoint_layers
from sightling.train.adapters import attach_adapters
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.dry import Operation, dry_run, share_evenly
from sightling.train.levers import checkpointed
from sightling.train.objectives import Objective
from sightling.train.objectives.base import Batch
from sightling.train.optimizers import Optimizers, build_optimizers
from sightling.train.order import derive_seed, seed_everything
from sightling.train.precision import choose_bf16, precision_name
from sightling.train.preparing import Prepared, Sampled, prepare, sample, visual_tokens
from sightling.train.probe import Probe, muon_flops
from sightling.train.processes import check_share
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.resuming import total_steps
from sightling.train.room import free_memory, held_now
from sightling.train.schedule import Schedule, warmup_length
from sightling.train.summary import ActivationMeter, Memory, expected_memory, tensor_bytes
from sightling.train.trained import EXTRA, Whole, able_to_learn, model_parts, set_training


@dataclass(frozen=True)
class PartPlan:
    """A part of the model in a stage: how many parameters, how many of them train, and the bytes that it takes.

    ``learning_rate`` is 0 for a frozen part; ``optimizer`` names Muon, AdamW or both, with their parameters.
    """

    name: str
    parameters: int
    trained: int
    learning_rate: float
    optimizer: str
    weights: int
    gradients: int
    optimizer_state: int


@dataclass(frozen=True)
class Tokens:
    """Tokens of one update, over all micro-batches and processes; means over the micro-batches that were looked at."""

    all: float
    visual: float
    padded: float
    supervised: float


@dataclass(frozen=True)
class Time:
    """Seconds on this machine. ``data`` is the time to make batches that computing has to wait for."""

    step: float
    compute: float
    data: float
    optimizer: float
    whole: float | None


@dataclass(frozen=True)
class StagePlan:
    """What a stage that trains will need. Bytes are those of one process.

    Attributes:
        name: the stage's.
        parts: of the model, and what the objective trains beside it.
        memory: weights, gradients, optimizer state, and what the largest micro-batch keeps for its way back.
        peak: the most bytes of tensors at once in a step.
        tokens: of one update.
        items: how many the data hold; None for data that never end or are not there.
        steps: updates; None where it depends on data that are not there.
        batch: items of a micro-batch, on one process.
        flops: floating-point operations of one update, forward and backward, over all processes.
        optimizer_flops: those of the optimizer's products.
        precision: of the matrix products.
        precision_reason: why.
        sampled: micro-batches that were looked at; 0 where one stands for data that are not there.
        note: what is not known, and what stands for it; empty where all is.
        largest_batch: items a process that its memory has room for.
        time: None where nothing was timed.
    """

    name: str
    parts: tuple[PartPlan, ...]
    memory: Memory
    peak: int
    tokens: Tokens
    items: int | None
    steps: int | None
    batch: int
    flops: int
    optimizer_flops: int
    precision: str
    precision_reason: str
    sampled: int
    note: str
    largest_batch: int
    time: Time | None = None


@dataclass(frozen=True)
class Machine:
    """Where it would run. ``rates`` are floating-point operations a second of large products that were measured."""

    device: str
    threads: int
    processes: int
    free_bytes: int
    process_bytes: int
    rates: dict[str, float]
    waiting: float
    timed: int


@dataclass(frozen=True)
class RecipePlan:
    """The plan of a whole recipe; ``note`` is told of its tokenizer."""

    recipe: str
    machine: Machine
    stages: tuple[StagePlan, ...]
    note: str

    def told(self) -> dict[str, Any]:
        """The same as plain data."""
        told = asdict(self)
        for stage, plan in zip(told["stages"], self.stages, strict=True):
            steps = plan.steps
            stage["memory"]["total"] = plan.memory.total
            stage["flops_in_all"] = None if steps is None else steps * (plan.flops + plan.optimizer_flops)
        return told


@dataclass(frozen=True)
class _Ran:
    """A stage that was run dry."""

    stage: TrainStage
    optimizers: Optimizers
    operations: dict[Any, Operation]
    micro_batches: int
    sampled: Sampled


def plan_recipe(recipe: Recipe, *, threads: int = 1, share: int = 1, probe_seconds: float = 10.0) -> RecipePlan:
    """What each stage that trains will need here.

    Args:
        recipe: the recipe.
        threads: that torch computes with; the caller has set them.
        share: processes that share the device and each batch.
        probe_seconds: for timing this machine; 0 times nothing.

    Raises:
        UserError: a wrong recipe, data that are there and wrong, or a model that cannot be run dry.
    """
    checked = check_recipe(recipe)
    check_share(recipe, share)
    prepared = prepare(recipe, checked)
    share_evenly(prepared.model)
    able = able_to_learn(prepared.model)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        # Whole numbers stay where they have values; packed rows would be taken for a CPU's by where those are.
        prepared.model.packed_layout = lambda *told: None  # type: ignore[method-assign]
    room = free_memory(device) // share
    plans: list[StagePlan] = []
    ran: list[_Ran] = []
    for name, stage in recipe.stages.items():
        what = checked[name]
        if isinstance(stage, TrainStage) and isinstance(what, CheckedStage):
            where = f"{recipe.source}: stages.{name}"
            plan, dry = _stage(name, stage, what, prepared, able, device, share, room, where)
            # The next stage finds its adapters merged, and keeps what it says itself.
            detach(prepared.model)
            checkpoint_layers(prepared.model, ())
            plans.append(plan)
            ran.append(dry)
    rates: dict[str, float] = {}
    waiting, timed = 1.0, 0
    if probe_seconds > 0 and plans:
        probe = Probe(device, probe_seconds)
        probe.time([dry.operations for dry in ran])
        updates = [probe.optimizer_seconds(dry.optimizers, share) for dry in ran]
        plans = [_timed(*each, share, probe) for each in zip(plans, ran, updates, strict=True)]
        rates = {str(dtype).removeprefix("torch."): rate for dtype, rate in probe.rate.items()}
        waiting, timed = probe.waiting, probe.measured
    machine = Machine(str(device), threads, share, room * share, held_now(device), rates, waiting, timed)
    return RecipePlan(recipe.name, machine, tuple(plans), prepared.note)


def _stage(
    name: str, stage: TrainStage, what: CheckedStage, prepared: Prepared, able: set[nn.Parameter],
    device: torch.device, share: int, room: int, where: str,
) -> tuple[StagePlan, _Ran]:  # fmt: skip
    model = prepared.model
    parts, rates = model_parts(model), stage.train.rates(stage.learning_rate)
    seed = derive_seed(stage.seed, name)
    with torch.device("meta"):
        attach_adapters(model, stage.train, able, where, seed)
    set_training(model, parts, rates, able, where, stage.train)
    if stage.gradient_checkpointing:
        checkpointed(model, stage, where)
    seed_everything(derive_seed(seed, "objective"))
    objective = what.objective(model, prepared.processor, what.options, what.data, seed)
    with torch.device("meta"):
        extra = objective.extra()
    if extra is not None:
        parts[EXTRA], rates[EXTRA] = extra, stage.learning_rate
    whole = Whole(model, objective, extra)
    optimizers = build_optimizers(stage, parts, rates)
    size = stage.per_device_train_batch_size // share
    try:
        sampled = sample(stage, what, objective, prepared, seed, size)
    except UserError as error:
        raise UserError(f"{where}.data: {error}") from None
    choice = choose_bf16(stage.bf16, device)
    bf16 = bool(choice.value)
    ran = _Ran(stage, optimizers, {}, len(sampled.batches), sampled)
    flops, activations, peak = 0, 0, 0
    for batch in sampled.batches:
        try:
            found = dry_step(whole, batch, device.type, bf16)
        except (NotImplementedError, RuntimeError) as error:
            raise UserError(f"{where} cannot be planned: the model's step depends on its values ({error})") from error
        for key, operation in found.operations.items():
            known = ran.operations.setdefault(key, replace(operation, count=0))
            known.count += operation.count
            flops += operation.flops * operation.count
        activations, peak = max(activations, found.activations), max(peak, found.peak)
    memory = expected_memory(whole, optimizers).with_activations(activations)
    fixed = memory.weights + memory.gradients + memory.optimizer
    largest = max(0, (room - held_now(device) - fixed) * size // max(1, peak))
    a_step = stage.gradient_accumulation_steps * share
    told = stage.model_copy(update={"per_device_train_batch_size": size})
    steps = None if sampled.note and stage.max_steps is None else total_steps(told, sampled.items, share, where)
    if steps is not None:
        # A warm-up longer than the stage is wrong here as it is in training.
        warmup = warmup_length(steps, stage.warmup_steps, stage.warmup_ratio)
        Schedule(stage.lr_scheduler_type, steps, warmup, stage.lr_scheduler_kwargs)
    plan = StagePlan(
        name=name,
        parts=_parts(parts, rates, optimizers),
        memory=memory,
        peak=fixed + peak,
        tokens=_tokens(objective, sampled.batches, model.config.image_token_id, a_step),
        items=sampled.items,
        steps=steps,
        batch=size,
        flops=flops * a_step // len(sampled.batches),
        optimizer_flops=muon_flops(optimizers, device),
        precision=precision_name(bf16),
        precision_reason=choice.reason,
        sampled=0 if sampled.note else len(sampled.batches),
        note=sampled.note,
        largest_batch=largest,
    )
    return plan, ran


@dataclass(frozen=True)
class DryStep:
    """A micro-batch that was run dry, forward and backward; ``peak`` counts neither weights nor gradients."""

    operations: dict[Any, Operation]
    activations: int
    peak: int


def dry_step(whole: Whole, batch: Batch, device_type: str, bf16: bool) -> DryStep:
    """Run the loss of a micro-batch and its gradients on a model of the meta device.

    Raises:
        NotImplementedError: a step whose shapes follow from values that are not there.
        RuntimeError: the same, as torch says it.
    """
    trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    pixels = batch.get("pixel_values")
    if isinstance(pixels, Tensor):
        batch = {**batch, "pixel_values": pixels.to("meta")}
    with dry_run([*whole.parameters(), *whole.buffers()], device_type, bf16) as dry, ExitStack() as hooks:

        def gradient(parameter: Tensor) -> None:
            if parameter.grad is not None:
                dry.keep(parameter.grad)

        for parameter in trained:
            hooks.callback(parameter.register_post_accumulate_grad_hook(gradient).remove)
        with ActivationMeter(whole) as meter:
            loss, _ = whole(batch)
        loss.backward()
    del loss
    for parameter in trained:
        parameter.grad = None
    return DryStep(dry.operations, meter.size, dry.peak)


def _parts(
    parts: Mapping[str, nn.Module], rates: Mapping[str, float], optimizers: Optimizers
) -> tuple[PartPlan, ...]:
    """One after another; what two share belongs to the first."""
    seen: set[int] = set()
    found = []
    for name, part in parts.items():
        own = {id(one): one for one in part.parameters() if id(one) not in seen}
        tensors = {**own, **{id(one): one for one in part.buffers() if id(one) not in seen}}
        seen |= set(tensors)
        learning = [one for one in own.values() if one.requires_grad]
        found.append(
            PartPlan(
                name,
                sum(count for key, count in weights_of(part).items() if key in own),
                sum(one.numel() for one in learning),
                rates.get(name, 0.0),
                optimizers.described(name) if learning else "",
                tensor_bytes(tensors.values()),
                tensor_bytes(learning),
                optimizers.state_bytes(name),
            )
        )
    return tuple(found)


def _tokens(objective: Objective, batches: list[Batch], image_token_id: int, a_step: int) -> Tokens:
    def mean(values: list[int]) -> float:
        return a_step * sum(values) / len(values)

    counted = [objective.tokens(batch) for batch in batches]
    supervised = [
        int((batch["labels"] != IGNORED).sum()) if isinstance(batch.get("labels"), Tensor) else objective.count(batch)
        for batch in batches
    ]
    visual = mean([visual_tokens(batch, image_token_id) for batch in batches])
    return Tokens(mean([real for real, _ in counted]), visual, mean([wide for _, wide in counted]), mean(supervised))


def _timed(plan: StagePlan, ran: _Ran, update: float, share: int, probe: Probe) -> StagePlan:
    micro = ran.stage.gradient_accumulation_steps
    compute = micro * probe.seconds(ran.operations) / ran.micro_batches
    data = micro * (ran.sampled.seconds or 0.0) * probe.waiting
    workers = ran.stage.dataloader_num_workers
    if workers:
        # They work beside the step, as far as there are processors for them.
        data = max(0.0, data / min(workers, max(1, (os.cpu_count() or 1) // share)) - compute - update)
    step = compute + data + update
    return replace(plan, time=Time(step, compute, data, update, None if plan.steps is None else step * plan.steps))

