"""The towers that are known: by transformers' ``model_type``, and by the name that a recipe writes."""

from __future__ import annotations

from collections.abc import Callable

from sightling.sight.encoders.tower import Tower

TOWERS: dict[str, Tower] = {}
"""By ``model_type``."""

TYPES: dict[str, str] = {}
"""``model_type`` by what a recipe writes as ``encoder.type``."""


def register(name: str, model_type: str) -> Callable[[type[Tower]], type[Tower]]:
    """Decorator: a class of towers, by both its names. A name taken twice is a bug and raises ``ValueError``."""

    def add(kind: type[Tower]) -> type[Tower]:
        if name in TYPES or model_type in TOWERS:
            raise ValueError(f"an encoder {name!r} or {model_type!r} is registered already")
        TYPES[name], TOWERS[model_type] = model_type, kind()
        return kind

    return add
