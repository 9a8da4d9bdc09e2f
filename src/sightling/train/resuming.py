"""How a stage is saved between two updates and taken up again, by as many processes or, in parts, by another number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import Tensor

from sightling.data.source import content
from sightling.errors import UserError
from sightling.train.checkpoint import Checkpoint, load_weights
from sightling.train.held import parameter_names
from sightling.train.order import (
    Batches,
    check_content,
    derive_seed,
    random_state,
    restore_random_state,
    seed_everything,
)
from sightling.train.recipe import TrainStage

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from sightling.train.checkpoint import CheckpointFolder
    from sightling.train.loop import Surroundings
    from sightling.train.optimizers import Optimizers
    from sightling.train.soundness import Soundness
    from sightling.train.trained import Whole
    from sightling.train.window import Window


def total_steps(stage: TrainStage, items: int | None, ranks: int, where: str, step: int = 0, taken: int = 0) -> int:
    """Updates of a stage: ``max_steps``, or as many as its epochs need (the last one filled up from the next).

    ``taken`` items were taken in the first ``step`` updates, by another number of ranks perhaps.

    Raises:
        UserError: epochs of an endless dataset, or an empty dataset.
    """
    if items == 0:
        raise UserError(f"{where}.data holds no samples")
    if stage.max_steps is not None:
        return stage.max_steps
    if items is None:
        raise UserError(f"{where}.data is endless, so num_train_epochs has no meaning; say max_steps")
    a_step = stage.per_device_train_batch_size * stage.gradient_accumulation_steps * ranks
    return step + max(0, math.ceil(((stage.num_train_epochs or 0.0) * items - taken) / a_step))


class Resumes:
    """What :class:`~sightling.train.loop.StageLoop` does with its checkpoints.

    Attributes:
        shift: micro-batches that were taken beyond those that its number of processes takes in its number of updates.
    """

    if TYPE_CHECKING:
        # The loop that this is a part of has them.
        name: str
        where: str
        stage: TrainStage
        around: Surroundings
        accelerator: Accelerator
        device: torch.device
        alone: Whole
        optimizers: Optimizers
        batches: Batches
        checkpoints: CheckpointFolder
        soundness: Soundness
        window: Window
        items: int | None
        ranks: int
        step: int
        total: int
        seconds_before: float

        def tensors(self) -> dict[str, Tensor]:
            """Everything that a checkpoint holds as weights, by name."""

        def seconds(self) -> float:
            """Seconds of training so far."""

        def _plan(self, total: int) -> None:
            """So many updates in all."""

    shift = 0

    def taken(self) -> int:
        """Positions of the data that were taken so far, by all ranks."""
        return (self.step * self.stage.gradient_accumulation_steps * self.ranks + self.shift) * self.batches.size

    def resume(self) -> bool:
        """Take up the last checkpoint where there is one.

        Raises:
            UserError: it is corrupt or does not fit.
        """
        steps = self.checkpoints.steps()
        if not steps:
            return False
        self.step = steps[-1]
        path = self.checkpoints.path(self.step)
        about, state = (self._fill_parts if self.around.parallel.sharded else self._fill)(path)
        self.seconds_before = float(about["seconds"])
        before = len(state["random"])
        if before != self.ranks:
            self._divide_anew(before, state["taken"])
            return True
        # Before this start, too, the number of processes may have been another.
        self._go_on_from(state["taken"] if "taken" in state else self.taken())
        self.window.load_state_dict(state["windows"][self.accelerator.process_index], self.device)
        restore_random_state(state["random"][self.accelerator.process_index], self.device)
        return True

    def _fill(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimizers from a checkpoint that one process wrote. Returns its facts and the rest."""
        newest, where = self.checkpoints.newest(), f"checkpoint {path}"
        assert newest is not None
        checkpoint = newest[1]
        made = len(checkpoint.state["random"])
        if made != self.ranks:
            raise UserError(f"{where} was made by {made} processes; {self.ranks} cannot continue it exactly")
        check_content(self.batches.dataset, checkpoint.state, where)
        load_weights(self.tensors(), checkpoint.weights, where)
        self.optimizers.load_state_dict(checkpoint.state["optimizers"])
        return checkpoint.about, checkpoint.state

    def _fill_parts(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same from a checkpoint that every process wrote its part of."""
        from sightling.train.sharded_checkpoint import ShardedCheckpoint

        parts = ShardedCheckpoint(path)
        check_content(self.batches.dataset, parts.state, f"checkpoint {path}")
        parts.fill(self.tensors(), self.optimizers, parameter_names(self.alone))
        return parts.about, parts.state

    def _go_on_from(self, taken: int) -> None:
        """Take the next position of the data, and plan as many updates as are left from there."""
        self.shift = -(-taken // self.batches.size)
        self.shift -= self.step * self.stage.gradient_accumulation_steps * self.ranks
        if self.shift:
            self._plan(total_steps(self.stage, self.items, self.ranks, self.where, self.step, taken))

    def _divide_anew(self, before: int, taken: int) -> None:
        self._go_on_from(taken)
        seed_everything(derive_seed(self.batches.seed, "steps", self.accelerator.process_index, self.step))
        if self.accelerator.is_main_process:
            line = f"the checkpoint is of {before} processes and there are {self.ranks} now: batches are divided anew"
            say = self.around.console.print
            say(f"{line}, from position {taken:,} of the data on, and the weights will not be bit for bit those of an "
                "uninterrupted run", highlight=False, soft_wrap=True)  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint of this moment, between two updates.

        Raises:
            UserError: the disk is full; earlier checkpoints stay. Or the weights are no longer finite.
        """
        self.soundness.check()
        mine = [(random_state(self.device), self.window.state_dict())]
        told = gather_object(mine) if self.ranks > 1 else mine
        state = {
            "random": [one[0] for one in told],
            "windows": [one[1] for one in told],
            "data": content(self.batches.dataset),
            "taken": self.taken(),
        }
        about = {"stage": self.name, "step": self.step, "of": self.total, "seconds": self.seconds()}
        if self.around.parallel.sharded:
            from sightling.train.sharded_checkpoint import save_sharded

            path, names = self.checkpoints.path(self.step), parameter_names(self.alone)
            save_sharded(path, self.tensors(), self.optimizers, names, state, about, self.accelerator)
            if self.accelerator.is_main_process:
                self.checkpoints.drop()
        elif self.accelerator.is_main_process:
            state["optimizers"] = self.optimizers.state_dict()
            self.checkpoints.save(self.step, Checkpoint(self.tensors(), state, about))
        self.accelerator.wait_for_everyone()
