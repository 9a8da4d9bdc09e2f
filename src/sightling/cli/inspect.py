"""``sightling inspect MODEL PICTURE``: how a picture becomes tokens, drawn and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightling.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from sightling.data.sample import Picture
    from sightling.model.inspection import Inspection

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NEEDED = "give a model and a picture (sightling inspect MODEL PICTURE), or sightling inspect --recipe RECIPE PICTURE"


@app.command()
def inspect(
    model_and_picture: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PICTURE", help="A model's folder or a run's, unless --recipe is given; then a picture."
        ),
    ],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A packaged recipe or a YAML file in place of a model.")
    ] = None,
    question: Annotated[str, typer.Option("--question", help="What the prompt asks.")] = "What is in the picture?",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The drawing: a .png file, or a folder for it.", show_default="this folder"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw how a picture is tiled, and print what each tile costs and the exact prompt."""
    if len(model_and_picture) != (1 if recipe else 2):
        raise UserError(f"{len(model_and_picture)} names were given; {NEEDED}")
    path = Path(model_and_picture[-1])
    from sightling.data.sample import Picture
    from sightling.sight.video import is_video

    # Before the model: what is wrong with the picture or the question is told at once.
    if is_video(path):
        raise UserError(f"{path} is a video; inspect draws one picture (ask and chat take videos, frame by frame)")
    image = Picture(path=path).load()
    picture = Picture(image=image)
    from sightling.decode.session import checked

    text = checked(question)
    found = _of_recipe(recipe, picture, text) if recipe else _of_model(model_and_picture[0], picture, text)
    target = _target(output, path, str(found.scheme["type"]))
    _draw(found, image, target)
    if as_json:
        about = {"recipe": recipe} if recipe else {"model": model_and_picture[0]}
        told = {**about, "picture": str(path), "question": text, **found.told(), "drawing": str(target)}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    from sightling.model.inspection_text import lines

    for line in lines(found):
        typer.echo(line)
    typer.echo(f"\nwrote {target}")


def _of_model(folder: str, picture: Picture, text: str) -> Inspection:
    from sightling.loading import load_processor
    from sightling.model.inspection import inspect_model

    return inspect_model(load_processor(Path(folder)), picture, text)


def _of_recipe(name: str, picture: Picture, text: str) -> Inspection:
    from sightling.loading import quiet
    from sightling.model.inspection import inspect_recipe
    from sightling.train.recipe import StepStage, load_recipe

    recipe = load_recipe(name)
    stages: Any = recipe.stages.items()
    trains = [name for name, stage in stages if isinstance(stage, StepStage) and stage.type == "tokenizer"]
    with quiet():
        return inspect_recipe(
            recipe.model,
            picture,
            text,
            where=f"{recipe.source}: model",
            trained_by=trains[0] if trains else None,
        )


def _target(output: Path | None, picture: Path, scheme: str) -> Path:
    """The file to write, never the picture itself."""
    output = output or Path()
    named = output.suffix.lower() == ".png" and not output.is_dir()
    if not named and output.is_file():
        raise UserError(f"{output} is a file and does not end in .png; give a .png file or a folder")
    target = output if named else output / f"{picture.stem}.{scheme}.png"
    if target.exists() and target.samefile(picture):
        raise UserError(f"the drawing would overwrite the picture {picture}; give another --output")
    return target


def _draw(found: Inspection, image: Image.Image, target: Path) -> None:
    from sightling.sight.drawing import draw_plan, save_png

    counts = [tile.tokens for tile in found.tiles]
    inputs = f"{len(counts)} encoder input" + ("s" if len(counts) > 1 else "")
    title = f"{found.scheme['type']}: {inputs}, {found.total:,} visual tokens"
    notes = [f"{count:+,} {name}" for name, count in found.beside.items()]
    save_png(draw_plan(image, found.plan, counts, title, notes).image, target)
