"""``sightling recipes``: what can be grown, one line each."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recipes() -> None:
    """List the recipes that come with sightling, with one line each."""
    from sightling.train.recipe import list_recipes

    known = list_recipes()
    width = max((len(name) for name, _ in known), default=0)
    for name, line in known:
        typer.echo(f"{name:<{width}}  {line}".rstrip())
