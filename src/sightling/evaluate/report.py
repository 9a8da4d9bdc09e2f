"""``report.html``: one self-contained page. The numbers are put into words here; the page is ``report.html.j2``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sightling.evaluate.charts import Plot, accuracy_bar, line_plot, parts_bar
from sightling.evaluate.facts import StageFacts
from sightling.evaluate.gallery import caption_gallery, galleries
from sightling.evaluate.metrics import Estimate
from sightling.evaluate.results import TOP, Captions, Cell, Results
from sightling.train.checkpoint import write_text
from sightling.train.progress import short_bytes, short_time
from sightling.world.questions import FAMILIES

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese", "all": ""}
TEMPLATE = "report.html.j2"


def counted(number: int, name: str) -> str:
    """A number of things with their name: ``"1 picture"``, ``"1,200 pictures"``."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def percent(share: float | None) -> str:
    """``0.9123`` as ``"91.2 %"``; a dash for nothing."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval(estimate: Estimate | None) -> str:
    """The interval's ends in percent."""
    return "" if estimate is None else f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"


def signed(value: float) -> str:
    """A share's difference in percentage points, with its sign; what rounds to zero is ``"+0.0"`` from either side."""
    # Zero is added because a rounded negative number keeps its sign.
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")


def points(estimate: Estimate) -> str:
    """A difference in percentage points, with its sign."""
    return signed(estimate.value)


def point_interval(estimate: Estimate) -> str:
    """The interval of a difference in percentage points."""
    return f"{signed(estimate.low)} to {signed(estimate.high)}"


def language_name(language: str | None) -> str:
    """A language for people; its key where it has no name here."""
    return "all languages" if language is None else LANGUAGE_NAMES.get(language, language)


def family_name(family: str | None) -> str:
    """A family for people."""
    return "all questions" if family is None else family.replace("_", " ")


def about_family(family: str) -> str:
    """What a family of the small world asks; empty for others."""
    return FAMILIES[family].about if family in FAMILIES else ""


