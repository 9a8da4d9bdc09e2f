"""``words``: which words does the caption hold? The encoder learns to answer from the picture alone.

Source of the method: SuperClass (Huang et al. 2024, "Classification Done Right for Vision-Language
Pre-Training"): caption tokens are class labels, weighted by how rare they are; no text tower, no
negatives, so it works with small batches.

Legend: ``B`` pictures, ``P`` features, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from sightling.data.sources import SOURCES
from sightling.parts import Part
from sightling.train.features.pictures import squares
from sightling.train.objectives.base import OBJECTIVES, Batch, Objective
from sightling.train.objectives.pairs import Pair, largest_pair, open_pairs


class WordsOptions(Part):
    """``pool``: how patches speak for the picture; ``captions``: how many are read to weigh words by rarity."""

    pool: Literal["max", "mean"] = "max"
    captions: int = Field(default=1000, ge=1)


@OBJECTIVES.register("words")
class Words(Objective):
    """Cross-entropy between the predicted words and the caption's, each weighted by its rarity."""

    Options = WordsOptions
    sources = SOURCES

    def dataset(self) -> Dataset[Any]:
        """One item a picture with its caption."""
        pairs = open_pairs(self.data.open(self.seed), self.processor)
        self.rarity = rarity(pairs, self.options.captions, self.model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
        return pairs

    def largest_item(self) -> Pair:
        """A pair; how long its caption is changes nothing that is computed."""
        self.rarity = torch.ones(self.model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
        return largest_pair(self.processor, 1)

    def extra(self) -> nn.Module:
        """The classifier on top of the encoder."""
        torch.manual_seed(self.seed)
        model: Any = self.model
        width = model.encoder.width
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, model.get_input_embeddings().num_embeddings))
        return self.head

    def collate(self, items: list[Pair]) -> Batch:
        """Pixels and the distribution_BV of each caption's words."""
        target_BV = torch.zeros(len(items), len(self.rarity))
        for row, (_, ids) in enumerate(items):
            known = torch.tensor(sorted(set(ids)))
            target_BV[row, known] = self.rarity[known]
        target_BV /= target_BV.sum(1, keepdim=True).clamp(min=1e-6)
        words = sum(len(ids) for _, ids in items)
        return {"pixel_values": squares([shown for shown, _ in items]), "target": target_BV, "words": words}

    def count(self, batch: Batch) -> int:
        """Pictures."""
        return int(batch["target"].shape[0])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy above its least possible value (the targets' own entropy), summed over pictures."""
        features_BPD = model.encoder(batch["pixel_values"])  # type: ignore[operator]
        pooled_BD = features_BPD.amax(1) if self.options.pool == "max" else features_BPD.mean(1)
        target_BV = batch["target"]
        logits_BV = self.head(pooled_BD).float()
        divergence = F.kl_div(F.log_softmax(logits_BV, dim=-1), target_BV, reduction="sum")
        hits = torch.gather(target_BV, 1, logits_BV.detach().argmax(1, keepdim=True)) > 0
        return divergence, {"accuracy": hits.sum()}

    def tokens(self, batch: Batch) -> tuple[int, int]:
        """Words of the captions; nothing is padded."""
        return batch["words"], batch["words"]


def rarity(pairs: Dataset[Any], captions: int, vocabulary: int) -> Tensor:
    """Inverse document frequency_V of tokens over the first ``n`` captions: ``log((n + 1) / (documents + 1))``."""
    total = min(captions, len(pairs)) if hasattr(pairs, "__len__") else captions
    documents: Counter[int] = Counter()
    for index in range(total):
        documents.update(set(pairs.caption(index)))  # type: ignore[attr-defined]
    weights = torch.full((vocabulary,), math.log(total + 1))
    for token, count in documents.items():
        weights[token] = max(0.0, math.log((total + 1) / (count + 1)))
    return weights
