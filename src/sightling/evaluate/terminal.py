"""The results as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightling.evaluate.metrics import Estimate
from sightling.evaluate.report import (
    counted,
    family_name,
    interval,
    language_name,
    percent,
    point_interval,
    points,
)
from sightling.evaluate.results import TOP, Cell, Results
from sightling.train.progress import short_time

RANGE = "95 %"

T = TypeVar("T")


def print_results(console: Console, results: Results) -> None:
    """What was asked, then a table each for accuracy, lists of choices, languages and captions."""
    about = results.about
    console.print(
        f"{counted(about['questions'], 'question')} about {counted(about['pictures'], 'picture')}, {about['from']}, "
        f"in {short_time(about['seconds']['questions'] + about['seconds']['answers'])}",
        highlight=False, markup=False,
    )  # fmt: skip
    if about["trained_on"]:
        stages = ", ".join(about["trained_on"])
        console.print(Text(f"not held out: stage {stages} learnt from these very samples", style="bold yellow"))
    for table in (_accuracy(results), _partial(results), _top(results), _gaps(results), *_captions(results)):
        if table.row_count:
            console.print()
            console.print(table)


def _table(title: str, *columns: str, names: int = 2) -> Table:
    # Narrow enough for 80 columns.
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for number, column in enumerate(columns):
        dim = "dim" if column == RANGE else ""
        table.add_column(column, justify="left" if number < names else "right", no_wrap=True, style=dim)
    return table


def _rows(results: Results) -> list[tuple[str, Cell]]:
    """(what is written in the first column, the cell): families by language, then all questions."""
    single = [cell for cell in results.cells if cell.family is not None and cell.language is not None]
    whole = [cell for cell in results.cells if cell.family is None and cell.language is not None]
    cells = single + (whole if len(results.families) > 1 else [])
    return _named([(cell.family, cell) for cell in cells])


def _named(rows: Sequence[tuple[str | None, T]]) -> list[tuple[str, T]]:
    """A family's name stands in its first row only."""
    found = []
    before: str | None = ""
    for family, what in rows:
        found.append((family_name(family) if family != before else "", what))
        before = family
    return found


def _with(estimate: Estimate | None) -> tuple[Text, str]:
    """A value and its interval, for two columns."""
    return Text(percent(estimate.value if estimate is not None else None), style="bold"), interval(estimate)


def _accuracy(results: Results) -> Table:
    columns = ("family", "language", "accuracy", RANGE, "blind", "majority", "chance", "n")
    table = _table("exactly right", *columns)
    for name, cell in _rows(results):
        if name and cell.family is None:
            table.add_section()
        table.add_row(
            name, language_name(cell.language), *_with(cell.accuracy), percent(cell.blind.value),
            percent(cell.majority.value), percent(cell.chance), f"{cell.accuracy.n:,}",
        )  # fmt: skip
    return table


def _partial(results: Results) -> Table:
    """What the other pictures are worth: the same model with all of them grey but one."""
    which = results.about.get("partial")
    table = _table(f"the {which} picture alone", "family", "language", "right", RANGE, "all pictures", RANGE, "n")
    for name, cell in _rows(results):
        if cell.partial is not None and cell.partial_gain is not None:
            if name and cell.family is None:
                table.add_section()
            table.add_row(
                name, language_name(cell.language), *_with(cell.partial), points(cell.partial_gain),
                point_interval(cell.partial_gain), f"{cell.accuracy.n:,}",
            )  # fmt: skip
    return table


def _top(results: Results) -> Table:
    columns = ("family", "language", "first", f"top {TOP}", RANGE, "blind", f"commonest {TOP}", "n")
    table = _table(f"the {TOP} likeliest of a list", *columns)
    for name, cell in _rows(results):
        if cell.top:
            top = cell.top
            table.add_row(
                name, language_name(cell.language), percent(top["first"].value), *_with(top["model"]),
                percent(top["blind"].value), percent(top["majority"].value), f"{cell.accuracy.n:,}",
            )  # fmt: skip
    return table


def _gaps(results: Results) -> Table:
    table = _table("between languages", "family", "difference", "points", RANGE)
    shown = [gap for gap in results.gaps if gap.family is not None or len(results.families) > 1]
    for name, gap in _named([(gap.family, gap) for gap in shown]):
        names = f"{language_name(gap.language)} − {language_name(gap.base)}"
        table.add_row(name, names, points(gap.difference), point_interval(gap.difference))
    return table


def _captions(results: Results) -> list[Table]:
    """What is named right of the things there, and what is made up of the things named."""
    right = _table("captions, of the things in the pictures", "family", "language", "right", RANGE, "blind", "things")
    made_up = _table("captions, of the things named", "family", "language", "made up", RANGE, "blind", "named")
    told = [each for each in results.captions if each.family is not None and each.language is not None]
    for name, each in _named([(each.family, each) for each in told]):
        language, seeing, blind = language_name(each.language), each.seeing, each.blind
        right.add_row(name, language, *_with(seeing.right), percent(blind.right.value), f"{seeing.things:,}")
        made_up.add_row(name, language, *_with(seeing.absent), str(_with(blind.absent)[0]), f"{seeing.named:,}")
    return [right, made_up]
