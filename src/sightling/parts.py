"""What parts have in common: closed options that name a wrong key in one sentence.

A part is a pydantic model that forbids unknown keys. A recipe writes it as a mapping with ``type``;
:func:`make` looks the type up and validates the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sightling.errors import UserError, nearest
from sightling.registry import Registry


class Part(BaseModel):
    """Closed, immutable options of a part."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=BaseModel)


def one_sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first problem of a pydantic error, told as one sentence with its key and what would be right."""
    first = error.errors()[0]
    path = ".".join(str(step) for step in first["loc"])
    key = f"{where}.{path}" if path else where
    if first["type"] == "extra_forbidden":
        return f"{where} has no key {path!r}; {nearest(path, model.model_fields)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {first['input']!r} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"


def validate(model: type[P], options: Mapping[str, Any], where: str) -> P:
    """``model(**options)``, or a :class:`UserError` that names the key.

    Raises:
        UserError: an unknown key (with the nearest known one) or a wrong value, in one sentence.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(one_sentence(error, model, where)) from None


def make(registry: Registry[type[P]], options: Mapping[str, Any], where: str) -> P:
    """The part that ``options["type"]`` names, with the other options checked.

    Raises:
        UserError: no ``type``, an unknown type, an unknown key or a wrong value.
    """
    rest = dict(options)
    name = rest.pop("type", None)
    if not isinstance(name, str):
        raise UserError(f"{where} needs a type; {nearest('', registry.names())}")
    return validate(registry.get(name, where=f"{where}.type"), rest, where)
