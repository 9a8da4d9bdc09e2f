"""Colours as the eye tells them apart: distance in CIELAB, small jitter, and the name of any colour."""

from __future__ import annotations

import random
from functools import lru_cache

from sightling.world.lexicon import COLORS, RGB

JITTER = 10
"""The most by which a thing's colour leaves its name's middle, in each channel of 0 to 255."""

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)

Lab = tuple[float, float, float]


@lru_cache(maxsize=65536)
def to_lab(rgb: RGB) -> Lab:
    """sRGB (0 to 255) to CIELAB under D65: lightness 0 to 100 and two axes of hue (CIE 1976)."""
    red, green, blue = (_linear(channel / 255) for channel in rgb)
    x = _curve((0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505)
    y = _curve(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    z = _curve((0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _curve(value: float) -> float:
    return value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116


def distance(first: RGB, second: RGB) -> float:
    """How different two colours look: Euclidean in CIELAB; 2 is just visible, 100 is black to white."""
    a, b = to_lab(first), to_lab(second)
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2) ** 0.5


def nearest_color(rgb: RGB) -> str:
    """The key of ``lexicon.COLORS`` whose middle looks most like ``rgb``."""
    return min(COLORS, key=lambda name: distance(rgb, middle(name)))


def middle(color: str) -> RGB:
    """The RGB middle of a named colour."""
    rgb = COLORS[color].rgb
    assert rgb is not None, f"lexicon.COLORS[{color!r}] has no rgb"
    return rgb


def jittered(color: str, rng: random.Random) -> RGB:
    """The named colour moved by up to :data:`JITTER` in each channel; black, gray and white stay without hue."""
    base = middle(color)
    if max(base) - min(base) < JITTER:
        shifts = (rng.randint(-JITTER, JITTER),) * 3
    else:
        shifts = (rng.randint(-JITTER, JITTER), rng.randint(-JITTER, JITTER), rng.randint(-JITTER, JITTER))
    red, green, blue = (min(255, max(0, channel + shift)) for channel, shift in zip(base, shifts))
    return red, green, blue


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """``first`` with ``share`` (0 to 1) of ``second`` mixed in."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second))
    return red, green, blue
