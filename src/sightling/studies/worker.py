"""One trial in a process of its own: train, keep the models of the way, measure them.

What is done already is not done again, so the same task may be started as often as it is stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightling.errors import UserError
from sightling.train.checkpoint import write_text
from sightling.train.processes import end_with_parent
from sightling.train.recipe import parse_recipe, read_recipe
from sightling.train.runfolder import RECIPE, essence, kept_model
from sightling.train.stopping import Interrupted, StopNow, Stopping

SECTION = "section.json"
"""In the folder of an evaluation: what was asked. It is written last, so that it says the rest is there."""


@dataclass(frozen=True)
class Task:
    """What a worker does.

    Attributes:
        name: for people.
        recipe: the resolved recipe as plain data.
        source: where the recipe came from, for error messages.
        folder: the run's folder.
        threads: to compute with.
        stage: the stage that ``points`` are of.
        points: share of the stage to its update, the end among them; empty for a rehearsal.
        sections: evaluate sections by name, with their data.
    """

    name: str
    recipe: dict[str, Any]
    source: str
    folder: str
    threads: int
    stage: str
    points: dict[str, int]
    sections: dict[str, dict[str, Any]]

    def write(self, path: Path) -> None:
        """As a file.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        write_text(path, json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")


def read_task(path: Path) -> Task:
    """A task from its file."""
    return Task(**json.loads(path.read_text(encoding="utf-8")))


def evaluation_folder(run: Path, point: str, name: str) -> Path:
    """Where an evaluation of a trial is."""
    return run / "evaluation" / point / name


def do(task: Task) -> None:
    """Train and measure, or go on with it.

    Raises:
        UserError: bad input, a full disk, a loss that is not finite.
        Interrupted: it was told to stop; what was learnt is saved.
    """
    from sightling.train.run import run

    recipe = parse_recipe(task.recipe, task.source)
    folder = Path(task.folder)
    end = max(task.points.values(), default=0)
    keep = {task.stage: frozenset(step for step in task.points.values() if step < end)}
    # A run that is finished is found so, and one that was grown by another recipe is refused.
    run(recipe, folder, threads=task.threads, keep=keep)
    for point, step in task.points.items():
        model = folder / "model" if step == end else kept_model(folder, task.stage, step)
        todo = {}
        for name, section in task.sections.items():
            if not _measured(evaluation_folder(folder, point, name), section):
                todo[name] = section
        if todo:
            _measure(task, model, point, todo)


def is_done(task: Task) -> bool:
    """Whether a task's model is trained, by this very recipe, and measured wherever it is to be."""
    folder = Path(task.folder)
    if not (folder / "model").is_dir() or not (folder / RECIPE).is_file():
        return False
    grown = parse_recipe(*read_recipe(folder / RECIPE))
    same = essence(grown) == essence(parse_recipe(task.recipe, task.source))
    return same and all(
        _measured(evaluation_folder(folder, point, name), section)
        for point in task.points
        for name, section in task.sections.items()
    )


def _measured(folder: Path, section: Mapping[str, Any]) -> bool:
    path = folder / SECTION
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == section


def _measure(task: Task, model_folder: Path, point: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Ask a model everything that is still to be asked at a point."""
    from sightling import load
    from sightling.evaluate.results import measure
    from sightling.evaluate.run import answer, describe_model, gather, write_files
    from sightling.evaluate.section import Place, plan_section
    from sightling.train.precision import choose_threads

    if not model_folder.is_dir():
        raise UserError(
            f"{model_folder} is not there: this run was trained when other points were asked for; delete {task.folder} "
            "to train it again, or set budget.at as it was"
        )
    choose_threads(task.threads)
    recipe = parse_recipe(task.recipe, task.source)
    model, processor = load(model_folder)
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model.to(device)
    place = Place(model_folder, Path(task.folder))
    for name, told in sections.items():
        started = time.perf_counter()
        plan = plan_section(told, f"the study's evaluation {name}", f"evaluate.{name}", recipe, recipe)
        questions = gather(plan)
        asked = time.perf_counter()
        predictions = answer(model, processor, questions)
        seconds = {"questions": round(asked - started, 2), "answers": round(time.perf_counter() - asked, 2)}
        about = {
            **questions.about,
            **describe_model(place, model, processor),
            "command": f"sightling evaluate {model_folder}",
            "rank": plan.section.rank,
            "seconds": seconds,
            "device": str(device),
            "peak_memory_bytes": 0,
            "created": time.strftime("%Y-%m-%d %H:%M"),
        }
        folder = evaluation_folder(Path(task.folder), point, name)
        write_files(folder, measure(predictions, about), [])
        write_text(folder / SECTION, json.dumps(told, ensure_ascii=False) + "\n")
        print(f"{task.name}: measured {name} at {point} of the training", flush=True)


def main(path: str) -> None:
    """Do the task of a file and exit: 0, 2 for bad input (the last line says what), 130 or 143 when told to stop."""
    end_with_parent()
    try:
        with Stopping():
            do(read_task(Path(path)))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        sys.exit(stop.exit_code)
    except StopNow as stop:
        print("stopped between two measurements", file=sys.stderr, flush=True)
        sys.exit(128 + stop.signum)
    finally:
        # The thread that waits for the parent reads for ever; nothing else is open.
        sys.stdout.flush()


def environment(threads: int) -> dict[str, str]:
    """What a worker's process is started with: this one's, with the number of threads said and no launcher's marks."""
    left_out = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SIGHTLING_SHARE")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**kept, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
