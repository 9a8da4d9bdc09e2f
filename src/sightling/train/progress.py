"""What a person sees while a stage trains: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_EVERY = 5.0
"""Seconds between lines where there is no terminal."""


def short_time(seconds: float) -> str:
    """A duration for a person: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_bytes(size: float) -> str:
    """Memory for a person: 512 B, 3.4 MiB, 1.2 GiB."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size:.0f} B"


def short_flops(count: float) -> str:
    """Floating-point operations for a person: 12.3 GFLOP."""
    for size, unit in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} FLOP"


class StageProgress:
    """Context that shows one stage's steps. ``quiet`` shows nothing (ranks other than the first)."""

    def __init__(self, console: Console, stage: str, total: int, done: int = 0, quiet: bool = False) -> None:
        self.console = console
        self.stage = stage
        self.total = total
        self.step = done
        self._from = done
        self._started = time.monotonic()
        self._line = self._started
        self._said = {"loss": "-", "speed": "", "left": ""}
        self._bar: Progress | None = None
        if not quiet and console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[said][loss]}"),
                TextColumn("[dim]{task.fields[said][speed]}"),
                TextColumn("{task.fields[said][left]}"),
                console=console,
                transient=False,
            )
            self._task = self._bar.add_task(stage, total=total, completed=done, said=self._said)
        self.quiet = quiet

    def __enter__(self) -> StageProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and self.step > self._from:
            self._print_line()

    def speeds(self, samples: float, tokens: float, padding: float) -> None:
        """Show samples and real tokens a second, and the share of padding among all tokens."""
        self._said["speed"] = f"{samples:,.1f} samples/s {tokens:,.0f} tokens/s padding {100 * padding:.1f}%"

    def advance(self, step: int, loss: float | None) -> None:
        """``step`` updates are done; ``loss`` is the last one known (``None`` keeps the one shown)."""
        self.step = step
        if self.quiet:
            return
        if loss is not None:
            self._said["loss"] = f"{loss:.4f}"
        now = time.monotonic()
        each = (now - self._started) / max(1, step - self._from)
        self._said["left"] = f"{short_time(each * (self.total - step))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        elif now - self._line >= LINE_EVERY:
            self._print_line()
            self._line = now

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _print_line(self) -> None:
        said = [f"{self.stage} {self.step}/{self.total}", f"loss {self._said['loss']}", self._said["speed"]]
        if self.step < self.total:
            said.append(self._said["left"])
        self.console.print("  ".join(part for part in said if part), highlight=False, markup=False, soft_wrap=True)
