"""Drawing scenes by lot: a :class:`SceneSpec` says what may appear, a seed says which scene it is.

The same seed and spec give the same scene in every process and on every system: only ``random.Random`` is used.
Things are chosen before the background, and the background is chosen to contrast with them, so every colour stays
equally likely. When things do not fit, they are placed anew, then some become small; their number never changes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sightling.errors import UserError
from sightling.world import lexicon
from sightling.world.colors import distance, jittered, mix
from sightling.world.lexicon import RGB
from sightling.world.outlines import ROUND, extent, scale_of
from sightling.world.scene import Background, Scene, Thing
from sightling.world.spec import MINIATURE, MOST_THINGS, RADII, Habit, SceneSpec, crowd_counts, kinds_of, matches

__all__ = ["MOST_THINGS", "RADII", "Habit", "SceneSpec", "sample_scene"]

MOST_TURN = 12
"""Things are turned by at most this many degrees, so that a square never looks like a diamond."""

CONTRAST = 30.0
"""The least distance (CIELAB) between a thing's colour and each colour of the background, where it can be had."""

# Beyond this share of the picture, random places almost never leave room for all.
_CROWDED = 0.7
_TRIES = 40
# With more colours than this in one picture, few backgrounds contrast with all.
_PALETTE = 3
_RESTARTS = 6


def sample_scene(seed: int, spec: SceneSpec) -> Scene:
    """The scene of this seed (0 or more) under ``spec``; equal arguments give equal scenes everywhere."""
    if seed < 0:
        raise UserError(f"a scene's seed must be 0 or more, not {seed}")
    rng = random.Random(seed)
    counts = [rng.choice(crowd_counts(spec)) for _ in range(spec.crowd)]
    count = sum(counts) if counts else rng.randint(spec.min_things, spec.max_things)
    aspect = 1.0
    if spec.max_aspect > 1 or spec.min_aspect < 1:
        aspect = _draw_aspect(rng, spec)
    things = [_draw_thing(rng, spec) for _ in range(count)]
    if counts:
        _make_crowd(things, counts, spec, rng)
    elif count > 1 and rng.random() < spec.repeat:
        _make_group(things, rng)
    if spec.habit is not None:
        _apply_habit(things, spec.habit, spec, rng)
    if spec.needles:
        _hide_needles(things, spec, rng)
    painted = tuple(_lay_out([_paint(thing, spec, rng) for thing in things], aspect, spec, rng))
    return Scene(painted, _draw_background([thing.shade for thing in painted], spec, rng), aspect)


def _draw_aspect(rng: random.Random, spec: SceneSpec) -> float:
    if spec.log_aspect:
        return round(math.exp(rng.uniform(math.log(spec.min_aspect), math.log(spec.max_aspect))), 4)
    return round(rng.uniform(spec.min_aspect, spec.max_aspect), 4)


# --- what the things are ----------------------------------------------------------------------------------------


_ShapeColor = tuple[str, str]


@dataclass(slots=True)
class _Kind:
    """A thing before it has a place: what can be shared within a group, and its size."""

    shape: str
    glyph: str
    color: str
    size: str


def _draw_thing(rng: random.Random, spec: SceneSpec) -> _Kind:
    shape, glyph = rng.choice(spec.shapes), ""
    if spec.letters and rng.random() < spec.letters:
        shape, glyph = "letter", rng.choice(lexicon.GLYPHS)
    return _Kind(shape, glyph, rng.choice(spec.colors), rng.choice(spec.sizes))


def _make_group(things: list[_Kind], rng: random.Random) -> None:
    """Let some things share the first one's shape, colour or both; all of them in half the groups.

    Large groups are as frequent as this because a question about a count can be balanced only as far as the rarest
    count goes.
    """
    size = len(things) if rng.random() < 0.5 else rng.randint(2, len(things))
    shared = rng.choices(("shape", "color", "both"), (3, 3, 2))[0]
    model = things[0]
    for thing in things[1:size]:
        if shared != "color":
            thing.shape = model.shape
            # Letters of a group are letters, not the same letter.
            thing.glyph = model.glyph and (thing.glyph or rng.choice(lexicon.GLYPHS))
        if shared != "shape":
            thing.color = model.color
    rng.shuffle(things)


