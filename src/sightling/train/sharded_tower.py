"""Keeps processes in step that send different numbers of pictures through a tower whose layers are gathered one by one.

A layer is gathered by all processes together, but a process whose pictures are all known, or that has none, would not
ask for it. So each tells the others before it runs the layers, and whoever has none left to run lets a grey square
through them as long as another has. What comes of it counts for nothing, in the loss as in its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightling.model.recomputing import recomputing

GREY = 128


def tower_layers(model: Any) -> list[nn.Module]:
    """The layers of a model's tower that are gathered one by one, in their order; none where it is gathered whole.

    That are towers of no layers, those that look at several tiles together or are several, and those whose batch
    statistics a grey square would change.
    """
    encoder = getattr(model, "encoder", None)
    kind = getattr(encoder, "kind", None)
    if encoder is None or kind is None or kind.together or not kind.uses:
        return []
    if any(isinstance(module, _BatchNorm) and module.training for module in encoder.modules()):
        return []
    return encoder.running()


class InStep:
    """Watches the passes of a tower's layers and lets a process without one take part.

    Args:
        whole: a :class:`~sightling.train.trained.Whole`, its layers already cut.
        layers: the tower's, in their order.
        first_block: of the language model; no pass begins behind its beginning.
        device: where this process computes.
    """

    def __init__(self, whole: nn.Module, layers: Sequence[nn.Module], first_block: nn.Module, device: torch.device):
        model: Any = whole.model
        self._encoder, self._device = model.encoder, device
        self._grey = False
        self._level = False
        self._added: list[Tensor] = []
        # The last to be registered is the first to run: before anything is gathered.
        layers[0].register_forward_pre_hook(self._begins, prepend=True)
        first_block.register_forward_pre_hook(self._seen, prepend=True)
        whole.register_forward_hook(self._ends, prepend=True)

    def _others(self, mine: bool) -> bool:
        """Whether any process begins a pass. All must ask."""
        told = torch.tensor([mine], dtype=torch.uint8, device=self._device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())

    def _begins(self, *_: Any) -> None:
        if self._grey or recomputing():
            return
        if self._level:
            raise RuntimeError("a picture was looked at behind the language model's beginning; others wait there")
        self._others(True)

    def _seen(self, *_: Any) -> None:
        """No pictures are left here: let grey squares through while others have some."""
        if self._level or recomputing():
            return
        side = self._encoder.image_size
        while self._others(False):
            self._grey = True
            pixels_1CHW = torch.full((1, 3, side, side), GREY, dtype=torch.uint8, device=self._device)
            seen = self._encoder(pixels_1CHW)
            self._grey = False
            if seen.requires_grad:
                self._added.append(seen.sum())
        self._level = True

    def _ends(self, module: nn.Module, args: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """An objective may never ask the language model; and the way back goes through every pass on all processes."""
        self._seen()
        self._level = False
        loss, metrics = output
        for added in self._added:
            loss = loss + 0.0 * added
        self._added.clear()
        return loss, metrics
