"""What scenes may hold: a checked, plain value that a recipe can carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from sightling.errors import UserError, nearest
from sightling.world import lexicon
from sightling.world.outlines import OUTLINES

Pattern = tuple[str | None, str | None]
"""A shape and a colour; ``None`` stands for any."""

MOST_THINGS = 12
"""More things than this cannot be placed apart in every picture, unless all are very small."""

MOST_SMALL_THINGS = 48
"""The most things of a scene however small they are."""

MINIATURE = "miniature"
"""The size that needs high resolution: at 896 px a miniature thing is legible, in an overview of 112 px a blur."""

RADII: dict[str, tuple[float, float]] = {"miniature": (0.01, 0.0145), "small": (0.075, 0.09), "large": (0.145, 0.17)}
"""The radius of a disc of each size, as fractions of the shorter side; other shapes have that disc's area."""

# Things are told apart by eye and placed at random, so most of the picture must stay free of their bounding squares.
_ROOM = 0.35


@dataclass(frozen=True, slots=True)
class Habit:
    """A planted co-occurrence: where a thing like ``cause`` is, one like ``effect`` is too, with ``probability``.

    A pattern is ``(shape, color)``; ``None`` matches any. Scenes of one thing cannot hold both and hold no cause.

    Attributes:
        probability: of an effect in scenes with a cause.
        otherwise: of an effect in scenes without one.
        share: of the scenes of two things or more that hold a cause.
    """

    cause: Pattern
    effect: Pattern
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
        log_aspect: its logarithm is uniform instead, so that wide pictures do not outnumber tall ones.
        scale: all things are drawn so many times their size, 1 or less, for pictures of very high resolution.
        needles: 0, or how many things are miniature; all others are of the other ``sizes``, of which there must be one.
        crowd: 0, or how many shapes a scene is a crowd of. Of each there are as many as an even lot says between
            ``min_things`` and ``max_things`` divided by ``crowd``, whatever the others' number; ``repeat`` has no say.

    Raises:
        UserError: an unknown name, a number out of range, or a habit that the spec cannot show.
    """

    min_things: int = 1
    max_things: int = 4
    shapes: tuple[str, ...] = tuple(OUTLINES)
    colors: tuple[str, ...] = tuple(lexicon.COLORS)
    sizes: tuple[str, ...] = ("small", "large")
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
    log_aspect: bool = False
    scale: float = 1.0
    needles: int = 0
    crowd: int = 0

    def __post_init__(self) -> None:
        for name, table in _TABLES.items():
            _check_names(name, getattr(self, name), table)
        for name, most in _SHARES.items():
            _check_range(name, getattr(self, name), 0.0, most)
        _check_range("scale", self.scale, 0.2, 1.0)
        if not 1 <= self.min_things <= self.max_things <= most_things(self):
            raise UserError(
                f"scene spec: min_things {self.min_things} and max_things {self.max_things} must satisfy "
                f"1 <= min_things <= max_things <= {most_things(self)} for things of these sizes"
            )
        if not 1 / WIDEST <= self.min_aspect <= self.max_aspect <= WIDEST:
            raise UserError(
                f"scene spec: min_aspect {self.min_aspect} and max_aspect {self.max_aspect} must satisfy "
                f"{1 / WIDEST:g} <= min_aspect <= max_aspect <= {WIDEST}"
            )
        _check_needles(self)
        _check_crowd(self)
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
        if not isinstance(mapping, Mapping):
            raise UserError(f"scene spec: must be a mapping of keys to values, not {mapping!r}")
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
WIDEST = 8
"""The most that a picture's sides may differ, as a ratio."""

_SHARES = {"textured": 1.0, "letters": 1.0, "repeat": 1.0, "max_overlap": 0.3, "gap": 0.1, "margin": 0.1}


def matches(shape: str, color: str, pattern: Pattern) -> bool:
    """Whether a thing of this shape and colour is like a habit's pattern."""
    return pattern[0] in (None, shape) and pattern[1] in (None, color)