def _make_crowd(things: list[_Kind], counts: Sequence[int], spec: SceneSpec, rng: random.Random) -> None:
    """Give the things one shape for each of ``counts``, and colours of a small palette that keeps clear of grounds."""
    shapes = rng.sample(spec.shapes, len(counts))
    palette = rng.sample(spec.colors, min(_PALETTE, len(spec.colors)))
    dealt = [shape for shape, count in zip(shapes, counts, strict=True) for _ in range(count)]
    for thing, shape in zip(things, dealt, strict=True):
        thing.shape, thing.color = shape, rng.choice(palette)
    rng.shuffle(things)


def _hide_needles(things: list[_Kind], spec: SceneSpec, rng: random.Random) -> None:
    """Let so many things be miniature as the specification says, and no other."""
    others = [size for size in spec.sizes if size != MINIATURE]
    for thing in things:
        if thing.size == MINIATURE:
            thing.size = rng.choice(others)
    for thing in rng.sample(things, min(spec.needles, len(things))):
        thing.size = MINIATURE


def _apply_habit(things: list[_Kind], habit: Habit, spec: SceneSpec, rng: random.Random) -> None:
    """Clear the scene of both patterns, then plant what the lot says, so that the frequencies are exact."""
    caused = len(things) > 1 and rng.random() < habit.share
    follows = rng.random() < (habit.probability if caused else habit.otherwise)
    causes, effects, neutral = _habit_kinds(habit, spec)
    for thing in things:
        if (thing.shape, thing.color) not in neutral:
            _become(thing, rng.choice(neutral), rng)
    slots = rng.sample(range(len(things)), min(2, len(things)))
    if caused:
        _become(things[slots[1]], rng.choice(causes), rng)
    if follows:
        _become(things[slots[0]], rng.choice(effects), rng)


@lru_cache(maxsize=64)
def _habit_kinds(habit: Habit, spec: SceneSpec) -> tuple[list[_ShapeColor], list[_ShapeColor], list[_ShapeColor]]:
    """Which kinds of thing are the cause, the effect, and neither."""
    kinds = kinds_of(spec)
    causes = [kind for kind in kinds if matches(*kind, habit.cause)]
    effects = [kind for kind in kinds if matches(*kind, habit.effect)]
    return causes, effects, [kind for kind in kinds if kind not in causes and kind not in effects]


def _become(thing: _Kind, kind: _ShapeColor, rng: random.Random) -> None:
    thing.shape, thing.color = kind
    thing.glyph = (thing.glyph or rng.choice(lexicon.GLYPHS)) if thing.shape == "letter" else ""


def _paint(kind: _Kind, spec: SceneSpec, rng: random.Random) -> Thing:
    texture = "plain" if "plain" in spec.textures else rng.choice(spec.textures)
    patterned = [name for name in spec.textures if name != "plain"]
    if texture == "plain" and patterned and rng.random() < spec.textured:
        texture = rng.choice(patterned)
    if kind.shape == "letter":
        texture = "plain"
    angle = 0.0 if kind.shape in ROUND else float(rng.randint(-MOST_TURN, MOST_TURN))
    radius = _radius(kind.shape, kind.size, spec, rng)
    shade = jittered(kind.color, rng)
    return Thing(kind.shape, kind.color, kind.size, texture, 0.5, 0.5, radius, angle, shade, kind.glyph)


def _radius(shape: str, size: str, spec: SceneSpec, rng: random.Random) -> float:
    return round(rng.uniform(*RADII[size]) * scale_of(shape) * spec.scale, 4)


# --- where the things are ---------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


def _lay_out(things: Sequence[Thing], aspect: float, spec: SceneSpec, rng: random.Random) -> list[Thing]:
    """Places for all things, in the given order; things become small one by one where there is no room."""
    chosen = list(things)
    while True:
        for _ in range(_RESTARTS):
            if _crowding(chosen, aspect) > _CROWDED:
                break
            placed = _place(chosen, aspect, spec, rng)
            if placed is not None:
                return placed
        large = [index for index, thing in enumerate(chosen) if thing.size == "large"]
        if large and "small" in spec.sizes:
            index = rng.choice(large)
            radius = _radius(chosen[index].shape, "small", spec, rng)
            chosen[index] = replace(chosen[index], size="small", radius=radius)
        else:
            # Nothing is left to give but a little of the sizes themselves; miniature things are not what takes room.
            chosen = [
                thing if thing.size == MINIATURE else replace(thing, radius=round(thing.radius * 0.93, 4))
                for thing in chosen
            ]


