"""Ctrl-C and SIGTERM: a run stops where it can be continued, and says so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """The run was told to stop; everything needed to continue it is on disk.

    The command line prints the message and ends with ``exit_code``: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopNow(KeyboardInterrupt):
    """Raised inside whatever is running when no step boundary is to be waited for."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Stopping:
    """Context in which SIGINT and SIGTERM ask for a stop instead of killing.

    Within :meth:`at_a_boundary` the first signal only sets :attr:`asked`, a second one stops at once;
    elsewhere the first one does. Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._waits = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    @contextmanager
    def at_a_boundary(self) -> Iterator[None]:
        """The body looks at :attr:`asked` itself, between steps."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._waits and not self.asked:
            self.asked = signum
            # A step may take a while. Not print(): a handler may run within another print.
            os.write(2, b"\nstopping after this step; once more stops at once\n")
            return
        raise StopNow(signum)


def leave_to_parent(worker: int) -> None:
    """For data workers: Ctrl-C reaches the whole process group, and only the parent may act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
