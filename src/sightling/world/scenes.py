"""Drawing scenes by lot: a :class:`SceneSpec` says what may appear, a seed says which scene it is.

The same seed and spec give the same scene in every process and on every system: only ``random.Random`` is used.
Things are chosen before the background, and the background is chosen to contrast with them, so every colour stays
equally likely. When things do not fit, they are placed anew, then some become small; their number never changes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sightling.errors import UserError, nearest
from sightling.world import lexicon
from sightling.world.colors import distance, jittered, mix
from sightling.world.lexicon import RGB
from sightling.world.outlines import OUTLINES, ROUND, extent, scale_of
from sightling.world.scene import Background, Scene, Thing

MOST_THINGS = 12
"""More things than this cannot be placed apart in every picture."""

RADII: dict[str, tuple[float, float]] = {"small": (0.075, 0.09), "large": (0.145, 0.17)}
"""The radius of a disc of each size, as fractions of the shorter side; other shapes have that disc's area."""

MOST_TURN = 12
"""Things are turned by at most this many degrees, so that a square never looks like a diamond."""

CONTRAST = 30.0
"""The least distance (CIELAB) between a thing's colour and each colour of the background, where it can be had."""

_TRIES = 40
_RESTARTS = 6


@dataclass(frozen=True, slots=True)
class Habit:
    """A planted co-occurrence: where a thing like ``cause`` is, one like ``effect`` is too, with ``probability``.

    A pattern is ``(shape, color)``; ``None`` matches any. Scenes of one thing cannot hold both and hold no cause.

    Attributes:
        probability: of an effect in scenes with a cause.
        otherwise: of an effect in scenes without one.
        share: of the scenes of two things or more that hold a cause.
    """

    cause: tuple[str | None, str | None]
    effect: tuple[str | None, str | None]
    probability: float = 0.9
    otherwise: float = 0.05
    share: float = 0.3


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """What scenes may hold. All names are keys of the lexicon's tables; all choices are uniform unless said.

    Attributes:
        min_things, max_things: the number of things is uniform between them, both included.
        shapes: shapes other than letters.
        textured: chance that a thing has one of the ``textures`` other than plain (when plain is among them).
        letters: chance that a thing is a letter or digit, always plain.
        repeat: chance that a scene of two things or more has a group that shares its shape, its colour or both.
        habit: a planted co-occurrence, or none.
        max_overlap: the share of a thing's bounding box that another's may cover; like colours never touch.
        gap: the least distance between bounding boxes where they do not overlap, as a fraction of the shorter side.
        margin: the least distance of a thing from the picture's edge, likewise.
        min_aspect, max_aspect: width divided by height is uniform between them.

    Raises:
        UserError: an unknown name, a number out of range, or a habit that the spec cannot show.
    """

    min_things: int = 1
    max_things: int = 4
    shapes: tuple[str, ...] = tuple(OUTLINES)
    colors: tuple[str, ...] = tuple(lexicon.COLORS)
    sizes: tuple[str, ...] = tuple(lexicon.SIZES)
    textures: tuple[str, ...] = tuple(lexicon.TEXTURES)
    backgrounds: tuple[str, ...] = tuple(lexicon.BACKGROUNDS)
    textured: float = 0.2
    letters: float = 0.0
    repeat: float = 0.5
    habit: Habit | None = None
    max_overlap: float = 0.04
    gap: float = 0.01
    margin: float = 0.015
    min_aspect: float = 1.0
    max_aspect: float = 1.0

    def __post_init__(self) -> None:
        for name, table in _TABLES.items():
            _check_names(name, getattr(self, name), table)
        if not 0 <= self.min_things <= self.max_things <= MOST_THINGS:
            raise UserError(
                f"scene spec: min_things {self.min_things} and max_things {self.max_things} must satisfy "
                f"0 <= min_things <= max_things <= {MOST_THINGS}"
            )
        for name, most in _SHARES.items():
            _check_range(name, getattr(self, name), 0.0, most)
        if not 0.25 <= self.min_aspect <= self.max_aspect <= 4:
            raise UserError(
                f"scene spec: min_aspect {self.min_aspect} and max_aspect {self.max_aspect} must satisfy "
                "0.25 <= min_aspect <= max_aspect <= 4"
            )
        if self.habit is not None:
            _check_habit(self.habit, self)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and dictionaries, ready for JSON or YAML; :meth:`from_dict` reads them back."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> SceneSpec:
        """A spec from plain data, such as a part of a recipe; keys that are absent keep their defaults.

        Raises:
            UserError: an unknown key, a value of the wrong type, or anything the spec itself refuses.
        """
        values = _typed(cls, mapping, "scene spec")
        if isinstance(values.get("habit"), Mapping):
            values["habit"] = Habit(**_typed(Habit, values["habit"], "scene spec: habit"))
        return cls(**values)


