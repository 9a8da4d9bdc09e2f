"""``sightling data check PATH`` and ``sightling data show PATH``: look at a data set before training on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sightling.data.checks import CheckReport, Spread
    from sightling.data.formats import Record
    from sightling.data.show import Encodes

app = typer.Typer(
    help="Look at a data set: what it is, what is wrong with it, what a model would see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SHOWN_PROBLEMS = 20
PROGRESS_EVERY = 100

DataPath = Annotated[Path, typer.Argument(help="A file, or a folder that holds one data set.")]
FormatName = Annotated[str | None, typer.Option("--format", help="Its format.", show_default="recognised")]
Images = Annotated[
    Path | None, typer.Option("--images", help="What picture paths are relative to.", show_default="the file's folder")
]
FormatOptions = Annotated[
    list[str] | None,
    typer.Option("--option", "-O", metavar="KEY=VALUE", help="An option of the format, such as three=true for nlvr."),
]


@app.command()
def check(
    path: DataPath,
    format: FormatName = None,
    images: Images = None,
    option: FormatOptions = None,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not decode pictures: faster, finds less.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help=f"List all bad records instead of the first {SHOWN_PROBLEMS}.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a data set is and name each bad record. Exits with 0 when it is clean, with 2 when it is not."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from sightling.data.checks import check as look_through

    columns = (SpinnerColumn(), TextColumn("{task.completed:,} records"))
    console = Console(stderr=True)
    # Where nobody watches, a bar that is taken away leaves an empty line behind.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(records: int) -> None:
            if records % PROGRESS_EVERY == 0:
                bar.update(task, completed=records)

        report = look_through(
            path,
            format,
            images_root=images,
            options=format_options(option),
            decode=not headers_only,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print_report(Console(), report, every)
    if not report.clean:
        raise typer.Exit(2)


@app.command()
def show(
    path: DataPath,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many records.")] = 5,
    format: FormatName = None,
    images: Images = None,
    option: FormatOptions = None,
    seed: Annotated[int, typer.Option("--seed", help="Which records.")] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a self-contained page instead of printing.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A model's folder: show what it sees, and which tokens are supervised."),
    ] = None,
) -> None:
    """Print a few records drawn at random, or write them to an HTML page with their pictures."""
    from rich.console import Console

    from sightling.data.formats import read_records
    from sightling.data.show import page, pick

    # Before the model: wrong data is told at once.
    drawn = pick(read_records(path, format, images_root=images, options=format_options(option)), samples, seed)
    processor = _processor(model) if model is not None else None
    if html is None:
        _print_records(Console(), drawn, processor)
        return
    _write(html, page(drawn, str(path), processor))
    typer.echo(f"wrote {html}")


@app.command()
def clip(
    path: Annotated[Path, typer.Argument(help="The video to write, such as clip.mp4.")],
    family: Annotated[str, typer.Option("--family", help="What is asked about it.")] = "event",
    language: Annotated[str, typer.Option("--language", help="en or zh.")] = "en",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which clip.")] = 0,
    size: Annotated[int, typer.Option("--size", min=16, max=2048, help="Shorter side in pixels.")] = 128,
    seconds: Annotated[float, typer.Option("--seconds", help="How long it lasts.")] = 4.0,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Pictures a second.")] = 8,
) -> None:
    """Write a clip of the small world as a video, and print a question about it with its answer."""
    from sightling.data.series import ClipOptions
    from sightling.parts import validate
    from sightling.world.film import write_clip

    told = {"families": [family], "languages": [language], "synonyms": 0}
    (sample,) = validate(ClipOptions, told, "clip").open(seed).group(0)
    write_clip(sample.meta["clip"], path, size=size, seconds=seconds, rate=rate)
    typer.echo(f"wrote {path}")
    typer.echo(f"{sample.turns[0].text}  {sample.answer}")


def format_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``["three=true"]`` as ``{"three": True}``; values are YAML.

    Raises:
        UserError: no ``=``, or a value that is not YAML.
    """
    import yaml

    from sightling.errors import UserError

    options: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"the option {pair!r} is not KEY=VALUE")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"the value of the option {pair!r} is not YAML") from None
    return options


