"""What a scene is: things with exact attributes and places, on a background.

Coordinates are fractions of the picture: ``x`` grows to the right, ``y`` grows downwards, both in
``[0, 1]``; a radius is half the side of a thing's bounding box, as a fraction of the shorter side.
A scene is a value: equal scenes render to equal pictures, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a scene.

    Attributes:
        shape: a key of ``lexicon.SHAPES`` (``"circle"``); ``"letter"`` for a letter or digit.
        color: a key of ``lexicon.COLORS``.
        size: a key of ``lexicon.SIZES``: ``"small"``, ``"large"`` or ``"miniature"``.
        texture: a key of ``lexicon.TEXTURES``; ``"plain"`` for one solid colour.
        x, y: the centre, as fractions of the picture's width and height.
        radius: half the side of the bounding square, as a fraction of the shorter side.
        angle: rotation in degrees, counter-clockwise; small for shapes whose name depends on it.
        shade: the solid RGB colour this very thing is painted in (a jittered ``color``).
        glyph: the letter or digit when ``shape`` is ``"letter"``, else ``""``.
    """

    shape: str
    color: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float
    shade: tuple[int, int, int]
    glyph: str = ""


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things: a ``kind`` of ``lexicon.BACKGROUNDS`` drawn in two colours."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in painting order on a background; ``aspect`` is width divided by height."""

    things: tuple[Thing, ...]
    background: Background
    aspect: float = 1.0
