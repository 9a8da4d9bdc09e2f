"""``sightling evaluate MODEL``: what a model can do, next to guessers who never see the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder, or the folder of a run.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="What to evaluate on: a recipe (its evaluate section), the path of a data set, 'world', or a data "
            "section such as '{type: world, image_size: 64}'.",
            show_default="the recipe saved beside the model",
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option("--scenes", "-n", min=1, help="How many pictures.", show_default="300, or a whole data set"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Which held-out scenes.", show_default="the section's, else 1")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the report.", show_default="evaluation in MODEL"),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Such as cpu or cuda:0.", show_default="an accelerator, else cpu")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads to compute with.", show_default="all cores")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Measure a model on pictures it has not seen, and write report.html, results.json and predictions.jsonl.

    Every question is also put to the same model with a grey picture (blind), and to a guesser of commonest answers.
    """
    import json

    from rich.console import Console

    from sightling.evaluate.section import find_model, make_plan

    # Before the heavy imports: a wrong path or key is told at once.
    make_plan(find_model(model), data)

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sightling.evaluate.run import REPORT
    from sightling.evaluate.run import evaluate as measure
    from sightling.evaluate.terminal import print_results
    from sightling.train.precision import choose_threads

    choose_threads(threads)
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("questions", total=None)
        found = measure(
            model, data, scenes=scenes, seed=seed, output=output, device=device,
            progress=lambda what, at, whole: bar.update(task, description=what, completed=at, total=whole),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.results.to_dict(), ensure_ascii=False, indent=1))
        return
    console = Console()
    print_results(console, found.results)
    console.print(f"report: {found.folder / REPORT}", highlight=False, markup=False, soft_wrap=True)
