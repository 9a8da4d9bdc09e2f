"""Small drawings as inline SVG. They hold shapes only: words stand beside them in HTML, so they read on any screen.

Drawings stretch to the width of their place; strokes keep theirs. Colours are CSS classes of the page, which has a
light and a dark set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sightling.evaluate.metrics import Estimate

Points = Sequence[tuple[float, float]]
MOST_POINTS = 400


def svg(width: float, height: float, body: str, label: str, kind: str) -> Markup:
    """An SVG that stretches to its box; ``label`` is read to those who do not see it."""
    return Markup(
        '<svg class="{}" viewBox="0 0 {:g} {:g}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(kind, width, height, label, Markup(body))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def _bar(start: float, end: float, y: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{start:.2f}" y="{y:g}" width="{max(0.0, end - start):.2f}" height="{height:g}"/>'


def accuracy_bar(
    model: Estimate, blind: Estimate | None, majority: float | None, chance: float | None, label: str
) -> Markup:
    """The model's bar with its interval, the blind guesser's below it, marks for majority and chance; 0 to 100 %."""
    body = [_line(x, 0, x, 24, "grid") for x in (0, 25, 50, 75, 100)]
    body.append(_bar(0, 100 * model.value, 3, 11, "model"))
    if blind is not None:
        body.append(_bar(0, 100 * blind.value, 16, 5, "blind"))
    body.append(_line(100 * model.low, 8.5, 100 * model.high, 8.5, "whisker"))
    body += [_line(100 * x, 5.5, 100 * x, 11.5, "whisker") for x in (model.low, model.high)]
    if majority is not None:
        body.append(_line(100 * majority, 1, 100 * majority, 23, "majority"))
    if chance is not None:
        body.append(_line(100 * chance, 1, 100 * chance, 23, "chance"))
    return svg(100, 24, "".join(body), label, "bar")


def parts_bar(shares: Sequence[tuple[str, float]], label: str) -> Markup:
    """One bar in parts: (CSS class, share of the whole), from the left."""
    body, at = [], 0.0
    for kind, share in shares:
        body.append(_bar(at, at + 100 * share, 0, 10, kind))
        at += 100 * share
    return svg(100, 10, "".join(body), label, "parts")


@dataclass(frozen=True)
class Plot:
    """A line plot: the drawing, and the ticks to be written beside it as (position in percent, text)."""

    drawing: Markup
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def line_plot(series: Mapping[str, Points], label: str, *, percent: bool = False) -> Plot:
    """Lines over steps, one CSS class each; the y axis starts at 0 and, for ``percent``, ends at 1.

    Raises:
        ValueError: no points.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        raise ValueError("a plot needs points")
    right = max(x for x, _ in points)
    right = right if right > 0 else 1.0
    step = 0.25 if percent else nice_step(max(max(y for _, y in points), 1e-9) / 4)
    top = 1.0 if percent else step * math.ceil(max(max(y for _, y in points), 1e-9) / step - 1e-9)
    count = round(top / step)
    y_values = [i * step for i in range(count + 1)]
    y_ticks = [(100 - 100 * y / top, f"{100 * y:g} %" if percent else f"{y:g}") for y in y_values]
    x_step = nice_step(right / 4)
    x_ticks = [(100 * i * x_step / right, f"{i * x_step:,g}") for i in range(math.floor(right / x_step + 1e-9) + 1)]
    body = [_line(0, y, 100, y, "grid") for y, _ in y_ticks]
    for kind, line in series.items():
        placed = [(100 * x / right, 100 - 100 * min(y, top) / top) for x, y in thinned(line)]
        if len(placed) == 1:
            x, y = placed[0]
            placed = [(max(0.0, x - 1), y), (x, y)]
        told = " ".join(f"{x:.2f},{y:.2f}" for x, y in placed)
        body.append(f'<polyline class="{kind}" points="{told}"/>')
    return Plot(svg(100, 100, "".join(body), label, "plot"), x_ticks, y_ticks)


def nice_step(rough: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= rough * (1 - 1e-9))


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about ``most`` points: means of equal runs, so that no peak is picked by chance."""
    run = -(-len(points) // most)
    found = []
    for start in range(0, len(points), max(1, run)):
        part = points[start : start + run]
        found.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return found