def page_environment() -> Environment:
    """What a page is made in: the templates of this package, and the filters that put numbers into words."""
    environment = Environment(
        loader=PackageLoader("sightling.evaluate", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    for function in (counted, percent, interval, points, point_interval, language_name, family_name, about_family,
                     short_time, short_bytes):  # fmt: skip
        environment.filters[function.__name__] = function
    return environment


def render_report(results: Results, stages: Sequence[StageFacts]) -> str:
    """The page as HTML."""
    template = page_environment().get_template(TEMPLATE)
    shown_languages = [language for language in results.languages if len(results.languages) > 1 or language != "all"]
    return template.render(
        results=results,
        about=results.about,
        is_world=results.about["kind"] == "world",
        title=results.about["recipe"] or Path(results.about["model"]).name,
        tiles=_tiles(results),
        blocks=_blocks(results),
        languages=results.languages,
        shown_languages=shown_languages,
        captions=[_caption_row(each) for each in results.captions if each.family and each.language],
        caption_gallery=caption_gallery(results),
        confusions=[_heat(confusion) for confusion in results.confusions],
        galleries=galleries(results),
        stages=stages,
        plots=_plots(stages),
        TOP=TOP,
    )


def write_report(path: Path, results: Results, stages: Sequence[StageFacts]) -> None:
    """The page as a file.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    write_text(path, render_report(results, stages))


def _tiles(results: Results) -> list[dict[str, Any]]:
    """The headline numbers: accuracy by language, top choices where they were ranked, captions."""
    tiles: list[dict[str, Any]] = []
    for language in results.languages:
        cell = results.cell(None, language)
        if cell is None:
            continue
        name = language_name(language)
        tiles.append(_tile(f"{name} answers exactly right".strip().capitalize(), cell.accuracy, _beside(cell)))
        if cell.top:
            beside = f"blind {percent(cell.top['blind'].value)}, commonest {TOP} {percent(cell.top['majority'].value)}"
            label = f"{name} answers among the {TOP} likeliest".strip().capitalize()
            tiles.append(_tile(label, cell.top["model"], beside))
    # One kind of caption, so that the number means one thing: the short one where it was asked.
    kinds = [each.family for each in results.captions if each.family is not None]
    told = results.told(min(kinds, key=lambda family: family != "caption"), None) if kinds else None
    if told is not None and told.family is not None:
        blind, name = told.blind, f"{family_name(told.family)}s"
        tiles.append(_tile(f"Things named right in {name}", told.seeing.right, f"blind {percent(blind.right.value)}"))
        if told.seeing.absent is not None:
            beside = f"blind {percent(blind.absent.value)}" if blind.absent is not None else "blind: none named"
            tiles.append(_tile(f"Things named in {name} that are not there", told.seeing.absent, beside))
    return tiles


def _tile(label: str, estimate: Estimate, beside: str) -> dict[str, Any]:
    return {"label": label, "estimate": estimate, "beside": beside}


def _beside(cell: Cell) -> str:
    return f"blind {percent(cell.blind.value)}, majority {percent(cell.majority.value)}"


def _blocks(results: Results) -> list[dict[str, Any]]:
    """The bars: a block a family (the worst first), a row a language."""
    blocks = []
    for family in sorted(results.families, key=lambda name: _accuracy(results, name)):
        rows = []
        for language in results.languages:
            cell = results.cell(family, language)
            if cell is not None:
                label = (
                    f"{family_name(family)}, {language_name(language)}: {percent(cell.accuracy.value)} "
                    f"({interval(cell.accuracy)}), {_beside(cell)}"
                )
                bar = accuracy_bar(cell.accuracy, cell.blind, cell.majority.value, cell.chance, label)
                rows.append({"cell": cell, "bar": bar})
        blocks.append({"family": family, "rows": rows})
    return blocks


def _accuracy(results: Results, family: str) -> float:
    cell = results.cell(family, None)
    return cell.accuracy.value if cell is not None else 0.0


def _caption_row(each: Captions) -> dict[str, Any]:
    right, missed = each.seeing.right.value, each.seeing.missed.value
    things = parts_bar([("right", right), ("missed", missed)], f"{percent(right)} of the things named right")
    absent = each.seeing.absent.value if each.seeing.absent is not None else 0.0
    named = parts_bar([("right", 1 - absent), ("wrong", absent)], f"{percent(absent)} of the named things not there")
    return {"captions": each, "things": things, "named": named if each.seeing.named else None}


def _heat(confusion: Any) -> dict[str, Any]:
    """A confusion with each cell's share of its row; a column is left out when nobody said it and it is no label."""
    other = any(row[-1] for row in confusion.counts)
    labels = [*confusion.labels, *(["other"] if other else [])]
    rows = []
    for place, (label, counts) in enumerate(zip(confusion.labels, confusion.counts)):
        total = sum(counts)
        cells = [
            {"count": count, "share": count / total, "right": column == place}
            for column, count in enumerate(counts[: len(labels)])
        ]
        rows.append({"label": label, "cells": cells, "total": total})
    return {"confusion": confusion, "labels": labels, "rows": rows}


def _plots(stages: Sequence[StageFacts]) -> dict[str, dict[str, Plot]]:
    """For each stage with metrics its plots by title."""
    plots: dict[str, dict[str, Plot]] = {}
    for stage in stages:
        for title, name in (("loss", "loss"), ("token accuracy", "accuracy")):
            kinds = {"trained": name, "held": f"eval_{name}"}
            series = {kind: stage.curves[key] for kind, key in kinds.items() if key in stage.curves}
            if series:
                plot = line_plot(series, f"{title} of stage {stage.name} by step", percent=name == "accuracy")
                plots.setdefault(stage.name, {})[title] = plot
    return plots
