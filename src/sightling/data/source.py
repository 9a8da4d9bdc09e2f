"""Where training and evaluation get their samples: a source gives groups of samples by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sightling.data.sample import Sample
from sightling.parts import Part
from sightling.registry import Registry


class Source(Protocol):
    """Groups by index; the samples of a group share their pictures (the same ``Picture`` objects)."""

    def __len__(self) -> int:
        """How many groups there are; 0 says endless."""
        ...

    def group(self, index: int) -> Sequence[Sample]:
        """The samples of one group; the same index gives the same samples."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """What knows, of all its items, in which random order they are cheap to read."""

    def order(self, seed: int) -> Sequence[int] | None:
        """Every index once, in an order that the seed decides; ``None`` where any order is as cheap as another."""
        ...


def own_order(what: object, seed: int) -> Sequence[int] | None:
    """The order that something prefers, if it does."""
    return what.order(seed) if isinstance(what, Ordered) else None


def content(what: object) -> str:
    """A name for what a source, a mixture or a dataset of one reads, where that can be told; else an empty text.

    Only shards have one: their positions mean nothing once other shards stand among them.
    """
    own = getattr(what, "content", None)
    if isinstance(own, str):
        return own
    inner = getattr(what, "sources", None) or [getattr(what, "source", None)]
    return " ".join(filter(None, (content(one) for one in inner if one is not None)))


class SourceOptions(Part, ABC):
    """The ``data`` section of a stage; each type registers in :data:`SOURCES`."""

    @abstractmethod
    def open(self, seed: int) -> Source:
        """The source itself. ``seed`` is what its choices are drawn from where it makes any.

        Raises:
            UserError: what the options name does not exist or cannot be read.
        """


SOURCES: Registry[type[SourceOptions]] = Registry("data source")
