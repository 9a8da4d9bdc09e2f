"""``sightling merge ADAPTER BASE --output DIR``: an adapter in PEFT's format put into the weights of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder, with adapter_config.json.")],
    base: Annotated[Path, typer.Argument(help="The model that it was trained on: a model's folder or a run's.")],
    output: Annotated[Path, typer.Option("--output", help="A new folder for the merged model.")],
) -> None:
    """Merge a LoRA or DoRA adapter into a model's weights, and tell how far the logits are from the unmerged ones."""
    from sightling.interop.adapters import merge as merged

    done = merged(adapter, base, output)
    many = "1 matrix" if done.matrices == 1 else f"{done.matrices} matrices"
    typer.echo(f"wrote {output}: {base} with the adapter of {many} in its weights")
    typer.echo(
        f"largest difference of logits between merged and unmerged on a sample prompt: {done.difference:.3g} "
        f"(logits reach {done.largest:.3g}; weights are {str(done.dtype).removeprefix('torch.')})"
    )
    if done.quantize:
        far = "" if done.apart is None else f": logits differ by up to {done.apart:.3g}"
        typer.echo(f"the adapter learnt over weights in {done.quantize}, so this model is near that one, not it{far}")
