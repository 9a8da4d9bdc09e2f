"""Whether a stage's numbers are still finite, and whether every part that trains has had a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sightling.errors import UserError
from sightling.train.recipe import TrainStage

PATIENCE = 20
"""Steps in which every part that trains must have had a gradient."""


class Soundness:
    """Looks at each update of a stage.

    Attributes:
        total: the stage's updates, set when they are planned.

    Args:
        stage: the stage, for what a message advises.
        parts: what could train, by name.
        rates: their learning rates; 0 for what is frozen.
        device: where losses are; on a CPU they are looked at at once, elsewhere when :meth:`check` is called.
        bf16: whether products are in bfloat16.
        where: the stage, for messages.
    """

    def __init__(
        self,
        stage: TrainStage,
        parts: Mapping[str, nn.Module],
        rates: Mapping[str, float],
        device: torch.device,
        bf16: bool,
        where: str,
    ) -> None:
        self.stage, self.parts = stage, parts
        self.device, self.bf16, self.where = device, bf16, where
        self.total = 0
        self._waiting = {part for part, rate in rates.items() if rate > 0}
        self._unsound = torch.full((), -1, device=device)

    def note(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Remember the first step whose loss or gradient is not finite.

        Raises:
            UserError: there was one, on a CPU.
        """
        unsound = ~(torch.isfinite(loss) & torch.isfinite(norm))
        self._unsound = torch.where((self._unsound < 0) & unsound, step, self._unsound)
        if self.device.type == "cpu":
            # Looking is free here, and the weights are still whole.
            self.check()

    def check(self) -> None:
        """Wait for the device and look.

        Raises:
            UserError: a loss or a gradient was not finite.
        """
        step = int(self._unsound)
        if step < 0:
            return
        precision = ", bf16=false" if self.bf16 else ""
        raise UserError(
            f"{self.where}: the loss or its gradient is not finite at step {step}; try a lower learning_rate "
            f"(now {self.stage.learning_rate:g}), more warmup_steps{precision} or a smaller max_grad_norm "
            f"(now {self.stage.max_grad_norm:g})"
        )

    def note_gradients(self, step: int) -> None:
        """See which parts have gradients, as long as one that trains has had none.

        Raises:
            UserError: one had none in :data:`PATIENCE` steps.
        """
        if not self._waiting:
            return
        for name in sorted(self._waiting):
            if any(parameter.grad is not None for parameter in self.parts[name].parameters()):
                self._waiting.discard(name)
        if self._waiting and step >= min(PATIENCE, self.total):
            idle = sorted(self._waiting)
            raise UserError(
                f"{self.where}.train trains {idle[0]!r}, but the loss gave it no gradient in {step} steps; "
                "set it to frozen, or choose data and an objective that use it"
            )
