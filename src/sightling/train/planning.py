"""What a recipe will need, stage by stage, before anything is allocated: parameters, memory, tokens, operations, time.

The model stands on the meta device and each stage's own loss runs dry (:mod:`sightling.train.dry`) on micro-batches of
the stage's own data, or on one that stands for data that are not there. Time comes of a short probe of this machine
(:mod:`sightling.train.probe`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sightling.errors import UserError
from sightling.model.adapters import detach
from sightling.model.modeling import IGNORED
from sightling.model.quantised import weights_of
from sightling.model.recomputing import checkpoint_layers
from sightling.train.adapters import attach_adapters
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.dry import share_evenly
from sightling.train.dry_step import DryStage, dry_stage
from sightling.train.levers import checkpointed
from sightling.train.objectives import Objective
from sightling.train.objectives.base import Batch
from sightling.train.optimizers import Optimizers, build_optimizers
from sightling.train.order import derive_seed, seed_everything
from sightling.train.planned_features import (
    Rooms,
    plan_features,
    reading,
    seconds_to_read,
    shape_cache,
    with_keys,
)
from sightling.train.planned_shards import ALONE, Cut, cut_of, plan_shards
from sightling.train.plans import Machine, PartPlan, RecipePlan, StagePlan, Time, Tokens
from sightling.train.precision import choose_bf16, precision_name
from sightling.train.preparing import Prepared, Sampled, prepare, sample, visual_tokens
from sightling.train.probe import Probe, muon_flops
from sightling.train.processes import check_share
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.resuming import total_steps
from sightling.train.room import free_memory, held_now
from sightling.train.schedule import Schedule, warmup_length
from sightling.train.summary import expected_memory, tensor_bytes
from sightling.train.trained import EXTRA, Whole, able_to_learn, model_parts, set_training


@dataclass(frozen=True)
class _Ran:
    """A stage that was run dry; ``reading`` and ``seconds_to_read`` are of features that are kept."""

    stage: TrainStage
    optimizers: Optimizers
    sampled: Sampled
    dry: DryStage
    reading: DryStage | None = None
    seconds_to_read: float = 0.0

    @property
    def all(self) -> list[DryStage]:
        """With features read, too, where some are kept."""
        return [self.dry] if self.reading is None else [self.dry, self.reading]


def plan_recipe(
    recipe: Recipe, *, threads: int = 1, share: int = 1, probe_seconds: float = 10.0, processes: int = 1
) -> RecipePlan:
    """What each stage that trains will need here.

    Args:
        recipe: the recipe.
        threads: that torch computes with; the caller has set them.
        share: processes that share the device and each batch.
        probe_seconds: for timing this machine; 0 times nothing.
        processes: that a launcher starts, each with a batch and a device of its own; not beside ``share``.

    Raises:
        UserError: a wrong recipe, data that are there and wrong, or a model that cannot be run dry.
    """
    checked = check_recipe(recipe)
    check_share(recipe, share)
    ranks = share * processes
    cut = cut_of(recipe, ranks)
    prepared = prepare(recipe, checked)
    share_evenly(prepared.model)
    able = able_to_learn(prepared.model)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        # Whole numbers stay where they have values; packed rows would be taken for a CPU's by where those are.
        prepared.model.packed_layout = lambda *told: None  # type: ignore[method-assign]
    room, rooms = free_memory(device) // share, Rooms(recipe)
    plans: list[StagePlan] = []
    ran: list[_Ran] = []
    for name, stage in recipe.stages.items():
        what = checked[name]
        if isinstance(stage, TrainStage) and isinstance(what, CheckedStage):
            where = f"{recipe.source}: stages.{name}"
            plan, dry = _stage(name, stage, what, prepared, able, device, share, ranks, cut, room, rooms, where)
            # The next stage finds its adapters merged, and keeps what it says itself.
            detach(prepared.model)
            checkpoint_layers(prepared.model, ())
            plans.append(plan)
            ran.append(dry)
    rates: dict[str, float] = {}
    waiting, timed = 1.0, 0
    if probe_seconds > 0 and plans:
        probe = Probe(device, probe_seconds)
        probe.time([dry.operations for one in ran for dry in one.all])
        # Copies of a model in parts all do the same; else each process does its share of Muon and all of AdamW.
        among = (ranks, 1) if cut is None else (cut.shards, cut.shards)
        updates = [probe.optimizer_seconds(dry.optimizers, *among) for dry in ran]
        plans = [_timed(*each, share, probe) for each in zip(plans, ran, updates, strict=True)]
        rates = {str(dtype).removeprefix("torch."): rate for dtype, rate in probe.rate.items()}
        waiting, timed = probe.waiting, probe.measured
    machine = Machine(str(device), threads, ranks, room * share, held_now(device), rates, waiting, timed)
    notes = [prepared.note, ALONE if recipe.parallel.sharded and cut is None else ""]
    return RecipePlan(recipe.name, machine, tuple(plans), "\n".join(filter(None, notes)))


def _stage(
    name: str, stage: TrainStage, what: CheckedStage, prepared: Prepared, able: set[nn.Parameter],
    device: torch.device, share: int, ranks: int, cut: Cut | None, room: int, rooms: Rooms, where: str,
) -> tuple[StagePlan, _Ran]:  # fmt: skip
    model = prepared.model
    parts, rates = model_parts(model), stage.train.rates(stage.learning_rate)
    seed = derive_seed(stage.seed, name)
    with torch.device("meta"):
        attach_adapters(model, stage.train, able, where, seed)
    set_training(model, parts, rates, able, where, stage.train)
    if stage.gradient_checkpointing:
        checkpointed(model, stage, where)
    model.compact = stage.compact_attention
    seed_everything(derive_seed(seed, "objective"))
    objective = what.objective(model, prepared.processor, what.options, what.data, seed)
    cache = objective.features = shape_cache(stage, model, where)
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
    batches = sampled.batches if cache is None else [with_keys(batch) for batch in sampled.batches]
    gathering = None if cut is None else plan_shards(whole, cut, bf16)
    gathered = gathering.as_computed if gathering is not None else frozenset[int]()
    ran = _Ran(stage, optimizers, sampled, dry_stage(whole, batches, device.type, bf16, where, gathered))
    if cache is not None:
        again = dry_stage(whole, [reading(batch, cache) for batch in batches], device.type, bf16, where, gathered)
        ran = replace(ran, reading=again, seconds_to_read=seconds_to_read(cache, sampled))
    peak = max(dry.peak for dry in ran.all)
    shards = (cut or Cut()).shards
    memory = expected_memory(whole, optimizers, shards).with_activations(max(dry.activations for dry in ran.all))
    fixed = memory.weights + memory.gradients + memory.optimizer
    if gathering is not None:
        fixed += gathering.plan.gathered
    largest = max(0, (room - held_now(device) - fixed) * size // max(1, peak))
    a_step = stage.gradient_accumulation_steps * ranks
    told = stage.model_copy(update={"per_device_train_batch_size": size})
    steps = None if sampled.note and stage.max_steps is None else total_steps(told, sampled.items, ranks, where)
    if steps is not None:
        # A warm-up longer than the stage is wrong here as it is in training.
        warmup = warmup_length(steps, stage.warmup_steps, stage.warmup_ratio)
        Schedule(stage.lr_scheduler_type, steps, warmup, stage.lr_scheduler_kwargs)
    plan = StagePlan(
        name=name,
        parts=_parts(parts, rates, optimizers, shards),
        memory=memory,
        peak=fixed + peak,
        tokens=_tokens(objective, sampled.batches, model.config.image_token_id, a_step),
        items=sampled.items,
        steps=steps,
        batch=size,
        flops=ran.dry.flops * a_step // len(sampled.batches),
        optimizer_flops=muon_flops(optimizers, device) * (cut or Cut()).copies,
        precision=precision_name(bf16),
        precision_reason=choice.reason,
        sampled=0 if sampled.note else len(sampled.batches),
        note=sampled.note,
        largest_batch=largest,
        sharded=None if gathering is None else gathering.plan,
    )
    if cache is not None and ran.reading is not None and stage.features is not None:
        flops = ran.reading.flops * a_step // len(sampled.batches)
        features = plan_features(
            stage.features, cache, sampled, rooms, steps=steps, size=size, a_step=a_step, flops=flops
        )
        plan = replace(plan, features=features)
    return plan, ran


def _parts(
    parts: Mapping[str, nn.Module], rates: Mapping[str, float], optimizers: Optimizers, shards: int = 1
) -> tuple[PartPlan, ...]:
    """One after another; what two share belongs to the first."""
    seen: set[int] = set()
    found = []
    for name, part in parts.items():
        own = {id(one): one for one in part.parameters() if id(one) not in seen}
        buffers = {id(one): one for one in part.buffers() if id(one) not in seen}
        seen |= own.keys() | buffers.keys()
        learning = [one for one in own.values() if one.requires_grad]
        found.append(
            PartPlan(
                name,
                sum(count for key, count in weights_of(part).items() if key in own),
                sum(one.numel() for one in learning),
                rates.get(name, 0.0),
                optimizers.described(name) if learning else "",
                tensor_bytes(own.values(), shards) + tensor_bytes(buffers.values()),
                tensor_bytes(learning, shards),
                optimizers.state_bytes(name, shards),
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
    step = _time(ran, ran.dry, ran.sampled.seconds or 0.0, update, share, probe)
    whole = None if plan.steps is None else step.step * plan.steps
    if plan.features is None or ran.reading is None:
        return replace(plan, time=replace(step, whole=whole))
    again = _time(ran, ran.reading, ran.seconds_to_read, update, share, probe)
    if whole is not None and plan.features.reading_steps is not None:
        later = plan.features.reading_steps * plan.features.later(step.step, again.step)
        whole = step.step * (plan.features.encoding_steps or 0) + later
        again = replace(again, whole=later)
    return replace(plan, time=replace(step, whole=whole), features=replace(plan.features, time=again))


def _time(ran: _Ran, dry: DryStage, making: float, update: float, share: int, probe: Probe) -> Time:
    """Of an update, from micro-batches that were run dry and the seconds to make one."""
    micro = ran.stage.gradient_accumulation_steps
    compute = micro * probe.seconds(dry.operations) / dry.micro_batches
    data = micro * making * probe.waiting
    workers = ran.stage.dataloader_num_workers
    if workers:
        # They work beside the step, as far as there are processors for them.
        data = max(0.0, data / min(workers, max(1, (os.cpu_count() or 1) // share)) - compute - update)
    return Time(compute + data + update, compute, data, update, None)
