"""Where the time of a step goes: a stopwatch that the loop's phases and the model's parts switch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

FORWARD, BACKWARD = "forward", "backward"

CONNECTOR, LANGUAGE_MODEL = "connector", "language_model"

DATA, OPTIMIZER, REST = "data", "optimizer", "rest"
"""Waiting for batches; the gradients' norm, clipping and the update; everything else of a step."""

HEAD = "head and loss"
"""What comes after the language model's last layer, or after the parts of an objective that has no use for it."""

BEFORE = "between the parts"
"""Of the forward pass what is in no part: words' embeddings, masks, where pictures stand."""


class Stopwatch:
    """Seconds by phase. A phase lasts until another begins; on an accelerator each switch waits for it.

    Attributes:
        seconds: by (phase of the step, part): the part is empty but for forward and backward.
        named: whether phases are named in the trace of torch's profiler.
        entered: what went on where a module that is not done yet was entered.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.named = False
        self.now = (REST, "")
        self.entered: list[tuple[str, str]] = []
        self._since: float | None = None

    def start(self) -> None:
        """From here on time counts."""
        self._wait()
        self._since, self.now = time.perf_counter(), (REST, "")

    def stop(self) -> None:
        """Time counts no longer."""
        self.switch(REST, "")
        self._since = None

    def switch(self, phase: str, part: str = "") -> None:
        """Begin a phase; nothing where time does not count."""
        if self._since is None:
            return
        self._wait()
        now = time.perf_counter()
        self.seconds[self.now] += now - self._since
        self._since, self.now = now, (phase, part)

    @contextmanager
    def phase(self, phase: str, part: str = "") -> Iterator[None]:
        """A phase for the time of the body; then the one of before goes on."""
        before = self.now
        self.switch(phase, part)
        try:
            with record_function(f"{phase} {part}".strip()) if self.named else nullcontext():
                yield
        finally:
            self.switch(*before)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@contextmanager
def watched(watch: Stopwatch, model: Any) -> Iterator[None]:
    """In the body the parts of a model switch the stopwatch, forward and backward.

    On the way back a part begins where the gradient of what it gave arrives, and lasts until another one's does. That
    a layer computes once more there is its part's time on the way back.
    """
    with ExitStack() as stack:
        for module, part in _modules(model):
            stack.callback(module.register_forward_pre_hook(_entering(watch, part)).remove)
            stack.callback(module.register_forward_hook(_leaving(watch, part)).remove)
        encoder = getattr(model, "encoder", None)
        if hasattr(encoder, "together"):
            # A tower that looks at a picture's tiles together is called by another name.
            stack.enter_context(_method(encoder, "together", watch, "encoder"))
        yield


def _modules(model: Any) -> Iterator[tuple[nn.Module, str]]:
    for name, part in model.parts().items():
        if name == LANGUAGE_MODEL and hasattr(model, "get_decoder"):
            # Its head is not among it.
            part = model.get_decoder()
        yield part, name
    gated = getattr(model, "gated", None)
    for layer in gated.layers if gated is not None else ():
        # They are the connector's and run inside the language model.
        yield layer, CONNECTOR


_Hook = Callable[..., None]


def _entering(watch: Stopwatch, part: str) -> _Hook:
    def enter(module: nn.Module, args: Any) -> None:
        # Hooks stand outside of checkpoints, so that this is the way there.
        watch.entered.append(watch.now)
        watch.switch(FORWARD, part)
        if part == CONNECTOR and watch.entered[-1] == (FORWARD, LANGUAGE_MODEL) and args and args[0].requires_grad:
            # A gated layer: on the way back the language model goes on behind it.
            args[0].register_hook(lambda grad: watch.switch(BACKWARD, LANGUAGE_MODEL))

    return enter


def _leaving(watch: Stopwatch, part: str) -> _Hook:
    def leave(module: nn.Module, args: Any, output: Any) -> None:
        _mark(watch, part, output)
        before = watch.entered.pop()
        watch.switch(*((FORWARD, HEAD) if part == LANGUAGE_MODEL else before))

    return leave


def _mark(watch: Stopwatch, part: str, output: Any) -> None:
    """When the gradient of what a part gave is there, its way back begins."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            output.register_hook(lambda grad: watch.switch(BACKWARD, part))
    elif hasattr(output, "last_hidden_state"):
        _mark(watch, part, output.last_hidden_state)
    elif isinstance(output, (list, tuple)):
        for one in output:
            _mark(watch, part, one)


@contextmanager
def _method(owner: Any, name: str, watch: Stopwatch, part: str) -> Iterator[None]:
    usual = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        with watch.phase(FORWARD, part):
            output = usual(*args, **kwargs)
            _mark(watch, part, output)
        return output

    setattr(owner, name, called)
    try:
        yield
    finally:
        delattr(owner, name)