def _crowding(things: Sequence[Thing], aspect: float) -> float:
    """The share of the picture that the things' bounding squares take."""
    return sum(4 * thing.radius**2 for thing in things) / max(aspect, 1 / aspect)


def _place(things: Sequence[Thing], aspect: float, spec: SceneSpec, rng: random.Random) -> list[Thing] | None:
    """One attempt: the largest first, each tried at random places; None when one finds no room.

    But before all others the miniature, which fit anywhere: so no place is likelier than another for them.
    """
    width, height = max(aspect, 1.0), max(1 / aspect, 1.0)
    placed: list[Thing] = list(things)
    boxes: list[tuple[Box, Thing]] = []
    for index in sorted(range(len(things)), key=lambda i: (things[i].size != MINIATURE, -things[i].radius)):
        thing = things[index]
        reach = extent(thing.shape, thing.glyph, thing.angle)
        left, top, right, bottom = (thing.radius * side for side in reach)
        for _ in range(_TRIES):
            x = round(rng.uniform(spec.margin - left, width - spec.margin - right) / width, 4)
            y = round(rng.uniform(spec.margin - top, height - spec.margin - bottom) / height, 4)
            box = (x * width + left, y * height + top, x * width + right, y * height + bottom)
            if all(_apart(box, other, _overlap(thing, rest, spec), spec.gap) for other, rest in boxes):
                placed[index] = replace(thing, x=x, y=y)
                boxes.append((box, thing))
                break
        else:
            return None
    return placed


def _overlap(thing: Thing, other: Thing, spec: SceneSpec) -> float:
    """How much of a box another may cover: nothing of like colours, and nothing of the miniature, of which little is
    much."""
    return 0.0 if thing.color == other.color or MINIATURE in (thing.size, other.size) else spec.max_overlap


def _apart(first: Box, second: Box, max_overlap: float, gap: float) -> bool:
    """Whether two boxes keep ``gap``, or overlap by at most ``max_overlap`` of the smaller one."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    if across <= -gap or down <= -gap:
        return True
    if max_overlap == 0:
        return False
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(across, 0.0) * max(down, 0.0) <= max_overlap * smaller


# --- what lies behind them --------------------------------------------------------------------------------------


def _draw_background(shades: Sequence[RGB], spec: SceneSpec, rng: random.Random) -> Background:
    """A kind by lot, in the first colours found that contrast with every thing, else the best found."""
    kind = rng.choice(spec.backgrounds)
    best: tuple[float, RGB, RGB] | None = None
    for _ in range(_TRIES):
        first = _draw_ground(rng)
        second = first if kind == "plain" else _second(first, 50 if kind == "gradient" else 26, rng)
        grounds = {first, second, mix(first, second, 0.5)}
        contrast = min((distance(shade, ground) for shade in shades for ground in grounds), default=100.0)
        if best is None or contrast > best[0]:
            best = contrast, first, second
        if contrast >= CONTRAST:
            break
    assert best is not None
    return Background(kind, best[1], best[2], rng.randrange(2**31))


def _draw_ground(rng: random.Random) -> RGB:
    """White, nearly white, dark, or a muted colour: never one that a thing of the world has."""
    lot = rng.random()
    if lot < 0.2:
        return 255, 255, 255
    low, high, spread = (225, 252, 8) if lot < 0.4 else (28, 70, 10) if lot < 0.55 else (90, 225, 28)
    base = rng.randint(low, high)
    red, green, blue = (min(255, max(0, base + rng.randint(-spread, spread))) for _ in range(3))
    return red, green, blue


def _second(first: RGB, most: int, rng: random.Random) -> RGB:
    """A colour near ``first``: lighter or darker by up to ``most``, with a slight turn of hue."""
    shift = rng.randint(most // 2, most) * (1 if sum(first) < 384 else -1)
    red, green, blue = (min(255, max(0, channel + shift + rng.randint(-6, 6))) for channel in first)
    return red, green, blue
