"""The outlines of things: closed paths in a square from -1 to 1, y downwards, and how far they reach when turned.

An outline is a tuple of paths, each an array of corners ``[P, 2]``: the first is filled, every further one is a hole.
It is centred and scaled so that its bounding box fits the square and touches it on the longer side. Letters come from
the scalable font that Pillow carries, so that no font of the system is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Paths = tuple[np.ndarray, ...]
Corners = list[tuple[float, float]]

ARC_POINTS = 96
"""Corners of a full turn: at a radius of 400 px the polygon leaves the circle by 0.2 px at most."""


class Extent(NamedTuple):
    """How far an outline reaches from its centre, in radii; ``left`` and ``top`` are negative."""

    left: float
    top: float
    right: float
    bottom: float


def _arc(radius: float, start: float, stop: float, x: float = 0.0, y: float = 0.0) -> Corners:
    """Corners along an arc from ``start`` to ``stop`` degrees, clockwise from the right as ``y`` grows downwards."""
    count = max(2, round(ARC_POINTS * abs(stop - start) / 360) + 1)
    angles = [math.radians(start + (stop - start) * i / (count - 1)) for i in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _regular(corners: int, inner: float = 0.0) -> list[Corners]:
    """A regular polygon with one corner up, or a star when ``inner`` (the radius of its notches) is given."""
    radii = [1.0, inner] if inner else [1.0]
    count = corners * len(radii)
    turn = 2 * math.pi / count
    return [
        [
            (radii[i % len(radii)] * math.sin(i * turn), -radii[i % len(radii)] * math.cos(i * turn))
            for i in range(count)
        ]
    ]


def _circle() -> list[Corners]:
    return [_arc(1, 0, 360)[:-1]]


def _ring() -> list[Corners]:
    return [_arc(1, 0, 360)[:-1], _arc(0.52, 0, 360)[:-1]]


def _square() -> list[Corners]:
    return [[(-1, -1), (1, -1), (1, 1), (-1, 1)]]


def _diamond() -> list[Corners]:
    # Narrower than a square on its corner, so that no turn makes one of the other.
    return [[(0, -1), (0.68, 0), (0, 1), (-0.68, 0)]]


def _cross() -> list[Corners]:
    arm = 0.36
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    corners: Corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return [corners]


def _heart() -> list[Corners]:
    # The well-known curve of sines; source: https://mathworld.wolfram.com/HeartCurve.html
    turns = [2 * math.pi * i / ARC_POINTS for i in range(ARC_POINTS)]
    return [
        [
            (
                16 * math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
            )
            for t in turns
        ]
    ]


def _crescent() -> list[Corners]:
    # A disc with a slightly smaller one bitten out at the right; both circles meet at the tips.
    bite, shift = 0.84, 0.62
    tip_x = (1 + shift**2 - bite**2) / (2 * shift)
    outer = math.degrees(math.acos(tip_x))
    inner = math.degrees(math.atan2(math.sqrt(1 - tip_x**2), tip_x - shift))
    return [_arc(1, outer, 360 - outer) + _arc(bite, 360 - inner, inner, x=shift)[1:-1]]


def _drop() -> list[Corners]:
    # A disc below a point; the sides are the tangents from the point.
    height = 2.1
    tangent = math.degrees(math.acos(1 / height))
    return [[(0.0, -height), *_arc(1, tangent - 90, 270 - tangent)]]


def _arrow() -> list[Corners]:
    shaft, neck, head = 0.34, -0.02, 0.86
    return [[(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0), (neck, head), (neck, shaft), (-1, shaft)]]


OUTLINES: dict[str, Callable[[], list[Corners]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": lambda: _regular(3),
    "star": lambda: _regular(5, inner=0.5),
    "cross": _cross,
    "heart": _heart,
    "diamond": _diamond,
    "crescent": _crescent,
    "pentagon": lambda: _regular(5),
    "ring": _ring,
    "arrow": _arrow,
    "drop": _drop,
}
"""One function for each shape of the lexicon but ``"letter"``: its paths in any scale, y downwards."""

ROUND = frozenset({"circle", "ring"})
"""Shapes that look alike however they are turned."""

# Strokes are thin: a letter as wide as a disc is large is still the smaller thing to the eye.
_LETTER_SCALE = 1.15
_GLYPH_HEIGHTS = (64, 256, 768)


@cache
def outline(shape: str) -> Paths:
    """The upright paths of a shape, centred and scaled to the square from -1 to 1."""
    paths = [np.asarray(path, dtype=np.float64) for path in OUTLINES[shape]()]
    low, high = paths[0].min(axis=0), paths[0].max(axis=0)
    scale = 2 / (high - low).max()
    return tuple((path - (low + high) / 2) * scale for path in paths)


@cache
def area(shape: str) -> float:
    """The inked area of the outline, where the square from -1 to 1 has area 4; holes are taken off."""
    first, *holes = (_shoelace(path) for path in outline(shape))
    return first - sum(holes)


def _shoelace(path: np.ndarray) -> float:
    x, y = path[:, 0], path[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@cache
def scale_of(shape: str) -> float:
    """The radius at which a shape has the ink of a disc of radius 1, so that size is judged alike for all shapes."""
    return _LETTER_SCALE if shape == "letter" else math.sqrt(math.pi / area(shape))


@lru_cache(maxsize=4096)
def turned(shape: str, angle: float) -> Paths:
    """The outline turned by ``angle`` degrees counter-clockwise about its centre."""
    return tuple(path @ _turn(angle) for path in outline(shape))


def _turn(angle: float) -> np.ndarray:
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cosine, -sine], [sine, cosine]])


@lru_cache(maxsize=8192)
def extent(shape: str, glyph: str, angle: float) -> Extent:
    """How far the turned outline reaches from its centre, in radii."""
    points = _ink_points(glyph) @ _turn(angle) if shape == "letter" else turned(shape, angle)[0]
    # Rounded, so that the last bit of a system's sine never decides where things fit.
    return Extent(*(round(side, 6) for side in (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())))


@lru_cache(maxsize=256)
def glyph_mask(glyph: str, height: int) -> Image.Image:
    """A letter's ink as a square ``L`` picture whose longer ink side is ``height`` pixels, centred, no margin."""
    # Slightly bolder than the font, so that a letter of 10 px is still read.
    em = height * 1.25
    font = ImageFont.load_default(em)
    stroke = max(1, round(height * 0.03))
    canvas = Image.new("L", (round(em * 2), round(em * 2)))
    ImageDraw.Draw(canvas).text((em * 0.4, em * 0.3), glyph, fill=255, font=font, stroke_width=stroke)
    box = canvas.point(lambda value: 255 * (value >= 128)).getbbox()
    assert box is not None, f"the built-in font draws nothing for {glyph!r}"
    ink = canvas.crop(box)
    scale = height / max(ink.size)
    width, tall = (max(1, round(side * scale)) for side in ink.size)
    square = Image.new("L", (height, height))
    square.paste(ink.resize((width, tall), Image.Resampling.BICUBIC), ((height - width) // 2, (height - tall) // 2))
    return square


def glyph_level(height: float) -> int:
    """The stored mask height from which a letter of ``height`` pixels is best drawn."""
    return next((level for level in _GLYPH_HEIGHTS if level >= height), _GLYPH_HEIGHTS[-1])


@cache
def _ink_points(glyph: str) -> np.ndarray:
    """The outermost ink of every row of a letter, as points in the square from -1 to 1."""
    height = _GLYPH_HEIGHTS[-1]
    ink = np.asarray(glyph_mask(glyph, height)) >= 128
    rows = np.flatnonzero(ink.any(axis=1))
    first = ink[rows].argmax(axis=1)
    last = height - ink[rows, ::-1].argmax(axis=1)
    # Both edges of each pixel row, so that the extent is that of the ink, not of pixel centres.
    points = [(x, y + edge) for x in (first, last) for y, edge in ((rows, 0), (rows, 1))]
    return np.concatenate([np.stack(pair, axis=1) for pair in points]) * (2 / height) - 1
