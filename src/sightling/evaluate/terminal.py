"""The results as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightling.evaluate.metrics import Estimate
from sightling.evaluate.report import family_name, interval, language_name, percent, point_interval, points
from sightling.evaluate.results import TOP, Cell, Results
from sightling.train.progress import short_time


def print_results(console: Console, results: Results) -> None:
    """What was asked, then a table each for accuracy, lists of choices, languages and captions."""
    about = results.about
    console.print(
        f"{about['questions']:,} questions about {about['pictures']:,} pictures, {about['from']}, "
        f"in {short_time(about['seconds']['questions'] + about['seconds']['answers'])}",
        highlight=False, markup=False,
    )  # fmt: skip
    if about["trained_on"]:
        stages = ", ".join(about["trained_on"])
        console.print(Text(f"not held out: stage {stages} learnt from these very samples", style="bold yellow"))
    for table in (_accuracy(results), _top(results), _gaps(results), _captions(results)):
        if table.row_count:
            console.print(table)


def _table(title: str, *columns: str, names: int = 2) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < names else "right", no_wrap=True)
    return table


def _with(estimate: Estimate | None) -> Text:
    if estimate is None:
        return Text("–")
    return Text.assemble((percent(estimate.value), "bold"), (f"  {interval(estimate)}", "dim"))


def _rows(results: Results) -> list[Cell]:
    """Families by language, then all questions."""
    single = [cell for cell in results.cells if cell.family is not None and cell.language is not None]
    return single + [cell for cell in results.cells if cell.family is None and cell.language is not None]


def _accuracy(results: Results) -> Table:
    columns = ("family", "language", "accuracy, 95 %", "blind", "majority", "chance", "n")
    table = _table("exactly right", *columns)
    ended = False
    for cell in _rows(results):
        if cell.family is None and not ended:
            table.add_section()
            ended = True
        table.add_row(
            family_name(cell.family), language_name(cell.language), _with(cell.accuracy), percent(cell.blind.value),
            percent(cell.majority.value), percent(cell.chance), f"{cell.accuracy.n:,}",
        )  # fmt: skip
    return table


def _top(results: Results) -> Table:
    columns = ("family", "language", "first, 95 %", f"top {TOP}, 95 %", f"blind top {TOP}", f"commonest {TOP}", "n")
    table = _table(f"the {TOP} likeliest of a list", *columns)
    for cell in _rows(results):
        if cell.top:
            top = cell.top
            table.add_row(
                family_name(cell.family), language_name(cell.language), _with(top["first"]), _with(top["model"]),
                percent(top["blind"].value), percent(top["majority"].value), f"{cell.accuracy.n:,}",
            )  # fmt: skip
    return table


def _gaps(results: Results) -> Table:
    table = _table("between languages", "family", "difference", "points", "95 %")
    for gap in results.gaps:
        names = f"{language_name(gap.language)} − {language_name(gap.base)}"
        table.add_row(family_name(gap.family), names, points(gap.difference), point_interval(gap.difference))
    return table


def _captions(results: Results) -> Table:
    columns = ("family", "language", "things named right, 95 %", "blind", "made up of named, 95 %", "blind", "things")
    table = _table("captions", *columns)
    for each in results.captions:
        if each.family is not None and each.language is not None:
            blind = each.blind.absent
            table.add_row(
                family_name(each.family), language_name(each.language), _with(each.seeing.right),
                percent(each.blind.right.value), _with(each.seeing.absent),
                percent(blind.value if blind is not None else None), f"{each.seeing.things:,}",
            )  # fmt: skip
    return table
