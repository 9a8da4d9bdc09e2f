"""``query_alignment``: a Q-Former's queries learn from captions what to look for, with no language model beside.

Source of the method: BLIP-2 (Li et al. 2023, arXiv:2301.12597), first stage. Three losses over one set of weights:

- ``itc``, contrast: a picture is as near to a text as the nearest of its queries; the rest of the batch, both ways.
- ``itm``, matching: are the two a pair? Each pair is asked thrice: as it is, its picture with a wrong text, and its
  text with a wrong picture. The wrong ones are hard: drawn by the softmax of the contrast's similarities.
- ``itg``, generation: the caption, token by token, by a text that sees the queries; so these must tell all of it.

The Q-Former is the model's connector and keeps what it learnt; the text half (:mod:`.text_half`) is thrown away after
the stage. The Q-Former's last matrix, into the language model's width, is not on the way and learns in the next stage.

What is summed and divided: each loss is a mean over its own units of the micro-batch, as in the original on one
device: pairs both ways, forms, and the tokens of all captions. Their weighted sum times the number of pairs is handed
to the loop, which divides by the pairs of the step. So the losses weigh as they are told, however long captions are,
and a step's loss is the mean over its micro-batches and processes, weighted by their pairs. Contrast and hard
negatives know only their own micro-batch: more of these to a step are no more negatives.

Captions that are equal to the letter are no negatives of each other, neither in the contrast nor in the drawing; a
pair with no other caption beside it has no wrong forms.

Legend: ``B`` pairs, ``P`` features, ``Q`` queries, ``T`` tokens, ``D`` width, ``F`` forms to be matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from sightling.data.sources import SOURCES
from sightling.errors import UserError
from sightling.parts import Part
from sightling.sight.connectors import QFormer
from sightling.train.features.pictures import gather, square_features
from sightling.train.objectives.base import OBJECTIVES, Batch, Objective
from sightling.train.objectives.pairs import Pair, largest_pair, open_pairs
from sightling.train.objectives.text_half import TextHalf

NAME = "query_alignment"


class QueryAlignmentOptions(Part):
    """Weights of the losses, 0 leaves one out; ``max_length`` of a caption; ``joint_width`` of the contrast.

    ``label_smoothing`` is that of contrast and generation; the original's code has 0.1 in both.
    """

    itc: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    itm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    itg: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    joint_width: int = Field(default=256, ge=1)
    max_length: int = Field(default=128, ge=4)

    @model_validator(mode="after")
    def _weights(self) -> QueryAlignmentOptions:
        if not (self.itc or self.itm or self.itg):
            raise ValueError("itc, itm and itg are all 0, so that nothing is learnt; give at least one a weight")
        if self.itm and not self.itc:
            raise ValueError("itm draws its negatives by what itc learns; give itc a weight too, or set itm to 0")
        return self


@OBJECTIVES.register(NAME)
class QueryAlignment(Objective):
    """Contrast, matching and generation through the connector, a Q-Former."""

    Options = QueryAlignmentOptions
    sources = SOURCES
    view = "whole"

    @classmethod
    def check_model(cls, section: Mapping[str, Any], where: str) -> None:
        """Refuse a model whose connector is told and is no Q-Former."""
        told = section.get("connector", {"type": "mlp"} if "encoder" in section else None)
        if isinstance(told, Mapping) and told.get("type") != "qformer":
            raise UserError(_needs(where, told.get("type")))

    @classmethod
    def check_features(cls, options: Part, where: str) -> None:
        """The Q-Former learns from a frozen encoder's features as they are."""

    def dataset(self) -> Dataset[Any]:
        """One item a pair."""
        store = self.features.store if self.features else None
        return open_pairs(self.data.open(self.seed), self.processor, self.options.max_length, store)

    def largest_item(self) -> Pair:
        """A pair with a caption of ``max_length`` tokens."""
        return largest_pair(self.processor, self.options.max_length)

    def extra(self) -> nn.Module:
        """The text half.

        Raises:
            UserError: the model's connector is no Q-Former, or one that reads instructions with words of its own.
        """
        torch.manual_seed(self.seed)
        model: Any = self.model
        connector = model.connector
        if not isinstance(connector, QFormer):
            raise UserError(_needs("objective", type(connector).__name__))
        if connector.options.reads_text:
            raise UserError(f"objective {NAME} brings a text half of its own; model.connector.instruction has another")
        vocabulary = model.get_input_embeddings().num_embeddings
        options = self.options
        self.half = TextHalf(connector.qformer.config, vocabulary, options.max_length, options.joint_width)
        return self.half

    def collate(self, items: list[Pair]) -> Batch:
        """Pixels, captions with their last token, padded, and which pairs hold the same caption."""
        if len(items) < 2:
            raise UserError(
                f"objective {NAME} compares the pairs of a micro-batch, and this one holds {len(items)}; raise "
                "per_device_train_batch_size, which processes on one device share"
            )
        texts = [torch.tensor([*ids, self.processor.stop_token_id]) for _, ids in items]
        ids_BT = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths_B = torch.tensor([len(text) for text in texts])
        captions = [ids for _, ids in items]
        return {
            **gather([shown for shown, _ in items]),
            "ids": ids_BT,
            "real": torch.arange(ids_BT.shape[1]) < lengths_B[:, None],
            "same": torch.tensor([[a == b for b in captions] for a in captions]),
        }

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return int(batch["ids"].shape[0])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted losses times the pairs, and each alone with its accuracy, times the pairs too.

        ``itc_accuracy``: pictures and texts whose nearest is their own or its equal. ``itm_accuracy``: forms told
        right; two of three are no pair, so that always saying so reaches 2/3. ``itg_accuracy``: tokens that argmax
        gets right.
        """
        options, ids_BT, real_BT, same_BB = self.options, batch["ids"], batch["real"], batch["same"]
        features_BPD = square_features(model, batch, self.features)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if options.itc:
            states = self.half(model.connector, features_BPD, ids_BT, real_BT, "unimodal")
            logits_BB = self.half.log_scale.exp() * self.half.similarities(*states)
            found["itc"] = contrast(logits_BB, same_BB, options.label_smoothing)
        if options.itm:
            found["itm"] = self._matching(model, batch, features_BPD, logits_BB)
        if options.itg:
            _, text_BTD = self.half(model.connector, features_BPD, ids_BT, real_BT, "causal")
            # The state of a token says the next: the first, which is not in the ids, says the first of them.
            words_KV = self.half.next_words(text_BTD[:, :-1][real_BT]).float()
            target_K = ids_BT[real_BT]
            said = F.cross_entropy(words_KV, target_K, label_smoothing=options.label_smoothing)
            found["itg"] = said, (words_KV.detach().argmax(-1) == target_K).float().mean()
        pairs = len(ids_BT)
        metrics = {name: pairs * loss.detach() for name, (loss, _) in found.items()}
        metrics |= {f"{name}_accuracy": pairs * right for name, (_, right) in found.items()}
        weighted = [getattr(options, name) * loss for name, (loss, _) in found.items()]
        return pairs * torch.stack(weighted).sum(), metrics

    def _matching(
        self, model: nn.Module, batch: Batch, features_BPD: Tensor, logits_BB: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy over the forms: pairs, pictures with wrong texts, texts with wrong pictures."""
        same_BB = batch["same"]
        own_B = torch.arange(len(same_BB), device=same_BB.device)
        texts_B, can_B = hard_negatives(logits_BB, same_BB)
        pictures_B, _ = hard_negatives(logits_BB.T, same_BB)
        picture_F, text_F = torch.cat([own_B, own_B, pictures_B]), torch.cat([own_B, texts_B, own_B])
        queries_FQD, _ = self.half(
            model.connector, features_BPD[picture_F], batch["ids"][text_F], batch["real"][text_F], "bidirectional"
        )
        logits_F2 = self.half.matching(queries_FQD).float()
        pair_F = torch.arange(len(logits_F2), device=same_BB.device) < len(same_BB)
        counted_F = torch.cat([torch.ones_like(can_B), can_B, can_B]).float()
        losses_F = F.cross_entropy(logits_F2, pair_F.long(), reduction="none")
        right_F = logits_F2.detach().argmax(1) == pair_F
        return (losses_F * counted_F).sum() / counted_F.sum(), (right_F * counted_F).sum() / counted_F.sum()

    def tokens(self, batch: Batch) -> tuple[int, int]:
        """Real caption tokens, and all with padding."""
        return int(batch["real"].sum()), batch["real"].numel()


