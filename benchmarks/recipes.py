"""A recipe from beginning to end: time, peak memory, and what the model answers, in one table.

Runs the two commands that a user would, in the folder that the recipe's data are relative to, and watches them.

    python benchmarks/recipes.py quickstart
    python benchmarks/recipes.py easy-vqa --data FOLDER_THAT_HOLDS_easy_vqa
    python benchmarks/recipes.py emoji --data FOLDER_THAT_HOLDS_names.csv

Time is that of the commands, installation not counted. Memory is the sum over all processes of their proportional set
size (shared pages counted once; the resident size where the system does not tell), looked at every second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

EVERY = 1.0


def held(process: psutil.Process) -> int:
    """Bytes that a process and all that it started hold at this moment."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            told = one.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(told, "pss", 0) or told.rss
    return total


def watched(command: list[str], folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of a command that must end well."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=folder) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak = max(peak, held(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(EVERY)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {running.returncode}")
    return time.perf_counter() - started, peak


def main() -> None:
    """Train, evaluate, print; write JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder to start in")
    parser.add_argument("--run", type=Path, help="where the run goes and stays; otherwise it is thrown away")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    told = parser.parse_args()
    if told.run is not None and told.run.exists():
        raise SystemExit(f"{told.run} exists; a run that goes on would not be timed whole")
    with tempfile.TemporaryDirectory() as scratch:
        run = (told.run or Path(scratch) / "run").resolve()
        program = [sys.executable, "-m", "sightling"]
        train = watched([*program, "train", told.recipe, *told.overrides, "--output", str(run)], told.data)
        evaluate = watched([*program, "evaluate", str(run)], told.data)
        results: dict[str, Any] = json.loads((run / "evaluation" / "results.json").read_text(encoding="utf-8"))
    result = {
        "recipe": told.recipe,
        "train_seconds": train[0],
        "evaluate_seconds": evaluate[0],
        "peak_bytes": max(train[1], evaluate[1]),
        "cells": results["cells"],
        "captions": results["captions"],
        "gaps": results["gaps"],
    }
    table = Table("", "", title=told.recipe)
    table.add_row("training", f"{train[0] / 60:.1f} min, {train[1] / 2**30:.2f} GiB at most")
    table.add_row("evaluation", f"{evaluate[0] / 60:.1f} min, {evaluate[1] / 2**30:.2f} GiB at most")
    Console().print(table)
    told.output.mkdir(parents=True, exist_ok=True)
    (told.output / f"{told.recipe}.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