def most_things(spec: SceneSpec) -> int:
    """How many things the scenes of a specification may hold, so that they can be placed apart: by the largest."""
    largest = max(RADII[size][1] for size in spec.sizes) * spec.scale
    return max(MOST_THINGS, min(MOST_SMALL_THINGS, int(_ROOM / (2 * largest) ** 2)))


def crowd_counts(spec: SceneSpec) -> range:
    """How many things of one shape a crowd can hold, every number as likely as another."""
    return range(math.ceil(spec.min_things / spec.crowd), spec.max_things // spec.crowd + 1)


def kinds_of(spec: SceneSpec) -> list[tuple[str, str]]:
    """Every (shape, color) that a thing can have under the spec."""
    shapes = (*spec.shapes, "letter") if spec.letters else spec.shapes
    return [(shape, color) for shape in shapes for color in spec.colors]


# --- reading and checking ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth, as JSON and YAML have them."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _typed(cls: type, mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping's values in the types of the dataclass's fields: lists as tuples, whole numbers as floats."""
    kinds = {field.name: str(field.type) for field in fields(cls)}
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in mapping]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in kinds:
            raise UserError(f"{where}: unknown key {name!r}; {nearest(str(name), kinds)}")
        kind = kinds[name]
        if kind.startswith(("tuple", "Pattern")):
            fits = isinstance(value, (list, tuple)) and all(part is None or isinstance(part, str) for part in value)
            value = tuple(value) if fits else value
        elif kind.startswith("Habit"):
            fits = value is None or isinstance(value, (Mapping, Habit))
        else:
            number = not isinstance(value, bool) and isinstance(value, int if kind == "int" else (int, float))
            fits = isinstance(value, bool) if kind == "bool" else number
        if not fits:
            meant = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(kind, "a list of names")
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
    kinds = kinds_of(spec)
    for role, pattern in (("cause", habit.cause), ("effect", habit.effect)):
        if len(pattern) != 2:
            raise UserError(
                f"scene spec: habit: {role} must be a shape and a colour (either may be null), not {pattern!r}"
            )
        if not any(matches(*kind, pattern) for kind in kinds):
            raise UserError(
                f"scene spec: habit: no thing of the spec's shapes and colors is like the {role} {pattern!r}"
            )
    if any(matches(*kind, habit.cause) and matches(*kind, habit.effect) for kind in kinds):
        raise UserError(f"scene spec: habit: a thing could be both cause {habit.cause!r} and effect {habit.effect!r}")
    if all(matches(*kind, habit.cause) or matches(*kind, habit.effect) for kind in kinds):
        raise UserError("scene spec: habit: every thing of the spec is cause or effect; add shapes or colors")


def _check_needles(spec: SceneSpec) -> None:
    if not 0 <= spec.needles <= spec.max_things:
        raise UserError(f"scene spec: needles must lie between 0 and max_things {spec.max_things}, not {spec.needles}")
    if spec.needles and (MINIATURE not in spec.sizes or len(spec.sizes) == 1):
        told = ", ".join(spec.sizes)
        raise UserError(f"scene spec: needles need sizes to hold {MINIATURE!r} and one more, not {told}")


def _check_crowd(spec: SceneSpec) -> None:
    if not spec.crowd:
        return
    if not 2 <= spec.crowd <= len(spec.shapes):
        raise UserError(
            f"scene spec: crowd must be 0 or lie between 2 and the number of shapes, {len(spec.shapes)}, "
            f"not {spec.crowd}"
        )
    if not crowd_counts(spec):
        raise UserError(
            f"scene spec: min_things {spec.min_things} and max_things {spec.max_things} leave no number that a crowd "
            f"of {spec.crowd} shapes could have of each"
        )
    if spec.letters or spec.habit is not None:
        raise UserError("scene spec: a crowd has neither letters nor a habit; set letters to 0 and habit to null")
