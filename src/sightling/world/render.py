"""Pictures of scenes: anti-aliased at any size, with the exact box and the visible mask of every thing.

Each thing is drawn several times too large into a mask of its own bounding box and reduced, so a picture costs what
its things cost and not what its pixels would at that scale. Backgrounds are two colours mixed by a mask.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from sightling.errors import UserError
from sightling.world.colors import BLACK, WHITE, mix, to_lab
from sightling.world.lexicon import RGB
from sightling.world.outlines import extent, glyph_level, glyph_mask, turned
from sightling.world.scene import Background, Scene, Thing

MIN_SIZE, MAX_SIZE = 16, 2048
"""Pictures are drawn with a shorter side between these, in pixels."""

Box = tuple[float, float, float, float]


def render(scene: Scene, size: int = 64) -> Image.Image:
    """The scene as an RGB picture whose shorter side is ``size`` pixels; equal scenes give equal bytes.

    Raises:
        UserError: ``size`` is not between :data:`MIN_SIZE` and :data:`MAX_SIZE`.
    """
    width, height = picture_shape(scene, size)
    picture = _background(scene.background, width, height)
    for thing in scene.things:
        cover, left, top = _cover(thing, width, height)
        picture.paste(thing.shade, (left, top), cover)
        if thing.texture != "plain":
            ink = ImageChops.multiply(cover, _pattern(thing.texture, max(cover.size)))
            picture.paste(_ink_of(thing.shade), (left, top), ink)
    return picture


def boxes(scene: Scene, size: int) -> list[Box]:
    """(left, top, right, bottom) in pixels of every thing's drawn outline, whether or not others lie over it.

    Edges are exact, not whole pixels; what reaches beyond the picture is cut off.
    """
    width, height = picture_shape(scene, size)
    found: list[Box] = []
    for thing in scene.things:
        radius, x, y = thing.radius * min(width, height), thing.x * width, thing.y * height
        left, top, right, bottom = extent(thing.shape, thing.glyph, thing.angle)
        found.append(
            (
                min(max(x + left * radius, 0.0), width),
                min(max(y + top * radius, 0.0), height),
                min(max(x + right * radius, 0.0), width),
                min(max(y + bottom * radius, 0.0), height),
            )
        )
    return found


def masks(scene: Scene, size: int) -> np.ndarray:
    """Which pixels show which thing: bool ``[K, H, W]``; a pixel belongs to the topmost thing covering half of it."""
    width, height = picture_shape(scene, size)
    shown = np.zeros((len(scene.things), height, width), dtype=bool)
    for index, thing in enumerate(scene.things):
        cover, left, top = _cover(thing, width, height)
        whole = Image.new("L", (width, height))
        whole.paste(cover, (left, top))
        covered = np.asarray(whole) >= 128
        shown[:index] &= ~covered
        shown[index] = covered
    return shown


def picture_shape(scene: Scene, size: int) -> tuple[int, int]:
    """(width, height) in pixels of the scene drawn with a shorter side of ``size``."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"a picture's size must lie between {MIN_SIZE} and {MAX_SIZE} pixels, not {size}")
    if scene.aspect >= 1:
        return round(size * scene.aspect), size
    return size, round(size / scene.aspect)


# --- things -----------------------------------------------------------------------------------------------------


def _cover(thing: Thing, width: int, height: int) -> tuple[Image.Image, int, int]:
    """How much of each pixel the thing covers (an ``L`` picture), and where its left top pixel lies."""
    radius, x, y = thing.radius * min(width, height), thing.x * width, thing.y * height
    reach = extent(thing.shape, thing.glyph, thing.angle)
    left, top = math.floor(x + reach.left * radius), math.floor(y + reach.top * radius)
    right, bottom = math.ceil(x + reach.right * radius), math.ceil(y + reach.bottom * radius)
    # The smaller the thing, the more its edge counts.
    fine = 8 if radius < 24 else 4 if radius < 160 else 2
    shape = (max(1, right - left) * fine, max(1, bottom - top) * fine)
    if thing.shape == "letter":
        drawn = _letter(thing, shape, radius * fine, (x - left) * fine, (y - top) * fine)
    else:
        drawn = Image.new("L", shape)
        draw = ImageDraw.Draw(drawn)
        # Pillow cuts corners down to whole pixels and paints those too, so a corner's pixel is the one that holds it.
        shift = ((x - left) * fine, (y - top) * fine)
        for index, path in enumerate(turned(thing.shape, thing.angle)):
            draw.polygon((path * (radius * fine) + shift).ravel().tolist(), fill=0 if index else 255)
    return drawn.reduce(fine), left, top


def _letter(thing: Thing, shape: tuple[int, int], radius: float, x: float, y: float) -> Image.Image:
    """The letter's stored ink, scaled and turned to ``radius`` pixels about (x, y)."""
    ink = glyph_mask(thing.glyph, glyph_level(2 * radius))
    scale = ink.width / (2 * radius)
    cosine, sine = (scale * f(math.radians(thing.angle)) for f in (math.cos, math.sin))
    middle = ink.width / 2
    back = (cosine, -sine, middle - cosine * x + sine * y, sine, cosine, middle - sine * x - cosine * y)
    return ink.transform(shape, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)


