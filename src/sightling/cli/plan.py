"""``sightling plan RECIPE``: what a training will need, before it is begun."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from sightling.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

LONGEST = 10.0
"""Seconds that the probe of this machine may take."""


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `sightling recipes`) or its .yaml file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys to set, such as stages.align.per_device_train_batch_size=16."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads to compute with.", show_default="all cores")
    ] = None,
    probe: Annotated[
        float, typer.Option("--probe", help="Seconds, at most 10, to time this machine for; 0 tells no times.")
    ] = LONGEST,
    processes: Annotated[
        int | None,
        typer.Option("--processes", help="Processes that a launcher starts.", show_default="WORLD_SIZE, or 1"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell parameters, memory, tokens, operations and time of each stage. No model is allocated, nothing is written."""
    from sightling.train.recipe import load_recipe

    # Before the heavy imports: a wrong name, key or number is told at once.
    resolved = load_recipe(recipe, overrides or [])
    if not 0 <= probe <= LONGEST:
        raise UserError(f"--probe {probe:g} is wrong; give seconds from 0 to {LONGEST:g}")
    started = _started(processes)
    from sightling.loading import quiet
    from sightling.train.memory import bound_kernels
    from sightling.train.planning import plan_recipe
    from sightling.train.precision import choose_threads
    from sightling.train.processes import wanted

    bound_kernels()
    # A launcher's processes share no batch, as in training.
    share = 1 if processes is not None else wanted(resolved.cpu_processes)
    count = int(choose_threads(threads, share).value)
    with quiet():
        found = plan_recipe(
            resolved, threads=count, share=share, probe_seconds=probe, processes=started if share == 1 else 1
        )
    if as_json:
        typer.echo(json.dumps(found.told()))
        return
    from rich.console import Console

    from sightling.train.plan_text import show

    show(found, Console())


def _started(asked: int | None) -> int:
    """How many processes a launcher starts: as asked, or as it said itself.

    Raises:
        UserError: no number of processes.
    """
    told, where = (os.environ.get("WORLD_SIZE", "1"), "WORLD_SIZE") if asked is None else (str(asked), "--processes")
    if not told.isdecimal() or int(told) < 1:
        raise UserError(f"{where} {told} is wrong; give a number of processes, at least 1")
    return int(told)
