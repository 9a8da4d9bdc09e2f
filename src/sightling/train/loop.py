"""The one training loop. It does not know what a picture is.

It builds micro-batches, asks the objective for a loss, steps, logs, measures, saves and resumes. The loss of
a step is the sum over its supervised units, of all micro-batches and ranks, divided by their number.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from rich.console import Console
from torch import Tensor, nn

from sightling.errors import UserError
from sightling.train.checkpoint import CheckpointFolder
from sightling.train.held import held_by, held_tensors
from sightling.train.heldout import held_out_loss
from sightling.train.memory import give_back
from sightling.train.objectives.base import Batch, Objective
from sightling.train.optimizers import build_optimizers
from sightling.train.order import (
    Batches,
    batch_numbers,
    derive_seed,
    length,
    loader,
    seed_everything,
)
from sightling.train.parallel import Parallel, whole_of
from sightling.train.progress import StageProgress
from sightling.train.recipe import TrainStage
from sightling.train.resuming import Resumes, total_steps
from sightling.train.schedule import Schedule, warmup_length
from sightling.train.soundness import Soundness
from sightling.train.stopping import Interrupted, Stopping
from sightling.train.summary import ActivationMeter, expected_memory, peak_memory, stage_table, time_line
from sightling.train.trackers import Log
from sightling.train.trained import EXTRA, Whole, model_parts, set_training, trained_tensors
from sightling.train.watch import BACKWARD, BEFORE, DATA, FORWARD, HEAD, OPTIMIZER, Stopwatch
from sightling.train.window import Window

TIMED = 5
"""Steps that the expected time is measured on, after the first, which is slower than the rest."""


@dataclass(frozen=True)
class Surroundings:
    """What a run gives every stage: device and ranks, places to write to, and the person's wish to stop.

    ``after_step`` is told the number of each update that was made, before its checkpoint is written. ``profiled`` gives
    what is called for each update in place of :meth:`StageLoop.update`.
    """

    accelerator: Accelerator
    console: Console
    log: Log
    stopping: Stopping
    checkpoints: Path
    able: set[nn.Parameter]
    after_step: Callable[[int], None] | None = None
    profiled: Callable[[StageLoop], Callable[[Any, int], float | None]] | None = None
    parallel: Parallel = field(default_factory=Parallel)


@dataclass(frozen=True)
class StageResult:
    """What a finished stage leaves: the names and values of what it changed, and what it took.

    Of a model in parts only the first process has the values.
    """

    weights: dict[str, Tensor]
    steps: int
    seconds: float
    peak_memory_bytes: int


class StageLoop(Resumes):
    """One stage, from its last checkpoint (or from nothing) to its last update.

    Raises (from :meth:`run`):
        UserError: a loss that is not finite, a part without gradients, a full disk or memory.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
    """

    def __init__(
        self,
        name: str,
        stage: TrainStage,
        model: nn.Module,
        objective: Objective,
        around: Surroundings,
        *,
        seed: int,
        bf16: bool,
        where: str,
    ) -> None:
        self.name, self.stage, self.objective, self.around = name, stage, objective, around
        self.bf16, self.where = bf16, where
        self.accelerator = around.accelerator
        self.device = self.accelerator.device
        self.ranks = self.accelerator.num_processes
        self.model = model
        self.parts = model_parts(model)
        self.rates = stage.train.rates(stage.learning_rate)
        set_training(model, self.parts, self.rates, around.able, where, stage.train)
        extra = objective.extra()
        if extra is not None:
            self.parts[EXTRA], self.rates[EXTRA] = extra, stage.learning_rate
        self.alone = Whole(model, objective, extra)
        if around.parallel.sharded and self.ranks > 1:
            # They are the parameters in full, which would stay in memory beside the parts.
            around.able.clear()
        self.held = held_by(self.alone, self.accelerator, around.parallel, bf16)
        self.whole = self.held.module
        # Made after the move: an optimizer's choices depend on where its parameters are.
        self.optimizers = build_optimizers(stage, self.parts, self.rates)
        self.trained = list(self.optimizers.parameters())
        dataset = objective.dataset()
        self.items = length(dataset)
        self.batches = Batches(dataset, objective.collate, stage.per_device_train_batch_size, seed)
        self.held_out = objective.held_out() if stage.eval_steps else None
        if stage.eval_steps and (self.held_out is None or length(self.held_out) is None):
            raise UserError(f"{where}.eval_steps is set, but this objective and data hold no items out; set it to 0")
        self.soundness = Soundness(stage, self.parts, self.rates, self.device, bf16, where)
        self._plan(total_steps(stage, self.items, self.ranks, where))
        self.checkpoints = CheckpointFolder(around.checkpoints / name, stage.save_total_limit)
        self.window = Window()
        self.watch = Stopwatch(self.device)
        self.step = 0
        self.seconds_before = 0.0

    def _plan(self, total: int) -> None:
        self.total = self.soundness.total = total
        warmup = warmup_length(total, self.stage.warmup_steps, self.stage.warmup_ratio)
        self.schedule = Schedule(self.stage.lr_scheduler_type, total, warmup, self.stage.lr_scheduler_kwargs)

    # ---- state

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint of this stage holds as weights, by name."""
        parts = {name: part for name, part in self.parts.items() if name != EXTRA}
        found = trained_tensors(self.model, parts, self.rates)
        if EXTRA in self.parts:
            found.update({f"{EXTRA}.{name}": tensor for name, tensor in self.parts[EXTRA].state_dict().items()})
        return found

    def seconds(self) -> float:
        """Seconds of training so far, over all interruptions."""
        return self.seconds_before + time.perf_counter() - self._started

    # ---- running

    def run(self) -> StageResult:
        """All updates that are left."""
        self._started = time.perf_counter()
        # What happened before must not matter, and ranks must not draw alike.
        seed_everything(derive_seed(self.batches.seed, "steps", self.accelerator.process_index))
        resumed = self.resume()
        first = self.step
        if self.accelerator.is_main_process:
            self.around.log.metrics.rewind(self.name, self.step)
            self._announce(resumed)
        accumulation, rank = self.stage.gradient_accumulation_steps, self.accelerator.process_index
        numbers = batch_numbers(self.step, self.total, accumulation, rank, self.ranks, self.shift)
        give_back(self.device)
        source = loader(self.batches, numbers, self.stage.dataloader_num_workers, self.device.type == "cuda")
        quiet = not self.accelerator.is_main_process
        self.window.started = time.perf_counter()
        with (
            self.around.stopping.at_a_boundary(),
            StageProgress(self.around.console, self.name, self.total, self.step, quiet) as self.progress,
        ):
            update = self.around.profiled(self) if self.around.profiled is not None else self.update
            try:
                while self.step < self.total:
                    loss = update(source, first)
                    self.progress.advance(self.step, loss)
                    self._expect_time(first)
                    if self.step % self.stage.logging_steps == 0 or self.step == self.total:
                        self._log()
                    if self.stage.eval_steps and (self.step % self.stage.eval_steps == 0 or self.step == self.total):
                        self._measure()
                    if self.around.after_step is not None:
                        self.around.after_step(self.step)
                    if self.step % self.stage.save_steps == 0 and self.step < self.total:
                        self.save()
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                    raise
                raise UserError(
                    f"{self.where} ran out of memory at step {self.step + 1}; lower per_device_train_batch_size "
                    f"(now {self.stage.per_device_train_batch_size}) and raise gradient_accumulation_steps by as much"
                ) from None
        self.soundness.check()
        model_only = {name: t for name, t in self.tensors().items() if not name.startswith(f"{EXTRA}.")}
        weights = held_tensors(model_only, self.accelerator.is_main_process)
        return StageResult(weights, self.total, self.seconds(), peak_memory(self.device))

    def _announce(self, resumed: bool) -> None:
        say, console = self.around.console.print, self.around.console
        console.print(stage_table(f"stage {self.name}", self.parts, self.rates, self.optimizers))
        self.memory = expected_memory(self.whole, self.optimizers)
        say(self.memory.line(), highlight=False, soft_wrap=True)
        if resumed:
            say(f"going on after step {self.step} of {self.total}", highlight=False)

    def update(self, source: Any, first: int) -> float | None:
        """One optimizer step. Returns the loss where it is free to know (no wait for a device)."""
        start = time.perf_counter()
        with self.watch.phase(DATA):
            batches = [next(source) for _ in range(self.stage.gradient_accumulation_steps)]
        waited = time.perf_counter() - start
        count = self._agree(sum(self.objective.count(batch) for batch in batches))
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            measure = self.step == first and number == 0
            total = total + self._micro_batch(batch, count, sync=last, measure=measure)
        with self.watch.phase(OPTIMIZER):
            self.held.settle()
            norm = self._gradient_norm()
        self.soundness.note(self.step + 1, total, norm)
        with self.watch.phase(OPTIMIZER):
            self.optimizers.scale(self.schedule.factor(self.step))
            self.optimizers.step()
            self.soundness.note_gradients(self.step + 1)
            self.optimizers.zero_grad()
        self._norm = norm
        self.window.add_step(count, waited)
        self.step += 1
        return float(total) if self.device.type == "cpu" and self.ranks == 1 else None

    def _agree(self, count: int) -> int:
        """The supervised units of the step over all ranks; a rank that was told to stop stops them all."""
        asked = self.around.stopping.asked
        if self.ranks > 1:
            totals = self.accelerator.reduce(torch.tensor([count, asked], device=self.device), reduction="sum")
            count = int(totals[0])
            # Another rank was told: which signal it got is of no matter here.
            asked = asked or (signal.SIGTERM if int(totals[1]) else 0)
        if asked:
            self.save()
            raise Interrupted(f"stopped after step {self.step} of {self.total} of stage {self.name}", asked)
        if count == 0:
            raise UserError(f"{self.where}.data: nothing is supervised in step {self.step + 1}, so there is no loss")
        return count

    def _micro_batch(self, batch: Batch, count: int, *, sync: bool, measure: bool) -> Tensor:
        samples = self.objective.samples(batch)
        tokens = self.objective.tokens(batch)
        on_device = send_to_device(batch, self.device, non_blocking=True)
        with self.held.micro_batch(sync):
            with self._forward():
                if measure:
                    with ActivationMeter(self.whole, self.held.storages) as meter:
                        loss, metrics = self.whole(on_device)
                    self._activations = meter.size
                else:
                    loss, metrics = self.whole(on_device)
            if loss.ndim:
                raise ValueError(f"an objective's loss must be one number, not of shape {tuple(loss.shape)}")
            # Ranks average their gradients, so each one's share is raised by their number.
            with self.watch.phase(BACKWARD, HEAD):
                (loss * (self.ranks / count)).backward()
        items = self.stage.per_device_train_batch_size
        self.window.add_batch(loss, metrics, items if samples is None else samples, tokens)
        return loss.detach().float() / count

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """The forward pass, in the stage's precision."""
        precision = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)
        with self.watch.phase(FORWARD, BEFORE), precision:
            yield

    def _gradient_norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        norm = whole_of(nn.utils.get_total_norm(gradients))
        if self.stage.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self.trained, self.stage.max_grad_norm, norm)
        return norm

    def _expect_time(self, first: int) -> None:
        done = self.step - first
        if done == 1 or done == min(TIMED + 1, self.total - first):
            if self.device.type != "cpu":
                torch.accelerator.synchronize()
            now = time.perf_counter()
            if done == 1:
                self._after_first = now
                if self.accelerator.is_main_process:
                    self.progress.say(self.memory.with_activations(self._activations).line())
            if done > 1:
                each = (now - self._after_first) / (done - 1)
                self.progress.say(time_line(each, self.total - first, f"steps {first + 2} to {self.step}"))

    def _log(self) -> None:
        self.soundness.check()
        values = self.window.means(self.ranks)
        factor = self.schedule.factor(self.step - 1)
        values["learning_rate"] = self.stage.learning_rate * factor
        for name, rate in self.rates.items():
            if rate > 0 and rate != self.stage.learning_rate:
                values[f"learning_rate/{name}"] = rate * factor
        values["grad_norm"] = float(self._norm)
        if self.items:
            values["epoch"] = self.taken() / self.items
        values["seconds"] = self.seconds()
        self.around.log.write(self.name, self.step, values)
        self.progress.speeds(values["samples_per_second"], values["tokens_per_second"], values["padding"])
        self.progress.advance(self.step, values["loss"])
        self.window = Window()

    def _measure(self) -> None:
        assert self.held_out is not None
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            size, even = self.stage.per_device_eval_batch_size, self.around.parallel.sharded
            means = held_out_loss(self.alone, self.objective, self.held_out, size, self.accelerator, even)
        self.held.let_go()
        self.around.log.write(self.name, self.step, {f"eval_{name}": value for name, value in means.items()})
        self.progress.say(f"{self.name} {self.step}/{self.total}  held-out loss {means['loss']:.4f}")
