"""``--profile``: where the steps of a stage go, and how much of what this machine can do they do.

After a stage's first step come as many steps as asked for three times: with all products counted, with a stopwatch, and
under torch's profiler, whose trace goes into the run's folder. The weights are those of a run that nobody looks at.

Model FLOP utilisation is Chowdhery et al.'s (2022, "PaLM", arXiv:2204.02311, appendix B): the floating-point operations
that the model's products need, forward and backward, by the time of a step, as a share of what the machine does in
large products. Theirs follow from parameters and tokens; here every product is counted as ``sightling plan`` counts it,
by the formulas of ``torch.utils.flop_counter``, two for a multiplication and an addition. What checkpointing computes
once more does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from sightling.errors import UserError
from sightling.model.recomputing import recomputing
from sightling.train.dry import FORMULAS
from sightling.train.loop import StageLoop
from sightling.train.precision import precision_name
from sightling.train.probe import Probe
from sightling.train.progress import short_flops
from sightling.train.watch import BACKWARD, FORWARD, Stopwatch, watched

FOLDER = "profile"
"""Of a run: holds a trace a stage."""

SECONDS = 2.0
"""For measuring the machine, at most."""


class Products(TorchDispatchMode):
    """Context that counts the floating-point operations of all products; it changes no number.

    Attributes:
        flops: of what the model computes.
        again: of what it computes once more on the way back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.again = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            count = int(formula(*args, **(kwargs or {}), out_val=out))
            if recomputing():
                self.again += count
            else:
                self.flops += count
        return out


class Profile:
    """Profiles the stages of a run.

    Args:
        steps: of each kind.
        folder: the run's.
        console: where the tables go.

    Raises:
        UserError: less than one step.
    """

    def __init__(self, steps: int, folder: Path, console: Console) -> None:
        if steps < 1:
            raise UserError(f"--profile {steps} is too few; at least 1 step is needed")
        self.steps, self.folder, self.console = steps, folder / FOLDER, console

    def update(self, loop: StageLoop) -> Callable[[Any, int], float | None]:
        """What the loop calls for its steps in place of its own ``update``."""
        left, needed = loop.total - loop.step, 1 + 3 * self.steps
        if left < needed:
            loop.progress.say(f"stage {loop.name} is not profiled: that takes {needed} steps, and {left} are left")
            return loop.update
        return _StageProfile(self, loop).update


class _StageProfile:
    """One stage's steps."""

    def __init__(self, profile: Profile, loop: StageLoop) -> None:
        self.profile, self.loop = profile, loop
        self.products = Products()
        self.tokens = {"counted": 0, "timed": 0}
        self.path = profile.folder / f"{loop.name}.json.gz"

    def update(self, source: Any, first: int) -> float | None:
        """The loop's own, looked at as the step's number says."""
        number, steps = self.loop.step - first, self.profile.steps
        kinds = [self._counted, self._timed, self._traced]
        if not 1 <= number <= 3 * steps:
            return self.loop.update(source, first)
        turn, place = divmod(number - 1, steps)
        with kinds[turn](place):
            return self.loop.update(source, first)

    @contextmanager
    def _tokens(self, kind: str) -> Iterator[None]:
        before = self.loop.window.numbers["tokens"]
        yield
        self.tokens[kind] += self.loop.window.numbers["tokens"] - before

    @contextmanager
    def _counted(self, place: int) -> Iterator[None]:
        # Compiled code hides its products.
        eager = torch.compiler.set_stance("force_eager") if self.loop.stage.torch_compile else nullcontext()
        with self._tokens("counted"), eager, self.products:
            yield

    @contextmanager
    def _timed(self, place: int) -> Iterator[None]:
        watch = self.loop.watch
        with self._tokens("timed"), watched(watch, self.loop.model):
            watch.start()
            yield
            watch.stop()
        if place == self.profile.steps - 1:
            self._show()

    @contextmanager
    def _traced(self, place: int) -> Iterator[None]:
        if place == 0:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if self.loop.device.type == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self.profiler = torch.profiler.profile(activities=kinds)
            self.profiler.start()
            self.loop.watch.named = True
        yield
        if place == self.profile.steps - 1:
            self.loop.watch.named = False
            self.profiler.stop()
            self.path.parent.mkdir(exist_ok=True)
            self.profiler.export_chrome_trace(str(self.path))
            self.loop.progress.say(f"trace: {self.path}, for https://ui.perfetto.dev or chrome://tracing")

    def _show(self) -> None:
        seconds, steps = self.loop.watch.seconds, self.profile.steps
        whole = sum(seconds.values())
        title = f"stage {self.loop.name}: a step of {whole / steps:.3g} s, the mean of {steps}"
        self.profile.console.print(table(self.loop.watch, steps, title))
        flops = self.products.flops / max(1, self.tokens["counted"]) * self.tokens["timed"]
        again = self.products.again / max(1, self.products.flops)
        probe = Probe(self.loop.device, SECONDS)
        ceiling = probe.product_rate(torch.bfloat16 if self.loop.bf16 else torch.float32)
        for line in lines(flops / steps, again, whole / steps, ceiling, precision_name(self.loop.bf16)):
            self.loop.progress.say(line)


def table(watch: Stopwatch, steps: int, title: str) -> Table:
    """Seconds of a step by part, forward and backward."""
    seconds = watch.seconds
    whole = sum(seconds.values())
    found = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("part", "forward", "backward", "all", "share"):
        found.add_column(heading, justify="left" if heading == "part" else "right")
    names = [part for phase, part in seconds if phase in (FORWARD, BACKWARD)]
    rows = [(name.replace("_", " "), seconds.get((FORWARD, name)), seconds.get((BACKWARD, name)))
            for name in dict.fromkeys(names)]  # fmt: skip
    for name, there, back in rows:
        both = (there or 0.0) + (back or 0.0)
        each = [_short(time, steps) for time in (there, back, both)]
        found.add_row(name, *each, f"{100 * both / whole:.0f} %")
    for phase in dict.fromkeys(phase for phase, _ in seconds if phase not in (FORWARD, BACKWARD)):
        own = seconds[phase, ""]
        found.add_row(phase, "", "", _short(own, steps), f"{100 * own / whole:.0f} %")
    return found


def _short(seconds: float | None, steps: int) -> str:
    if seconds is None:
        return ""
    each = 1000 * seconds / steps
    return f"{each:,.0f} ms" if each >= 100 else f"{each:.3g} ms"


def lines(flops: float, again: float, seconds: float, ceiling: float, precision: str) -> Iterator[str]:
    """What is told of the operations of a step."""
    more = f", and {100 * again:.0f} % more that checkpointing does twice" if again else ""
    yield (
        f"products of the model: {short_flops(flops)} a step, forward and backward{more}; counted by the formulas of "
        "torch.utils.flop_counter, for as many tokens as the steps above had"
    )
    yield (
        f"model FLOP utilisation: {100 * flops / seconds / ceiling:.1f} %, {short_flops(flops / seconds)}/s of the "
        f"{short_flops(ceiling)}/s of a large {precision} product here"
    )
