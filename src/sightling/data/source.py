"""Where training and evaluation get their samples: a source gives groups of samples by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

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


class SourceOptions(Part, ABC):
    """The ``data`` section of a stage; each type registers in :data:`SOURCES`."""

    @abstractmethod
    def open(self, seed: int) -> Source:
        """The source itself. ``seed`` is what its choices are drawn from where it makes any.

        Raises:
            UserError: what the options name does not exist or cannot be read.
        """


SOURCES: Registry[type[SourceOptions]] = Registry("data source")