_TABLES: dict[str, Mapping[str, Any]] = {
    "shapes": OUTLINES,
    "colors": lexicon.COLORS,
    "sizes": lexicon.SIZES,
    "textures": lexicon.TEXTURES,
    "backgrounds": lexicon.BACKGROUNDS,
}
_SHARES = {"textured": 1.0, "letters": 1.0, "repeat": 1.0, "max_overlap": 0.3, "gap": 0.1, "margin": 0.1}


def sample_scene(seed: int, spec: SceneSpec) -> Scene:
    """The scene of this seed (0 or more) under ``spec``; equal arguments give equal scenes everywhere."""
    if seed < 0:
        raise UserError(f"a scene's seed must be 0 or more, not {seed}")
    rng = random.Random(seed)
    count = rng.randint(spec.min_things, spec.max_things)
    aspect = 1.0
    if spec.max_aspect > 1 or spec.min_aspect < 1:
        aspect = round(rng.uniform(spec.min_aspect, spec.max_aspect), 4)
    things = [_draw_thing(rng, spec) for _ in range(count)]
    if count > 1 and rng.random() < spec.repeat:
        _make_group(things, rng)
    if spec.habit is not None:
        _apply_habit(things, spec.habit, spec, rng)
    painted = tuple(_lay_out([_paint(thing, spec, rng) for thing in things], aspect, spec, rng))
    return Scene(painted, _draw_background([thing.shade for thing in painted], spec, rng), aspect)


# --- what the things are ----------------------------------------------------------------------------------------


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


def _matches(shape: str, color: str, pattern: tuple[str | None, str | None]) -> bool:
    return pattern[0] in (None, shape) and pattern[1] in (None, color)


def _kinds(spec: SceneSpec) -> list[tuple[str, str]]:
    shapes = (*spec.shapes, "letter") if spec.letters else spec.shapes
    return [(shape, color) for shape in shapes for color in spec.colors]


def _apply_habit(things: list[_Kind], habit: Habit, spec: SceneSpec, rng: random.Random) -> None:
    """Clear the scene of both patterns, then plant what the lot says, so that the frequencies are exact."""
    caused = len(things) > 1 and rng.random() < habit.share
    follows = len(things) > 0 and rng.random() < (habit.probability if caused else habit.otherwise)
    kinds = _kinds(spec)
    neutral = [kind for kind in kinds if not _matches(*kind, habit.cause) and not _matches(*kind, habit.effect)]
    for thing in things:
        if (thing.shape, thing.color) not in neutral:
            _become(thing, rng.choice(neutral), rng)
    slots = rng.sample(range(len(things)), min(2, len(things)))
    if caused:
        _become(things[slots[1]], rng.choice([kind for kind in kinds if _matches(*kind, habit.cause)]), rng)
    if follows:
        _become(things[slots[0]], rng.choice([kind for kind in kinds if _matches(*kind, habit.effect)]), rng)


def _become(thing: _Kind, kind: tuple[str, str], rng: random.Random) -> None:
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
    radius = _radius(kind.shape, kind.size, rng)
    shade = jittered(kind.color, rng)
    return Thing(kind.shape, kind.color, kind.size, texture, 0.5, 0.5, radius, angle, shade, kind.glyph)


def _radius(shape: str, size: str, rng: random.Random) -> float:
    return round(rng.uniform(*RADII[size]) * scale_of(shape), 4)


# --- where the things are ---------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


def _lay_out(things: Sequence[Thing], aspect: float, spec: SceneSpec, rng: random.Random) -> list[Thing]:
    """Places for all things, in the given order; things become small one by one where there is no room."""
    chosen = list(things)
    while True:
        for _ in range(_RESTARTS):
            placed = _place(chosen, aspect, spec, rng)
            if placed is not None:
                return placed
        large = [index for index, thing in enumerate(chosen) if thing.size != "small"]
        if large and "small" in spec.sizes:
            index = rng.choice(large)
            chosen[index] = replace(chosen[index], size="small", radius=_radius(chosen[index].shape, "small", rng))
        else:
            # Nothing is left to give but a little of the sizes themselves.
            chosen = [replace(thing, radius=round(thing.radius * 0.93, 4)) for thing in chosen]


