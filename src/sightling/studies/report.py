"""``report.html`` of a study: one self-contained page. Numbers become words here; the page is ``report.html.j2``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sightling.evaluate.charts import Plot, accuracy_bar, line_plot, svg
from sightling.evaluate.metrics import Estimate
from sightling.evaluate.report import page_environment, signed
from sightling.studies.results import COSTED, Judged, StudyResults
from sightling.studies.statistics import Interval, Measured
from sightling.studies.study import COSTS
from sightling.train.checkpoint import write_text
from sightling.train.progress import short_bytes, short_time

TEMPLATE = "report.html.j2"

COLOURS = 8
"""Colours of variants in the page; from the next one on they come again."""

COST_NAMES = {
    "visual_tokens": "visual tokens a picture", "steps": "steps of the last stage",
    "samples": "samples of the last stage", "seconds": "time of training", "parameters": "parameters",
    "peak_memory_bytes": "peak memory",
}  # fmt: skip


def span(interval: Interval | None) -> str:
    """An interval of shares in percent; a dash where there is none."""
    return "–" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}"


def signed_span(interval: Interval | None) -> str:
    """An interval of a difference in percentage points; a dash where there is none."""
    return "–" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def cost_text(name: str, value: float) -> str:
    """A cost for a person."""
    if name == "seconds":
        return short_time(value)
    if name == "peak_memory_bytes":
        return short_bytes(value)
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:,.1f}"


def render_report(results: StudyResults) -> str:
    """The page as HTML."""
    environment = page_environment()
    for function in (signed, span, signed_span):
        environment.filters[function.__name__] = function
    template = environment.from_string(files("sightling.studies").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    study = results.study
    variants = list(study.variants)
    return template.render(
        study=study,
        about=results.about,
        variants=variants,
        colours={name: number % COLOURS for number, name in enumerate(variants)},
        budget=_budget(results),
        claims=[_claim(one) for one in results.judged()],
        evaluations=[_evaluation(results, name) for name in study.evaluations],
        costs=_costs(results),
        seeds=len(study.seeds),
    )


def write_report(path: Path, results: StudyResults) -> None:
    """The page as a file.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    write_text(path, render_report(results))


def _budget(results: StudyResults) -> str:
    """What every variant might take, in words."""
    budget = results.study.budget
    if budget.steps is not None:
        return f"{budget.steps:,} steps of the last stage"
    if budget.samples is not None:
        return f"{budget.samples:,} samples in the last stage"
    if budget.visual_tokens is not None:
        return f"{budget.visual_tokens:,} visual tokens in the last stage"
    if budget.seconds is not None:
        return f"{short_time(budget.seconds)} of the last stage, turned into steps by a rehearsal on this machine"
    return "the steps that the recipe says"


def gain_text(judged: Judged) -> dict[str, str]:
    """A claim's gain and its intervals for a person: points, or what it costs less."""
    gain, measure = judged.gain, judged.claim.measure
    if measure not in COSTS:
        return {"value": f"{signed(gain.value)} points", "over_seeds": signed_span(gain.over_seeds),
                "over_pictures": signed_span(gain.over_pictures)}  # fmt: skip

    def text(value: float) -> str:
        return f"{'−' if value < 0 else ''}{cost_text(measure, abs(value))}"

    ends = gain.over_seeds
    return {"value": f"{cost_text(measure, abs(gain.value))} {'more' if gain.value < 0 else 'less'}",
            "over_seeds": "–" if ends is None else f"{text(ends[0])} to {text(ends[1])} less",
            "over_pictures": "–"}  # fmt: skip


def measured_text(judged: Judged) -> str:
    """What a claim is about, in words."""
    claim = judged.claim
    of = (claim.family or "all questions").replace("_", " ")
    where = f", {claim.evaluation}" if claim.evaluation else ""
    when = "the end" if claim.at == 1 else f"{claim.at:g} of the training"
    what = {"accuracy": f"accuracy ({of}{where}) at {when}",
            "mean_accuracy": f"mean accuracy over all points ({of}{where})"}  # fmt: skip
    more = ""
    if claim.by:
        least = cost_text(claim.measure, claim.by) if claim.measure in COSTS else f"{100 * claim.by:g} points"
        more = f", by more than {least}"
    return f"{what.get(claim.measure, COST_NAMES.get(claim.measure, ''))}: {claim.better} against {claim.worse}{more}"


