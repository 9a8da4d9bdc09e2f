"""What parts have in common: closed options that name a wrong key in one sentence.

A part is a pydantic model that forbids unknown keys. A recipe writes it as a mapping with ``type``;
:func:`make` looks the type up and validates the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sightling.errors import UserError, nearest
from sightling.registry import Registry


class Part(BaseModel):
    """Closed, immutable options of a part."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def check(self) -> None:
        """Look for what the options name, files say, reading no more than that takes. A run asks before it writes.

        Raises:
            UserError: it does not exist, or is not what it should be.
        """


P = TypeVar("P", bound=BaseModel)

LONGEST_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def one_sentence(error: ValidationError, model: type[BaseModel], told: Mapping[str, Any], where: str) -> str:
    """The first problem of a pydantic error, told as one sentence with its key and what would be right.

    ``told`` is what was validated; of the ways to read a value that may be several things, the problem that lies
    deepest in it is told.
    """
    problems = error.errors()
    chosen = [problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]]
    first = max(chosen, key=lambda problem: len(_steps(problem, told)))
    if first["type"] == "missing":
        # A key that is missing may stand there misspelt, which says more.
        beside = [problem for problem in problems if problem["loc"][:-1] == first["loc"][:-1]]
        first = next((problem for problem in beside if problem["type"] == "extra_forbidden"), first)
    steps = _steps(first, told)
    key = ".".join([where, *map(str, steps)])
    if first["type"] == "extra_forbidden":
        owner = ".".join([where, *map(str, steps[:-1])])
        return f"{owner} has no key {str(steps[-1])!r}; {nearest(str(steps[-1]), _fields(model, steps[:-1]))}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}"
    shown = repr(first["input"])
    shown = shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "..."
    return f"{key} = {shown} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"


def _steps(problem: ErrorDetails, told: Any) -> list[str | int]:
    """The keys and places that lead to a problem; pydantic's names for the branches of a union are left out."""
    steps: list[str | int] = []
    for number, step in enumerate(problem["loc"]):
        inside = isinstance(told, Mapping) and step in told
        inside = inside or (isinstance(told, (list, tuple)) and isinstance(step, int) and step < len(told))
        if inside:
            told = told[step]
        if inside or (problem["type"] == "missing" and number == len(problem["loc"]) - 1):
            steps.append(step)
    return steps


def _fields(model: type[BaseModel], steps: Sequence[str | int]) -> list[str]:
    """The keys that the model at the end of a path knows; none where it cannot be told."""
    if not steps:
        return list(model.model_fields)
    field = model.model_fields.get(str(steps[0]))
    inner = [] if field is None else [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
    rest = steps[1:] if len(steps) < 2 or isinstance(steps[1], str) else steps[2:]
    return [name for kind in inner for name in _fields(kind, rest)]


def _kinds(annotation: Any) -> list[type]:
    """Every class that an annotation mentions."""
    found = [annotation] if isinstance(annotation, type) else []
    return found + [kind for part in get_args(annotation) for kind in _kinds(part)]


def validate(model: type[P], options: Mapping[str, Any], where: str) -> P:
    """``model(**options)``, or a :class:`UserError` that names the key.

    Raises:
        UserError: an unknown key (with the nearest known one) or a wrong value, in one sentence.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(one_sentence(error, model, options, where)) from None
    except UserError as error:
        # A part within the part was refused while it was read; its key is told from here.
        raise UserError(f"{where}.{error}") from None


def make(registry: Registry[type[P]], options: Mapping[str, Any], where: str) -> P:
    """The part that ``options["type"]`` names, with the other options checked.

    Raises:
        UserError: no ``type``, an unknown type, an unknown key or a wrong value.
    """
    rest = dict(options)
    name = rest.pop("type", None)
    if name is None:
        raise UserError(f"{where} needs a type; {nearest('', registry.names())}")
    return validate(registry.get(str(name), where=f"{where}.type"), rest, where)
