"""A study in the terminal: what it would do, and what it found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sightling.studies.plan import check, last_stage, stage_steps, visual_tokens
from sightling.studies.report import COST_NAMES, cost_text, gain_text, measured_text, span
from sightling.studies.results import StudyResults
from sightling.studies.study import Study


def print_plan(console: Console, study: Study) -> None:
    """Every variant with its steps and visual tokens, as far as they are known before anything runs.

    Raises:
        UserError: something is wrong in one of them.
    """
    recipes = check(study)
    table = _table("variant", "steps of the last stage", "visual tokens a picture")
    for name, recipe in recipes.items():
        steps, tokens = stage_steps(study, recipe), visual_tokens(recipe)
        table.add_row(
            name, "by the budget" if steps is None else f"{steps:,}", cost_text("", tokens[0]) if tokens else "–"
        )
    _say(console, study.question)
    console.print(table)
    shares = ", ".join(f"{share:g}" for share in study.budget.at)
    stage = last_stage(next(iter(recipes.values())))
    _say(console, f"seeds {', '.join(map(str, study.seeds))}; accuracy at {shares} of stage {stage}")


def print_study(console: Console, results: StudyResults) -> None:
    """Accuracy and cost by variant, and the verdicts."""
    study = results.study
    for evaluation in study.evaluations:
        table = _table("variant", "accuracy, %", "over seeds", "over pictures", *map(COST_NAMES.__getitem__, ("seconds", "parameters")))  # noqa: E501
        for variant in study.variants:
            told = results.accuracy(variant, evaluation)
            costs = []
            for name in ("seconds", "parameters"):
                values = results.costs(variant, name)
                costs.append(cost_text(name, sum(values) / len(values)))
            table.add_row(variant, f"{100 * told.value:.1f}", span(told.over_seeds), span(told.over_pictures), *costs)
        if len(study.evaluations) > 1:
            _say(console, evaluation)
        console.print(table)
    for one in results.judged():
        told_gain = gain_text(one)
        _say(
            console,
            f"{one.verdict}: {one.claim.claim} ({measured_text(one)}: {told_gain['value']}; over seeds "
            f"{told_gain['over_seeds']}, over pictures {told_gain['over_pictures']})",
        )


def _table(*headings: str) -> Table:
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
