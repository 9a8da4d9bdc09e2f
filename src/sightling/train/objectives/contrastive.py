"""``contrastive``: pictures and their captions find each other (CLIP's softmax, SigLIP's sigmoid).

Sources of the method: Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP).

Legend: ``B`` pairs, ``T`` tokens, ``P`` features, ``D`` joint width.

The encoder learns; a small text tower and the two projections learn beside it and are thrown away
after the stage. Captions that are equal to the letter are no negatives of each other.
"""

from __future__ import annotations

import math
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


class ContrastiveOptions(Part):
    """``loss``: ``sigmoid`` or ``softmax``; ``width`` and ``layers`` of the text tower; ``max_length`` of a caption.

    ``pool`` makes one vector of a picture's features: ``max`` lets one patch speak for a thing wherever it
    is, which small encoders learn from in far fewer steps than from the ``mean``.
    """

    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    pool: Literal["max", "mean"] = "max"
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    max_length: int = Field(default=128, ge=4)


class Towers(nn.Module):
    """What learns beside the encoder: a text tower, two projections, temperature and bias."""

    def __init__(self, vocabulary: int, picture_width: int, options: ContrastiveOptions) -> None:
        super().__init__()
        width = options.width
        self.pool = options.pool
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(options.max_length, width)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, options.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.picture_projection = nn.Linear(picture_width, width, bias=False)
        # SigLIP's start: temperature 10, bias -10; CLIP's temperature starts at 1 / 0.07 and has no bias.
        sigmoid = options.loss == "sigmoid"
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0) if sigmoid else math.log(1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(-10.0 if sigmoid else 0.0), requires_grad=sigmoid)

    def picture(self, features_BPD: Tensor) -> Tensor:
        """Unit vectors_BD: a picture's features pooled over its patches, projected."""
        pooled_BD = features_BPD.amax(1) if self.pool == "max" else features_BPD.mean(1)
        return F.normalize(self.picture_projection(pooled_BD), dim=-1)

    def caption(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Unit vectors_BD: the mean over a caption's real tokens, projected."""
        hidden_BTD = self.words(ids_BT) + self.places.weight[: ids_BT.shape[1]]
        hidden_BTD = self.text(hidden_BTD, src_key_padding_mask=~real_BT)
        weight_BT = real_BT.to(hidden_BTD.dtype)
        mean_BD = (hidden_BTD * weight_BT[..., None]).sum(1) / weight_BT.sum(1, keepdim=True)
        return F.normalize(self.text_projection(mean_BD), dim=-1)


@OBJECTIVES.register("contrastive")
class Contrastive(Objective):
    """Image-text contrast within the micro-batch."""

    Options = ContrastiveOptions
    sources = SOURCES

    def dataset(self) -> Dataset[Any]:
        """One item a pair."""
        return open_pairs(self.data.open(self.seed), self.processor, self.options.max_length)

    def largest_item(self) -> Pair:
        """A pair with a caption of ``max_length`` tokens."""
        return largest_pair(self.processor, self.options.max_length)

    def extra(self) -> nn.Module:
        """The text tower and projections."""
        torch.manual_seed(self.seed)
        model: Any = self.model
        vocabulary = model.get_input_embeddings().num_embeddings
        self.towers = Towers(vocabulary, model.encoder.width, self.options)
        return self.towers

    def collate(self, items: list[Pair]) -> Batch:
        """Pixels, padded captions, and which pairs hold the same caption."""
        captions = [ids for _, ids in items]
        width = max(len(ids) for ids in captions)
        ids_BT = torch.zeros(len(items), width, dtype=torch.long)
        real_BT = torch.zeros(len(items), width, dtype=torch.bool)
        for row, ids in enumerate(captions):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            real_BT[row, : len(ids)] = True
        same = torch.tensor([[a == b for b in captions] for a in captions])
        return {
            "pixel_values": squares([shown for shown, _ in items]),
            "ids": ids_BT,
            "real": real_BT,
            "same": same,
        }

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return int(batch["ids"].shape[0])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over pairs, and ``accuracy``: pictures whose nearest caption is their own or its equal."""
        features_BPD = model.encoder(batch["pixel_values"])  # type: ignore[operator]
        pictures_BD = self.towers.picture(features_BPD)
        captions_BD = self.towers.caption(batch["ids"], batch["real"])
        logits_BB = self.towers.log_scale.exp() * pictures_BD @ captions_BD.T + self.towers.bias
        same_BB = batch["same"]
        loss = sigmoid_loss(logits_BB, same_BB) if self.options.loss == "sigmoid" else softmax_loss(logits_BB, same_BB)
        best_B = logits_BB.detach().argmax(1)
        hits = same_BB[torch.arange(len(best_B), device=best_B.device), best_B].sum()
        return loss, {"accuracy": hits}

    def tokens(self, batch: Batch) -> tuple[int, int]:
        """Real caption tokens, and all with padding."""
        return int(batch["real"].sum()), batch["real"].numel()


def sigmoid_loss(logits_BB: Tensor, same_BB: Tensor) -> Tensor:
    """SigLIP's loss summed over pictures: every pair is its own yes/no question.

    Equal captions off the diagonal are left out: whether picture and text were one pair cannot be told there.
    """
    diagonal_BB = torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    sign_BB = torch.where(diagonal_BB, 1.0, -1.0)
    counted_BB = diagonal_BB | ~same_BB
    return -(F.logsigmoid(sign_BB * logits_BB) * counted_BB).sum()


def softmax_loss(logits_BB: Tensor, same_BB: Tensor) -> Tensor:
    """CLIP's symmetric loss summed over pairs; equal captions off the diagonal are no negatives."""
    diagonal_BB = torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    masked_BB = logits_BB.masked_fill(same_BB & ~diagonal_BB, torch.finfo(logits_BB.dtype).min)
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    by_picture = F.cross_entropy(masked_BB, target_B, reduction="sum")
    by_caption = F.cross_entropy(masked_BB.T, target_B, reduction="sum")
    return (by_picture + by_caption) / 2
