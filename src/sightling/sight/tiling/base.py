"""What every tiling scheme offers: a plan from a size, before a pixel is decoded."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from sightling.parts import Part
from sightling.registry import Registry


@dataclass(frozen=True, slots=True)
class Placement:
    """One encoder input made from a picture.

    ``crop`` (left, top, right, bottom), in the picture's pixels, is scaled to ``scaled`` (width, height)
    and pasted at ``offset`` on a canvas of ``canvas`` (width, height); what it does not cover is filled.
    """

    crop: tuple[int, int, int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    canvas: tuple[int, int]


class Tiling(Part):
    """A scheme with its options; subclasses register in :data:`TILINGS`."""

    @abstractmethod
    def plan(self, width: int, height: int, image_size: int) -> tuple[Placement, ...]:
        """The encoder inputs, in order, for a picture of ``width`` x ``height`` pixels."""


TILINGS: Registry[type[Tiling]] = Registry("tiling scheme")
