"""``sightling export MODEL TARGET --layout llava``: a model in another project's layout, or one of theirs in ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightling.errors import UserError
from sightling.foreign import FILE_LAYOUTS, LAYOUTS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NAMES = sorted({*LAYOUTS.values(), *FILE_LAYOUTS})


@app.command()
def export(
    model: Annotated[
        Path, typer.Argument(help="A model's folder, ours or in a layout that is known, or a run's; or a .pth file.")
    ],
    target: Annotated[Path, typer.Argument(help="A new folder, or for a layout of one file the file.")],
    layout: Annotated[
        str | None, typer.Option("--layout", help=f"One of {', '.join(NAMES)}.", show_default="our own")
    ] = None,
    tower: Annotated[Path | None, typer.Option("--tower", help="For a .pth file: the image tower's folder.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="For a .pth file: the tokenizer's folder.")
    ] = None,
) -> None:
    """Write a model in another project's layout, every weight as it is; or read one of theirs and write ours."""
    if model.suffix == ".pth" and (tower is None or tokenizer is None):
        raise UserError(f"{model} holds neither its image tower nor its tokenizer; give --tower and --tokenizer")
    if model.suffix != ".pth" and (tower is not None or tokenizer is not None):
        raise UserError("--tower and --tokenizer are for a .pth file; a model's folder holds its own")
    from sightling.interop.writing import check_target, save
    from sightling.loading import load, quiet

    check_target(target, layout)
    if tower is not None and tokenizer is not None:
        from sightling.interop.minimind_v import read

        with quiet():
            opened, processor = read(model, tower=tower, tokenizer=tokenizer)
    else:
        opened, processor = load(model, device="cpu")
    with quiet():
        save(opened, processor, target, layout=layout)
    typer.echo(f"wrote {target} in {'our own layout' if layout is None else f'the layout {layout}'}")