@lru_cache(maxsize=4096)
def _ink_of(shade: RGB) -> RGB:
    """The second colour of a textured thing: a lighter or darker kin, so that its name stays that of the first."""
    lightness, hue_a, hue_b = to_lab(shade)
    if lightness < 20:
        return mix(shade, WHITE, 0.38)
    # A light colour cannot be lightened; gray, lightened, would pass for white.
    if lightness > 70 or math.hypot(hue_a, hue_b) < 10:
        return mix(shade, BLACK, 0.4)
    return mix(shade, WHITE, 0.65)


@lru_cache(maxsize=128)
def _pattern(texture: str, side: int) -> Image.Image:
    """Where a texture's second colour goes, as a square ``L`` picture, repeating a few times over a thing's box."""
    down, across = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    # Each rule gives the signed distance to the pattern's edge as a fraction of the box; negative is inside.
    if texture == "striped":
        period = 0.3
        apart = _wrapped((across + down) / side / math.sqrt(2), period) - period * 0.19
    elif texture == "dotted":
        period = 0.32
        apart = np.hypot(_wrapped(across / side, period), _wrapped(down / side, period)) - period * 0.3
    elif texture == "checkered":
        period = 0.5
        lines = _to_line(across / side, period), _to_line(down / side, period)
        # Cells of the second colour are a little smaller, so that the first prevails.
        apart = 0.015 - np.sign(lines[0] * lines[1]) * np.minimum(abs(lines[0]), abs(lines[1]))
    else:
        raise KeyError(texture)
    return Image.fromarray((np.clip(0.5 - apart * side, 0, 1) * 255).astype(np.uint8))


def _wrapped(value: np.ndarray, period: float) -> np.ndarray:
    """Distance to the nearest middle of a band."""
    return np.abs((value + period / 4) % period - period / 2)


def _to_line(value: np.ndarray, period: float) -> np.ndarray:
    """Signed distance to the nearest line between cells of half a period; the sign alternates from cell to cell."""
    phase = (value + period / 8) % period - period / 2
    return np.where(phase < 0, np.minimum(-phase, phase + period / 2), -np.minimum(phase, period / 2 - phase))


# --- backgrounds ------------------------------------------------------------------------------------------------


def _background(background: Background, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), background.first)
    if background.kind != "plain":
        picture.paste(background.second, (0, 0), _ground_mask(background.kind, background.seed, width, height))
    return picture


def _ground_mask(kind: str, seed: int, width: int, height: int) -> Image.Image:
    """How much of the second colour each pixel has, as an ``L`` picture."""
    if kind == "gradient":
        return _gradient(seed % 5, width, height)
    if kind == "grid":
        return _grid(4 + seed % 4, width, height)
    if kind == "checker":
        return _checker(4 + seed % 4, width, height)
    if kind == "noise":
        rng = random.Random(seed)
        cells = rng.choice((12, 24, 48))
        # A number of cells that does not depend on the size, so that the same noise is seen at every size.
        across, down = (round(cells * side / min(width, height)) for side in (width, height))
        speckle = Image.frombytes("L", (across, down), rng.randbytes(across * down))
        return speckle.resize((width, height), Image.Resampling.BICUBIC)
    raise KeyError(kind)


@lru_cache(maxsize=8)
def _gradient(direction: int, width: int, height: int) -> Image.Image:
    """Left to right, right to left, down, up, or outwards from the middle."""
    if direction == 4:
        return Image.radial_gradient("L").resize((width, height), Image.Resampling.BILINEAR)
    ramp = Image.linear_gradient("L")
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270, None, Image.Transpose.ROTATE_180)
    turn = turns[direction]
    return (ramp if turn is None else ramp.transpose(turn)).resize((width, height), Image.Resampling.BILINEAR)


@lru_cache(maxsize=8)
def _grid(cells: int, width: int, height: int) -> Image.Image:
    """Thin lines, ``cells`` to the shorter side."""
    pitch = min(width, height) / cells
    thick = max(1.0, min(width, height) / 64)
    down, across = (np.abs((np.arange(n) + 0.5) % pitch - pitch / 2) for n in (height, width))
    lines = [np.clip(0.5 + thick / 2 - apart, 0, 1) for apart in (down, across)]
    return Image.fromarray((np.maximum(lines[0][:, None], lines[1][None, :]) * 255).astype(np.uint8))


@lru_cache(maxsize=8)
def _checker(cells: int, width: int, height: int) -> Image.Image:
    """Squares by turns, ``cells`` to the shorter side."""
    pitch = min(width, height) / cells
    # +1 and -1 in the cells, sloping through 0 at the lines over one pixel.
    down, across = (
        np.clip((np.abs((np.arange(n) + 0.5) / pitch % 2 - 1) - 0.5) * 2 * pitch / 2, -0.5, 0.5) * 2
        for n in (height, width)
    )
    return Image.fromarray(((0.5 + 0.5 * down[:, None] * across[None, :]) * 255).astype(np.uint8))
