"""Clips: scenes that change over time, from 0 (the beginning) to 1 (the end).

A clip is a value and a function of time, so it can be looked at in as many frames as one likes: frame ``i`` of ``n``
shows the time ``(i + 0.5) / n``, the midpoint of its share. A video of the clip that is sampled at uniform midpoints
gives the same frames again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sightling.errors import UserError
from sightling.world.scene import Background, Scene, Thing

ALWAYS = ((0.0, 1.0),)


@dataclass(frozen=True, slots=True)
class Track:
    """One thing over time.

    Attributes:
        thing: how it looks, at the place it has at the time ``anchor``.
        step: how far it moves from the beginning to the end, as fractions of the picture's width and height; it moves
            straight and evenly.
        spans: when it is there: (from, until), the end of a span not included unless it is 1.
        turns: when it changes to the looks of ``after``; ``None`` never.
        after: the thing with its later colour; its place is not read.
    """

    thing: Thing
    step: tuple[float, float] = (0.0, 0.0)
    anchor: float = 0.0
    spans: tuple[tuple[float, float], ...] = ALWAYS
    turns: float | None = None
    after: Thing | None = None

    def at(self, time: float) -> Thing | None:
        """The thing at that time; ``None`` while it is not there."""
        if not any(since <= time < until or time == until == 1 for since, until in self.spans):
            return None
        looks = self.after if self.turns is not None and self.after is not None and time >= self.turns else self.thing
        passed = time - self.anchor
        return replace(
            looks,
            x=round(self.thing.x + passed * self.step[0], 4),
            y=round(self.thing.y + passed * self.step[1], 4),
        )


@dataclass(frozen=True, slots=True)
class Clip:
    """Tracks in painting order on a background that stays; ``aspect`` is width divided by height."""

    tracks: tuple[Track, ...]
    background: Background
    aspect: float = 1.0

    def at(self, time: float) -> Scene:
        """The scene at a time from 0 to 1.

        Raises:
            UserError: a time before the beginning or after the end.
        """
        if not 0 <= time <= 1:
            raise UserError(f"a clip runs from time 0 to time 1; there is no time {time}")
        shown = (track.at(time) for track in self.tracks)
        return Scene(tuple(thing for thing in shown if thing is not None), self.background, self.aspect)

    def frames(self, count: int) -> tuple[Scene, ...]:
        """``count`` scenes at the midpoints of equal shares of the time.

        Raises:
            UserError: fewer than one.
        """
        if count < 1:
            raise UserError(f"a clip cannot be shown in {count} frames; at least 1 is needed")
        return tuple(self.at((index + 0.5) / count) for index in range(count))
