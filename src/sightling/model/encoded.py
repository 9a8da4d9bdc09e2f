"""A sample as a model is given it: tokens, labels, pictures in the order of their placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightling.data.sample import Picture
from sightling.model.spatial import Places, Position


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as tokens.

    Attributes:
        input_ids: token ids, placeholders expanded.
        labels: the same ids where the loss counts them, -100 elsewhere.
        pictures: the pictures in the order of their placeholders.
        trunk: how many leading tokens, up to the end of the last picture of the first user turn,
            other samples about the same pictures would share; 0 when no picture opens the sample.
        trunk_pictures: how many of the pictures stand in the trunk.
        places: for a language model that is told them (:mod:`sightling.model.spatial`), each token's place in time,
            by row and by column; None for one that numbers its tokens itself.
        words: for each picture the words that it is read with, as ids of the Q-Former's own
            (:mod:`sightling.model.instruction`); empty where pictures are read without.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    pictures: tuple[Picture, ...]
    trunk: int
    trunk_pictures: int = 0
    places: Places | None = None
    words: tuple[tuple[int, ...], ...] = ()

    @property
    def positions(self) -> Sequence[Position]:
        """The position of each token: its number, or its place."""
        return range(len(self.input_ids)) if self.places is None else self.places

    @property
    def end(self) -> int:
        """The position of a word that would follow: behind the largest number."""
        return len(self.input_ids) if self.places is None else 1 + max(max(place) for place in self.places)
