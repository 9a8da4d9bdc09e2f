"""``language``: predict the next word of plain text. No pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from sightling.data.source import own_order
from sightling.data.texts import TEXTS, TextSource
from sightling.model.modeling import IGNORED
from sightling.model.processor import VisionLanguageProcessor
from sightling.parts import Part
from sightling.train.objectives.answer import TENSORS
from sightling.train.objectives.base import OBJECTIVES, Batch, Objective
from sightling.train.packing import Document, collate_rows, fill_rows


class LanguageOptions(Part):
    """``max_length``: tokens a row; longer texts are cut into several documents.

    ``logits_chunk``: the logits of so many positions are there at once, as in the objective ``answer``.
    """

    max_length: int = Field(default=512, ge=16)
    logits_chunk: int | None = Field(default=None, ge=0)


class Texts(Dataset[Any]):
    """Documents of plain text by index; the stop token ends each."""

    def __init__(self, source: TextSource, processor: VisionLanguageProcessor, max_length: int) -> None:
        self.source = source
        self.processor = processor
        self.max_length = max_length

    def __getitem__(self, index: int) -> list[Document]:
        ids = [*self.processor.plain(self.source.text(index)), self.processor.stop_token_id]
        return [_plain(ids[start : start + self.max_length]) for start in range(0, len(ids), self.max_length)]


class FiniteTexts(Texts):
    """Texts of a source that ends."""

    def __len__(self) -> int:
        return len(self.source)

    def order(self, seed: int) -> Sequence[int] | None:
        """The source's own order."""
        return own_order(self.source, seed)


def _plain(ids: list[int]) -> Document:
    # Nothing stands before the first token to predict it from.
    labels = [IGNORED, *ids[1:]]
    return Document(ids, labels, list(range(len(ids))), [0] * len(ids), (), 1)


@OBJECTIVES.register("language")
class Language(Objective):
    """Cross-entropy of every token but the first of each text."""

    Options = LanguageOptions
    sources = TEXTS

    def dataset(self) -> Dataset[Any]:
        """One item a text."""
        source = self.data.open(self.seed)
        kind = FiniteTexts if len(source) else Texts
        return kind(source, self.processor, self.options.max_length)

    def largest_item(self) -> list[Document]:
        """A text that fills a row."""
        return [_plain([0] * self.options.max_length)]

    def collate(self, items: list[list[Document]]) -> Batch:
        """Texts packed into rows of about the same length."""
        documents = [document for item in items for document in item]
        rows = fill_rows([len(document) for document in documents], self.options.max_length)
        batch: Batch = collate_rows(documents, rows, self.processor.pad_token_id)
        batch["samples"] = len(items)
        return batch

    def count(self, batch: Batch) -> int:
        """Supervised tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed cross-entropy, and ``accuracy``: tokens that argmax gets right."""
        tensors = {name: batch[name] for name in TENSORS}
        loss, hits = model.supervised_loss(**tensors, logits_chunk=self.options.logits_chunk)  # type: ignore[operator]
        return loss, {"accuracy": hits}

    def tokens(self, batch: Batch) -> tuple[int, int]:
        """Real tokens, and all with padding."""
        return int((batch["document_ids"] >= 0).sum()), batch["document_ids"].numel()

    def samples(self, batch: Batch) -> int:
        """Texts."""
        return int(batch["samples"])