def _place(things: Sequence[Thing], aspect: float, spec: SceneSpec, rng: random.Random) -> list[Thing] | None:
    """One attempt: the largest first, each tried at random places; None when one finds no room."""
    width, height = max(aspect, 1.0), max(1 / aspect, 1.0)
    placed: list[Thing] = list(things)
    boxes: list[tuple[Box, str]] = []
    for index in sorted(range(len(things)), key=lambda i: -things[i].radius):
        thing = things[index]
        reach = extent(thing.shape, thing.glyph, thing.angle)
        left, top, right, bottom = (thing.radius * side for side in reach)
        for _ in range(_TRIES):
            x = round(rng.uniform(spec.margin - left, width - spec.margin - right) / width, 4)
            y = round(rng.uniform(spec.margin - top, height - spec.margin - bottom) / height, 4)
            box = (x * width + left, y * height + top, x * width + right, y * height + bottom)
            if all(_apart(box, other, 0.0 if color == thing.color else spec.max_overlap, spec.gap)
                   for other, color in boxes):  # fmt: skip
                placed[index] = replace(thing, x=x, y=y)
                boxes.append((box, thing.color))
                break
        else:
            return None
    return placed


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


# --- reading and checking ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth, as JSON and YAML have them."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _typed(cls: type, mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping's values in the types of the dataclass's fields: lists as tuples, whole numbers as floats."""
    kinds = {field.name: str(field.type) for field in fields(cls)}
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in kinds:
            raise UserError(f"{where}: unknown key {name!r}; {nearest(str(name), kinds)}")
        kind = kinds[name]
        if kind.startswith("tuple"):
            fits = isinstance(value, (list, tuple)) and all(part is None or isinstance(part, str) for part in value)
            value = tuple(value) if fits else value
        elif kind.startswith("Habit"):
            fits = value is None or isinstance(value, (Mapping, Habit))
        else:
            fits = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        if not fits:
            meant = {"int": "a whole number", "float": "a number"}.get(kind, "a list of names")
            raise UserError(
                f"{where}: {name} must be {'a mapping' if kind.startswith('Habit') else meant}, not {value!r}"
            )
        values[name] = value
    return values


def _check_names(name: str, chosen: Sequence[str], table: Mapping[str, Any]) -> None:
    if not chosen:
        raise UserError(f"scene spec: {name} must name at least one of {', '.join(table)}")
    for entry in chosen:
        if entry == "letter" and name == "shapes":
            raise UserError(
                'scene spec: shapes cannot hold "letter"; set letters to the share of things that are letters'
            )
        if entry not in table:
            raise UserError(f"scene spec: {name} has no {entry!r}; {nearest(str(entry), table)}")
    if len(set(chosen)) != len(chosen):
        raise UserError(f"scene spec: {name} names something twice: {', '.join(chosen)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"scene spec: {name} must lie between {low:g} and {high:g}, not {value!r}")


def _check_habit(habit: Habit, spec: SceneSpec) -> None:
    for name in ("probability", "otherwise", "share"):
        _check_range(f"habit: {name}", getattr(habit, name), 0.0, 1.0)
    kinds = _kinds(spec)
    for role, pattern in (("cause", habit.cause), ("effect", habit.effect)):
        if len(pattern) != 2:
            raise UserError(
                f"scene spec: habit: {role} must be a shape and a colour (either may be null), not {pattern!r}"
            )
        if not any(_matches(*kind, pattern) for kind in kinds):
            raise UserError(
                f"scene spec: habit: no thing of the spec's shapes and colors is like the {role} {pattern!r}"
            )
    if any(_matches(*kind, habit.cause) and _matches(*kind, habit.effect) for kind in kinds):
        raise UserError(f"scene spec: habit: a thing could be both cause {habit.cause!r} and effect {habit.effect!r}")
    if all(_matches(*kind, habit.cause) or _matches(*kind, habit.effect) for kind in kinds):
        raise UserError("scene spec: habit: every thing of the spec is cause or effect; add shapes or colors")