def _claim(judged: Judged) -> dict[str, Any]:
    return {"claim": judged.claim.claim, "about": measured_text(judged), "verdict": judged.verdict,
            "kind": judged.verdict.replace(" ", "-"), **gain_text(judged)}  # fmt: skip


def _evaluation(results: StudyResults, name: str) -> dict[str, Any]:
    families: list[str | None] = [*results.families(name)]
    families = [None, *families] if len(families) > 1 else families
    first = results.trials[0].answers[1.0, name]
    return {
        "name": name,
        "pictures": len({question[0] for question in first.questions}),
        "captions": first.captions,
        "blocks": [_block(results, name, family) for family in families],
        "differences": [_differences(results, name, family) for family in families],
        "plots": _plots(results, name, families),
    }


def _block(results: StudyResults, evaluation: str, family: str | None) -> dict[str, Any]:
    """A family's bars, a variant a row."""
    rows = []
    majority = results.trials[0].answers[1.0, evaluation].majority.get(family)
    for variant in results.study.variants:
        told = results.accuracy(variant, evaluation, family)
        label = f"{variant}: {100 * told.value:.1f} %"
        bar = accuracy_bar(_estimate(told), None, majority, None, label)
        rows.append({"variant": variant, "told": told, "bar": bar})
    return {"family": family, "rows": rows, "majority": majority}


def _estimate(told: Measured) -> Estimate:
    """For a bar: its whisker is the interval over seeds, or over pictures where there is one seed."""
    low, high = told.over_seeds or told.over_pictures or (told.value, told.value)
    return Estimate(told.value, low, high, told.n, told.seeds)


def _differences(results: StudyResults, evaluation: str, family: str | None) -> dict[str, Any]:
    base = results.study.against
    others = [name for name in results.study.variants if name != base]
    return {"family": family, "rows": [(name, results.gain(name, base, evaluation, family)) for name in others]}


def _plots(results: StudyResults, evaluation: str, families: list[str | None]) -> list[tuple[str | None, Plot]]:
    """Accuracy against samples seen; nothing where the end alone was measured."""
    if len(results.study.budget.at) < 2:
        return []
    found = []
    for family in families:
        series = {}
        for number, variant in enumerate(results.study.variants):
            trial = results.of(variant)[0].trial
            series[f"n{number} v{number % COLOURS}{' again' if number >= COLOURS else ''}"] = [
                (float(step * trial.batch), results.accuracy(variant, evaluation, family, point).value)
                for point, step in trial.points.items()
            ]
        told = (family or "all questions").replace("_", " ")
        found.append((family, line_plot(series, f"accuracy of {told} by samples seen", percent=True)))
    return found


def _costs(results: StudyResults) -> list[dict[str, Any]]:
    """Each cost with a bar a variant, as long as its share of the greatest."""
    found = []
    for name in COSTED:
        values = {variant: results.costs(variant, name) for variant in results.study.variants}
        if not any(values.values()):
            continue
        greatest = max(max(each) for each in values.values() if each) or 1.0
        rows = []
        for number, (variant, each) in enumerate(values.items()):
            mean = sum(each) / len(each) if each else 0.0
            text = cost_text(name, mean) if each else "–"
            bar = _bar(mean / greatest, f"v{number % COLOURS}", f"{variant}: {text}")
            rows.append({"variant": variant, "text": text, "bar": bar})
        found.append({"name": COST_NAMES[name], "rows": rows})
    return found


def _bar(share: float, kind: str, label: str) -> Markup:
    return svg(100, 10, f'<rect class="{kind}" x="0" y="0" width="{100 * share:.2f}" height="10"/>', label, "parts")
