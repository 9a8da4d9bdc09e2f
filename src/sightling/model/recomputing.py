"""Layers that keep their input alone for the way back and are computed once more there: gradient checkpointing.

Source of the method: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). Layers of
transformers support it (``GradientCheckpointingLayer``); what they call in place of their own forward pass is
:class:`Recompute`. It differs from transformers' own in that a layer computes again what it computed first where the
attention was another one during the pass (:mod:`sightling.model.tree`), and in that layers of frozen parts take part:
gradients go through them to what trains before them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

_now = [0]
"""How many computations are done once more at this moment, one in another."""


_around: list[AbstractContextManager[Any]] = []
"""Contexts in which things are computed once more."""


@contextmanager
def again_within(context: AbstractContextManager[Any]) -> Iterator[None]:
    """While it runs, what is computed once more is so within a context, which must be one to enter many times."""
    _around.append(context)
    try:
        yield
    finally:
        _around.remove(context)


def recomputing() -> bool:
    """Whether what is computed now was computed before."""
    return _now[0] > 0


class _Again(AbstractContextManager[None]):
    """In the body a configuration names the attention that it named when this was made. Can be entered again."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.used = getattr(config, "_attn_implementation", None)
        self.usual: list[Any] = []
        self.stacks: list[ExitStack] = []

    def __enter__(self) -> None:
        self.stacks.append(ExitStack())
        for context in _around:
            self.stacks[-1].enter_context(context)
        _now[0] += 1
        if self.config is not None:
            self.usual.append(self.config._attn_implementation)
            self.config._attn_implementation = self.used

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _now[0] -= 1
        if self.config is not None:
            self.config._attn_implementation = self.usual.pop()
        self.stacks.pop().close()


def recompute(function: Callable[..., Any], *args: Any, config: Any = None) -> Any:
    """``function(*args)``, of which no more than ``args`` is kept for the way back.

    ``config`` names the attention that is used; it does so again on the way back.
    """
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _Again(config)))


class Recompute:
    """What a layer of transformers calls when it is checkpointed.

    Args:
        config: the configuration that names the layer's attention.
        resting: the layer, where it is one of a frozen part: it says that it trains, as transformers asks, and yet
            computes as one that rests.
        compiled: called in place of the layer's own forward pass; takes the layer first.
    """

    keeps_attention = True

    def __init__(
        self, config: Any = None, resting: nn.Module | None = None, compiled: Callable[..., Any] | None = None
    ) -> None:
        self.config, self.resting, self.compiled = config, resting, compiled

    def __call__(self, function: Any, *args: Any) -> Any:
        """``function`` is the forward pass with the layer and its named arguments already bound."""
        if self.compiled is not None:
            function = partial(self.compiled, *function.args, **function.keywords)
        return recompute(partial(self._rested, function), *args, config=self.config)

    def _rested(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.resting is None:
            return function(*args)
        self.resting.training = False
        try:
            return function(*args)
        finally:
            self.resting.training = True


def layers_of(part: nn.Module) -> list[Any]:
    """The layers of a part that can be checkpointed."""
    return [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_layers(
    model: Any, parts: Collection[str], compiled: Callable[[nn.Module], Callable[..., Any] | None] = lambda layer: None
) -> dict[str, int]:
    """Checkpoint all layers of these parts that can be, and no others; how many they are, by part.

    Call it after the parts were told to train or to rest, and with no parts to turn it off. ``compiled`` gives what is
    to be called in place of a layer's forward pass.
    """
    found = {}
    for name, part in model.parts().items():
        layers = layers_of(part)
        config = getattr(part, "config", None) if name == "language_model" else None
        for layer in layers:
            func = getattr(layer, "_gradient_checkpointing_func", None)
            if isinstance(func, Recompute) and func.resting is not None:
                layer.training = False
            layer.gradient_checkpointing = name in parts
            layer._gradient_checkpointing_func = None
            if name in parts:
                layer._gradient_checkpointing_func = Recompute(
                    config, None if layer.training else layer, compiled(layer)
                )
                layer.training = True
        if name in parts:
            found[name] = len(layers)
    return found