def _processor(folder: Path) -> Encodes:
    from sightling.loading import load_processor

    return load_processor(folder)


def _write(path: Path, text: str) -> None:
    from sightling.errors import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _print_report(console: Console, report: CheckReport, every: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    about = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    about.add_column(style="dim")
    about.add_column()
    rows: list[tuple[str, str]] = [
        ("data set", report.path),
        ("format", f"{report.format}: {report.description}"),
        ("records", f"{report.records:,}" + (f", of which {report.bad:,} bad" if report.bad else "")),
        ("samples", f"{report.samples:,}" + (f", {report.text_only:,} without a picture" if report.text_only else "")),
        ("turns", f"{report.turns:,}"),
        ("pictures", f"{report.pictures:,}, {report.unique_pictures:,} different"),
        ("question", _spread(report.question_chars, "characters")),
        ("answer", _spread(report.answer_chars, "characters")),
        ("width", _spread(report.width, "pixels")),
        ("height", _spread(report.height, "pixels")),
    ]
    for name, value in rows:
        about.add_row(name, Text(value))
    console.print(about)
    if report.problems:
        shown = report.problems if every else report.problems[:SHOWN_PROBLEMS]
        table = Table(title="bad records", title_justify="left", title_style="bold")
        table.add_column("record", justify="right")
        table.add_column("line", justify="right")
        table.add_column("problem", overflow="fold")
        for problem in shown:
            place = ["" if number is None else str(number) for number in (problem.index, problem.line)]
            table.add_row(*place, Text(problem.problem))
        console.print(table)
        if len(shown) < len(report.problems):
            console.print(f"... and {len(report.problems) - len(shown):,} more problems (--all lists them)")
    console.print(Text("clean" if report.clean else "not clean", style="bold green" if report.clean else "bold red"))


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "none"
    return f"{spread.least:,} to {spread.most:,} {unit}, median {spread.median:,}"


def _print_records(console: Console, records: Sequence[Record], processor: Encodes | None) -> None:
    from rich.text import Text

    from sightling.data.show import IGNORED, shortened, token_runs
    from sightling.errors import UserError

    for record in records:
        console.rule(Text(record.where, style="dim"), align="left")
        for problem in record.problems:
            console.print(Text(problem, style="red"))
        if record.sample is None:
            continue
        for turn in record.sample.turns:
            console.print(_turn(turn))
        console.print(Text("  ".join(f"{k}={shortened(v, 60)}" for k, v in record.sample.meta.items()), style="dim"))
        if processor is None:
            continue
        try:
            encoded = processor.encode(record.sample)
        except UserError as error:
            console.print(Text(str(error), style="red"))
            continue
        counted = sum(label != IGNORED for label in encoded.labels)
        console.print(Text(f"{len(encoded.input_ids)} tokens, {counted} supervised (green):", style="dim"))
        line = Text()
        for run in token_runs(encoded, processor.tokenizer):
            times = f" x {run.repeats}" if run.repeats > 1 else ""
            line.append(run.text.replace("\n", "⏎") + times, style="bold green" if run.supervised else "")
            line.append("|", style="dim")
        console.print(line)


def _turn(turn: Any) -> Text:
    from rich.text import Text

    from sightling.errors import UserError

    line = Text(f"{turn.role}: ", style="bold")
    for part in turn.parts:
        if isinstance(part, str):
            line.append(part, style="not bold")
            continue
        try:
            crop = f" box {part.box}" if part.box is not None else ""
            line.append(f"[{part.name}{crop} {' x '.join(map(str, part.size()))}] ", style="not bold cyan")
        except UserError as error:
            line.append(f"[{error}] ", style="not bold red")
    return line
