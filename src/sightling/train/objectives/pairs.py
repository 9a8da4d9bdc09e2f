"""Pictures with a caption each: what contrastive and word objectives learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from sightling.data.sample import Sample
from sightling.data.source import Source, own_order
from sightling.errors import UserError
from sightling.model.inputs import OWN
from sightling.model.processor import VisionLanguageProcessor
from sightling.train.features.pictures import Shown, show
from sightling.train.features.store import FeatureStore

Pair = tuple[Shown, tuple[int, ...]]
"""A picture, shown whole, and its caption's token ids."""


class Pairs(Dataset[Any]):
    """One picture and one of its captions: the answer of the group's first sample with a picture.

    The encoder sees the picture as one square of its own size, whatever a model's tiling cuts for words to be said
    about it. ``store`` is where a frozen encoder's features are kept.
    """

    def __init__(
        self, source: Source, processor: VisionLanguageProcessor, max_length: int | None,
        store: FeatureStore | None = None,
    ) -> None:  # fmt: skip
        self.source = source
        self.processor = processor
        self.max_length = max_length
        self.store = store

    def __getitem__(self, index: int) -> Pair:
        sample = self._sample(index)
        shown = show(next(iter(sample.pictures())), self.processor, self.store, "whole")
        return shown, self._ids(sample, index)

    def caption(self, index: int) -> tuple[int, ...]:
        """The caption's token ids, without the picture."""
        return self._ids(self._sample(index), index)

    def _ids(self, sample: Sample, index: int) -> tuple[int, ...]:
        ids = self.processor.plain(sample.answer)
        if self.max_length is not None and len(ids) > self.max_length:
            raise UserError(
                f"the caption of pair {index} has {len(ids)} tokens, but objective.max_length is {self.max_length}"
            )
        return ids

    def _sample(self, index: int) -> Sample:
        for sample in self.source.group(index):
            if sample.answer and any(True for _ in sample.pictures()):
                return sample
        raise UserError(f"group {index} has no picture with a caption; this objective needs pairs")


class FinitePairs(Pairs):
    """Pairs of a source that ends."""

    def __len__(self) -> int:
        return len(self.source)

    def order(self, seed: int) -> Sequence[int] | None:
        """The source's own order."""
        return own_order(self.source, seed)


def open_pairs(
    source: Source, processor: VisionLanguageProcessor, max_length: int | None = None,
    store: FeatureStore | None = None,
) -> Pairs:  # fmt: skip
    """The pairs of a source, finite or endless as it is."""
    return (FinitePairs if len(source) else Pairs)(source, processor, max_length, store)


def largest_pair(processor: VisionLanguageProcessor, length: int) -> Pair:
    """A pair as large as they come: the encoder's square, black, and a caption of ``length`` tokens."""
    side = processor.image_processor.image_size
    pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    return Shown((side, side, OWN), pixels, alone=True), (0,) * length
