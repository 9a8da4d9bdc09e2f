"""Trials in processes, some at a time; told to stop, each saves what it has learnt."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

from sightling.errors import UserError
from sightling.studies.worker import do, environment, read_task
from sightling.train.stopping import Interrupted, StopNow, Stopping

# Not -m, which would import whatever lies in the folder that a user stands in.
_START = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "from sightling.studies.worker import main; main(sys.argv[1])"
)

PROGRAM = (sys.executable, "-c", _START)

Start = Callable[[Path, Path, int], str | None]
"""``(task file, log file, threads)`` to what went wrong in one sentence, or ``None``."""


class Processes:
    """Starts each task as a process of its own, in a session of its own: Ctrl-C reaches this process alone."""

    def __init__(self, program: tuple[str, ...] = PROGRAM) -> None:
        self.program = program
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._closed = False

    def __call__(self, task: Path, log: Path, threads: int) -> str | None:
        """Run one to its end."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            with self._lock:
                if self._closed:
                    return "it was not started"
                process = subprocess.Popen(
                    [*self.program, str(task)],
                    env=environment(threads),
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
                assert process.stdin is not None
                process.stdin.close()
        return None if code == 0 else _complaint(code, log)

    def stop(self, signum: int) -> None:
        """Tell all that run to save and end; none starts any more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.send_signal(signum)


def _complaint(code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == UserError.exit_code and lines:
        return lines[-1].removeprefix("error: ")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}; {log} has its last words"


def here(task: Path, log: Path, threads: int) -> str | None:
    """Runs a task in this process, for tests and for who has one process only."""
    try:
        do(read_task(task))
    except UserError as error:
        return str(error)
    return None


def run_all(
    tasks: Mapping[str, tuple[Path, Path]],
    tell: Callable[[str, str | None], None],
    start: Start | None,
    *,
    jobs: int,
    threads: int,
) -> None:
    """Run every task (its file and its log), and ``tell`` (name, what went wrong or ``None``) of each as it ends.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; every process has saved what it had learnt and ended. A second signal
            ends them at once.
    """
    processes = Processes()
    with Stopping(), ThreadPoolExecutor(jobs) as executor:
        left: dict[Future[str | None], str] = {}
        try:
            for name, (task, log) in tasks.items():
                left[executor.submit(start or processes, task, log, threads)] = name
            while left:
                done, _ = wait(left, return_when=FIRST_COMPLETED)
                # Those that ended in the same moment are told in the order in which they were started.
                for future in [one for one in left if one in done]:
                    tell(left.pop(future), future.result())
        except StopNow as stop:
            processes.stop(stop.signum)
            try:
                executor.shutdown(wait=True, cancel_futures=True)
            except StopNow:
                processes.stop(signal.SIGKILL)
            raise Interrupted("the study was stopped", stop.signum) from None
        except BaseException:
            processes.stop(signal.SIGTERM)
            executor.shutdown(wait=True, cancel_futures=True)
            raise
