"""Pictures with a caption each: what contrastive and word objectives learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sightling.data.sample import Sample
from sightling.data.source import Source, own_order
from sightling.errors import UserError
from sightling.model.processor import VisionLanguageProcessor


class Pairs(Dataset[Any]):
    """One picture and one of its captions: the answer of the group's first sample with a picture.

    The encoder sees the picture as one square of its own size, whatever a model's tiling cuts for words to be said
    about it.
    """

    def __init__(self, source: Source, processor: VisionLanguageProcessor, max_length: int | None) -> None:
        self.source = source
        self.processor = processor
        self.max_length = max_length

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[int, ...]]:
        sample = self._sample(index)
        image = next(iter(sample.pictures())).load()
        return self.processor.image_processor.whole(image), self._ids(sample, index)

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


def open_pairs(source: Source, processor: VisionLanguageProcessor, max_length: int | None = None) -> Pairs:
    """The pairs of a source, finite or endless as it is."""
    return (FinitePairs if len(source) else Pairs)(source, processor, max_length)


def largest_pair(processor: VisionLanguageProcessor, length: int) -> tuple[Tensor, tuple[int, ...]]:
    """A pair as large as they come: the encoder's square, black, and a caption of ``length`` tokens."""
    side = processor.image_processor.image_size
    return torch.zeros(1, 3, side, side, dtype=torch.uint8), (0,) * length
