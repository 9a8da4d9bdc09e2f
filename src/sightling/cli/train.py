"""``sightling train RECIPE``: grow a model, or go on growing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightling.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `sightling recipes`) or its .yaml file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys to set, such as stages.align.learning_rate=1e-3."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder.", show_default="runs/NAME-OF-THE-RECIPE")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads to compute with.", show_default="all cores")
    ] = None,
    profile: Annotated[
        int | None,
        typer.Option(
            "--profile",
            metavar="STEPS",
            help="Tell where so many steps of each stage go, and write a trace of as many into the run's folder.",
            show_default="nothing is profiled",
        ),
    ] = None,
) -> None:
    """Grow a model by a recipe, stage by stage.

    The same command continues after Ctrl-C, a crash or a kill. Ctrl-C saves first; a second Ctrl-C does not wait.
    """
    from sightling.train.processes import check_share, helpers, wanted
    from sightling.train.recipe import load_recipe

    # Before the heavy imports: a wrong name or key is told at once.
    resolved = load_recipe(recipe, overrides or [])
    if profile is not None and profile < 1:
        raise UserError(f"--profile {profile} is too few; at least 1 step is needed")
    share = wanted(resolved.cpu_processes)
    check_share(resolved, share)
    arguments = ["train", recipe, *(overrides or [])]
    arguments += ["--output", str(output)] if output is not None else []
    arguments += ["--threads", str(threads)] if threads is not None else []
    with helpers(share, arguments):
        from sightling.train.run import run

        run(resolved, output, threads=threads, share=share, profile=profile)
