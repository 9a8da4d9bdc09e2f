"""Several processes that share the work of one computer without an accelerator.

A small model's operations are too short to be worth cutting in two: on two cores, two processes with a thread and
half of each batch take a quarter less time than one process with two threads. This process is the first of them; it
starts the others with its own command, and they end with it, however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sightling.errors import UserError
from sightling.train.recipe import Recipe, TrainStage

SHARE = "SIGHTLING_SHARE"
"""In the environment of a process that another started: how many share the work."""

GRACE = 10.0
"""Seconds that this process has to notice by itself that another is gone, before it is ended."""

# Not -m, which would import whatever lies in the folder that a user stands in.
_START = "import sys; sys.path[:] = [path for path in sys.path if path]; from sightling.cli import main; main()"

PROGRAM = (sys.executable, "-c", _START)


@dataclass
class Helper:
    """Another process, and what it said."""

    rank: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def complaint(self, of: int) -> str:
        """Why it is gone, in one sentence, with what it said last where it ended by itself."""
        code = self.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        how = "ended too early" if code == 0 else how
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return f"process {self.rank + 1} of {of} {how}" + (f": {lines[-1]}" if lines and code > 0 else "")


def wanted(asked: int) -> int:
    """How many processes share the work here: as the recipe asks, where no accelerator and no launcher is.

    A process that another one started shares with as many as that one said.
    """
    if SHARE in os.environ:
        return int(os.environ[SHARE])
    if asked == 1 or "WORLD_SIZE" in os.environ:
        return 1
    # Data parallelism warns at length that text alone would leave the encoder without gradients; so be it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    return 1 if torch.accelerator.is_available() else asked


def end_with_parent() -> None:
    """For a process that another started: end when that one ends, even if it was killed."""

    def wait() -> None:
        # Nothing is ever written: reading returns when the other end is closed. Not through sys.stdin, whose lock a
        # thread that waits for ever would hold at the exit.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def check_share(recipe: Recipe, share: int) -> None:
    """Refuse batches that cannot be shared evenly.

    Raises:
        UserError: the first one.
    """
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and stage.per_device_train_batch_size % share:
            raise UserError(
                f"{recipe.source}: stages.{name}.per_device_train_batch_size = {stage.per_device_train_batch_size} "
                f"cannot be shared evenly by cpu_processes = {share}; make it a multiple"
            )


@contextmanager
def deaf_to_python() -> Iterator[None]:
    """In the body several processes wait for each other where Python's signal handlers are not run.

    So Ctrl-C and SIGTERM have the system's meaning there: this process ends, and with it those that it started.
    """
    waits = int(os.environ.get("WORLD_SIZE", "1")) > 1 and threading.current_thread() is threading.main_thread()
    kinds = (signal.SIGINT, signal.SIGTERM) if waits else ()
    before = {kind: signal.signal(kind, signal.SIG_DFL) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def helpers(number: int, arguments: Sequence[str], program: Sequence[str] = PROGRAM) -> Iterator[None]:
    """Start ``number - 1`` processes with these command-line arguments, and be the first of all in the body.

    Raises:
        UserError: another process was lost while the body ran, and the body failed for want of it.
    """
    if number == 1 or SHARE in os.environ:
        if SHARE in os.environ:
            end_with_parent()
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port)}  # fmt: skip
    before = dict(os.environ)
    told = shared | {SHARE: str(number)}
    started = [_start(rank, [*program, *arguments], told) for rank in range(1, number)]
    os.environ.update(shared | {"RANK": "0", "LOCAL_RANK": "0"})
    done = threading.Event()
    threading.Thread(target=_watch, args=(started, number, done), daemon=True).start()
    grace = 1.0
    try:
        yield
        grace = GRACE
    except RuntimeError as error:
        # What gloo says of a lost connection does not tell why; the process that is gone does.
        lost = _lost(started) if "gloo" in str(error).lower() else None
        if lost is None:
            raise
        raise UserError(f"{lost.complaint(number)}; the same command goes on from the last checkpoint") from error
    finally:
        done.set()
        _end(started, grace)
        os.environ.clear()
        os.environ.update(before)


def _start(rank: int, command: Sequence[str], more: Mapping[str, str]) -> Helper:
    # Open for as long as the process: _end closes it.
    said = tempfile.TemporaryFile()  # noqa: SIM115
    own: dict[str, Any] = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    # A session of its own: Ctrl-C reaches this process alone, which tells the others between two steps.
    process = subprocess.Popen(
        command,
        env={**os.environ, **more, **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )
    return Helper(rank, process, said)


def _lost(started: Sequence[Helper], patience: float = 1.0) -> Helper | None:
    """The first process that is gone; one that is just going has a moment."""
    deadline = time.monotonic() + patience
    while True:
        for helper in started:
            if helper.process.poll() is not None:
                return helper
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def _watch(started: Sequence[Helper], number: int, done: threading.Event) -> None:
    """End this process when another is lost and this one does not notice: it may wait for it for half an hour."""
    while not done.wait(0.5):
        lost = _lost(started, 0.0)
        # One that has ended well leaves this one to put away what both have made.
        if lost is not None and not done.wait(GRACE if lost.process.returncode else 6 * GRACE):
            print(f"error: {lost.complaint(number)}", file=sys.stderr, flush=True)
            os._exit(1)


def _end(started: Sequence[Helper], grace: float) -> None:
    """Let the others finish what they share with this process, then end them."""
    deadline = time.monotonic() + grace
    for helper in started:
        try:
            helper.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            helper.process.kill()
            helper.process.wait()
        assert helper.process.stdin is not None
        helper.process.stdin.close()
        helper.said.close()