def _needs(where: str, kind: Any) -> str:
    return f"{where}: {NAME} teaches a Q-Former; set model.connector to {{type: qformer}}, not to {str(kind)!r}"


def contrast(logits_BB: Tensor, same_BB: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """The softmax loss and its accuracy, means over pairs and both ways; row and column number are a pair's.

    Equal captions off the diagonal are left out of the softmax, and smoothing spreads over what is left.
    """
    diagonal_BB = torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    counted_BB = diagonal_BB | ~same_BB
    losses, rights = [], []
    for way_BB in (logits_BB.float(), logits_BB.float().T):
        logp_BB = way_BB.masked_fill(~counted_BB, -torch.inf).log_softmax(1)
        spread_B = logp_BB.masked_fill(~counted_BB, 0.0).sum(1) / counted_BB.sum(1)
        losses.append(-((1 - label_smoothing) * logp_BB.diagonal() + label_smoothing * spread_B).mean())
        nearest_B1 = way_BB.detach().argmax(1, keepdim=True)
        rights.append(same_BB.gather(1, nearest_B1).float().mean())
    return torch.stack(losses).mean(), torch.stack(rights).mean()


def hard_negatives(logits_BB: Tensor, same_BB: Tensor) -> tuple[Tensor, Tensor]:
    """For each row a column of another caption, drawn by the softmax of the row; and which rows have one at all.

    What is drawn for a row that has none means nothing.
    """
    can_B = ~same_BB.all(1)
    chance_BB = logits_BB.detach().float().masked_fill(same_BB, -torch.inf).softmax(1)
    # A row without any would have no chances to draw by.
    chance_BB = chance_BB.where(can_B[:, None], torch.ones_like(chance_BB))
    return torch.multinomial(chance_BB, 1)[:, 0], can_B
