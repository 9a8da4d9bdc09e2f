"""``sightling recipes``: what can be grown, one line each; or one of them, with its sizes."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe's name or file: its parameters and stages.")] = None,
) -> None:
    """List the recipes that come with sightling, with one line each; or one's parameters by part and its stages."""
    from sightling.train.recipe import list_recipes

    if name is not None:
        _one(name)
        return
    known = list_recipes()
    width = max((len(name) for name, _ in known), default=0)
    for name, line in known:
        typer.echo(f"{name:<{width}}  {line}".rstrip())


def _one(name: str) -> None:
    from sightling.model.parameters import count_parameters
    from sightling.train.recipe import StepStage, load_recipe

    recipe = load_recipe(name)
    typer.echo(f"{recipe.name}: {recipe.description}")
    trained = [stage.options() for stage in recipe.stages.values() if isinstance(stage, StepStage)]
    vocabulary = next((stage["vocab_size"] for stage in trained if "vocab_size" in stage), None)
    counts = count_parameters(recipe.model, vocabulary, f"{recipe.source}: model")
    typer.echo(f"parameters: {sum(counts.values()) / 1e6:,.2f} M")
    for part, count in counts.items():
        typer.echo(f"  {part:<14} {count / 1e6:>10,.2f} M")
    typer.echo("stages:")
    width = max(len(stage) for stage in recipe.stages)
    for label, stage in recipe.stages.items():
        if isinstance(stage, StepStage):
            typer.echo(f"  {label:<{width}}  {stage.type}")
            continue
        rates = stage.train.described(stage.learning_rate)
        told = ", ".join(f"{part} at {rate}" for part, rate in rates.items())
        typer.echo(f"  {label:<{width}}  {stage.objective['type']}: trains {told}")
