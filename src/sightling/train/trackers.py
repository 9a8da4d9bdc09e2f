"""Where numbers go: always to ``metrics.jsonl`` in the run's folder, and to the trackers that are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sightling.errors import UserError, nearest
from sightling.train.checkpoint import write_text

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "swanlab": "swanlab", "trackio": "trackio"}
"""Trackers that accelerate speaks to and a recipe may name, with the package each needs."""

METRICS = "metrics.jsonl"


def check_trackers(names: Sequence[str], where: str) -> None:
    """Refuse what cannot be reported to.

    Raises:
        UserError: an unknown tracker (with the nearest known one), or a package that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"{where}: report_to: there is no tracker {name!r}; {nearest(name, TRACKERS)}")
        if find_spec(TRACKERS[name]) is None:
            raise UserError(f"{where}: report_to: {name} is not installed; run: pip install {TRACKERS[name]}")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that a crash cut short is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class MetricsFile:
    """``metrics.jsonl``: one line a logging step, each step of a stage once, also after a resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Forget what was written about a stage after a step: it is about to be done again."""
        if not self.path.is_file():
            return
        kept = [line for line in read_metrics(self.path) if not (line["stage"] == stage and line["step"] > step)]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} could not be written: {error.strerror}") from None


class Log:
    """Every record goes to the metrics file and, under ``stage/name``, to the trackers.

    ``offset`` is the number of updates that earlier stages made, so that a run's steps rise throughout.
    """

    def __init__(self, accelerator: Accelerator, metrics: MetricsFile) -> None:
        self.accelerator = accelerator
        self.metrics = metrics
        self.offset = 0

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step; only the first rank does."""
        if not self.accelerator.is_main_process:
            return
        self.metrics.write({"stage": stage, "step": step, **values})
        if self.accelerator.trackers:
            named = {f"{stage}/{name}": value for name, value in values.items()}
            self.accelerator.log(named, step=self.offset + step)


def start_trackers(
    accelerator: Accelerator, *, project: str, run_id: str, folder: Path, config: str, first_step: int
) -> None:
    """Open the trackers of a run, or open them again where it goes on at ``first_step``.

    ``config`` is the resolved recipe, stored with the run where the tracker can.
    """
    accelerator.init_trackers(
        project,
        init_kwargs={
            # What was written after the step that a resumed run starts from is hidden.
            "tensorboard": {"purge_step": first_step},
            "wandb": {"id": run_id, "resume": "allow", "dir": str(folder), "config": {"recipe": config}},
            "swanlab": {"id": run_id, "resume": "allow", "logdir": str(folder / "logs"), "config": {"recipe": config}},
            "trackio": {"name": run_id, "resume": "allow", "config": {"recipe": config}},
        },
    )
