"""Bars with their names and numbers, as an SVG file that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape

WIDTH, NAMES, EACH = 860, 330, 30
INK, BAR, PEER = "#808080", "#3b82c4", "#b0793a"


def bars(values: Mapping[str, float], unit: str, peers: Collection[str]) -> str:
    """One bar for each value, ``peers`` in a colour of their own; beside it the value and its ratio to the first."""
    base, most = next(iter(values.values())), max(values.values())
    room = WIDTH - NAMES - 170
    height = EACH * (len(values) + 1)
    body = []
    for number, (name, value) in enumerate(values.items()):
        top = EACH * number + 6
        length = room * value / most
        text = top + 14
        body += [
            f'<text x="{NAMES - 10}" y="{text}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{NAMES}" y="{top}" width="{length:.1f}" height="18" fill="{PEER if name in peers else BAR}"/>',
            f'<text x="{NAMES + length + 8:.1f}" y="{text}">{value:,.0f} ({value / base:.2f} times)</text>',
        ]
    body.append(f'<text x="{NAMES}" y="{height - 10}">{escape(unit)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}">' + "".join(body) + "</svg>\n"
    )
