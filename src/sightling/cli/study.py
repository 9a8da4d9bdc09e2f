"""``sightling study NAME``: train several variants with several seeds, and say what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def study(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="A study's name or its .yaml file; left out, they are listed."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys of the study to set, such as seeds=[0,1]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The study's folder.", show_default="runs/study-NAME")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings side by side.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each training.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Check every variant, say what would run, train nothing.")
    ] = False,
) -> None:
    """Answer a question by training: every variant with every seed, with intervals and a verdict on each claim.

    The same command continues after Ctrl-C, a crash or a kill; what is finished is not trained again.
    """
    from sightling.studies.study import list_studies, load_study

    if name is None:
        known = list_studies()
        width = max((len(each) for each, _ in known), default=0)
        for each, question in known:
            typer.echo(f"{each:<{width}}  {question}".rstrip())
        return
    told = load_study(name, overrides or [])

    from rich.console import Console

    from sightling.studies.run import REPORT, run_study
    from sightling.studies.terminal import print_plan, print_study

    console = Console()
    if check:
        print_plan(console, told)
        return
    results, folder = run_study(told, output, jobs=jobs, threads=threads, console=console)
    print_study(console, results)
    console.print(f"report: {folder / REPORT}", highlight=False, markup=False, soft_wrap=True)
