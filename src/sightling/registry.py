"""Exact names for parts: what registers under a name can be written in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sightling.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary from exact names to parts of one kind.

    ``kind`` is how error messages call such a part ("connector", "objective", ...).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: ``@CONNECTORS.register("mlp")``. A name taken twice is a bug and raises ``ValueError``."""

        def add(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._parts[name]!r} and {part!r}")
            self._parts[name] = part
            return part

        return add

    def get(self, name: str, *, where: str = "") -> T:
        """The part of that exact name.

        Raises:
            UserError: an unknown name; the message names the nearest known one and ``where`` it was written.
        """
        if name not in self._parts:
            place = f"{where}: " if where else ""
            raise UserError(f"{place}there is no {self.kind} {name!r}; {nearest(str(name), self._parts)}")
        return self._parts[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))
