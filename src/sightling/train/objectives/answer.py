"""``answer``: say the assistant's words, given the picture and the question. The loss counts those words only.

Samples about one picture share it in a packed row (:mod:`sightling.train.packing`), but not where a picture is read
with the user's words (:mod:`sightling.model.instruction`): another question makes other tokens of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from sightling.data.augment import Augment
from sightling.data.sample import Picture, Sample
from sightling.data.source import own_order
from sightling.data.sources import SOURCES, Source
from sightling.errors import UserError
from sightling.model.inputs import OWN
from sightling.model.instruction import reading
from sightling.model.mask import TRUNK
from sightling.model.modeling import IGNORED
from sightling.model.processor import Encoded, VisionLanguageProcessor
from sightling.model.templates import TEMPLATES
from sightling.parts import Part, make
from sightling.sight.connectors import CONNECTORS
from sightling.train.features.pictures import Shown, gather, look, show
from sightling.train.features.store import FeatureStore
from sightling.train.objectives.base import OBJECTIVES, TYPICAL, Batch, Objective
from sightling.train.packing import Document, can_share, check_length, collate_rows, document, fill_rows

TENSORS = ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")

WORTH = 16
"""Fewer tokens than this that samples without pictures begin with together are not worth a trunk."""

_OTHER = 0
"""A token that is no placeholder, where its value is of no matter."""

Item = tuple[Document, tuple[Shown, ...]]
"""A document, and its pictures in the order of their placeholders."""


class AnswerOptions(Part):
    """``max_length``: no row is longer. ``pack``: several documents a row; otherwise a row each.

    ``share``: samples about one picture, or about one text, share its tokens; otherwise each has its own copy, as each
    has where a picture is read with the user's words.
    ``augment``: how pictures are changed each time they are seen; nothing when left out.
    ``template``: a chat template for this stage alone, as LLaVA's first stage has captions without roles; the
    model's own when left out. Its control tokens must be the model's, too.
    ``logits_chunk``: the logits of so many supervised positions are there at once, 0 for all of them; as many as make
    2**25 logits when left out (:mod:`sightling.model.head`).
    ``encode_once``: a picture that several documents of a micro-batch show goes through the encoder once.
    ``trim``: the last layer's feed-forward runs at supervised positions only (:mod:`sightling.model.trimming`).
    """

    max_length: int = Field(default=1024, ge=16)
    pack: bool = True
    share: bool = True
    augment: Augment = Augment()
    template: str | None = None
    logits_chunk: int | None = Field(default=None, ge=0)
    encode_once: bool = True
    trim: bool = True

    @field_validator("template")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            TEMPLATES.get(value)
        return value


class Groups(Dataset[Any]):
    """Documents and their pictures, by the source's index; ``store`` is where a frozen encoder's features are kept."""

    def __init__(
        self, source: Source, processor: VisionLanguageProcessor, options: AnswerOptions,
        store: FeatureStore | None = None,
    ) -> None:  # fmt: skip
        self.source = source
        self.processor = processor
        self.options = options
        self.store = store

    def __getitem__(self, index: int) -> list[Item]:
        samples = list(self.source.group(index))
        if self.options.augment != Augment():
            samples = augmented(samples, self.options.augment)
        encoded = [self.processor.encode(sample) for sample in samples]
        known: dict[int, Shown] = {}
        items: list[Item] = []
        for group in _together(encoded, self.options.share, self.options.max_length):
            whole = document(group)
            check_length(whole, self.options.max_length, f"a sample of group {index}", self.processor)
            for picture in whole.pictures:
                if id(picture) not in known:
                    known[id(picture)] = show(picture, self.processor, self.store)
            words = whole.words or ((),) * len(whole.pictures)
            shown = [known[id(picture)].read_with(own) for picture, own in zip(whole.pictures, words, strict=True)]
            items.append((whole.without_pictures(), tuple(shown)))
        return items


def augmented(samples: list[Sample], augment: Augment) -> list[Sample]:
    """The samples with their pictures changed; what was one picture stays one. Draws from Python's generator."""
    changed: dict[int, Picture] = {}

    def change(part: str | Picture) -> str | Picture:
        if isinstance(part, str):
            return part
        if id(part) not in changed:
            changed[id(part)] = augment(part, Random(random.getrandbits(64)))
        return changed[id(part)]

    return [
        replace(sample, turns=tuple(replace(turn, parts=tuple(map(change, turn.parts))) for turn in sample.turns))
        for sample in samples
    ]


class FiniteGroups(Groups):
    """Groups of a source that ends."""

    def __len__(self) -> int:
        return len(self.source)

    def order(self, seed: int) -> Sequence[int] | None:
        """The source's own order."""
        return own_order(self.source, seed)


def _together(encoded: list[Encoded], share: bool, max_length: int) -> list[list[Encoded]]:
    """Samples that can share a trunk, in order; each alone where they cannot or shall not.

    Samples that together would not fit into a row make several groups, each with the trunk.
    """
    if not share:
        return [[one] for one in encoded]
    encoded = _begun_alike(encoded)
    groups: list[list[Encoded]] = []
    open_groups: dict[tuple, int] = {}
    lengths: list[int] = []
    for number, one in enumerate(encoded):
        alike = (one.input_ids[: one.trunk], one.words, *(id(p) for p in one.pictures))
        key: tuple = alike if can_share(one) else (number,)
        place = open_groups.get(key)
        own = len(one.input_ids) - one.trunk
        if place is not None and lengths[place] + own <= max_length:
            groups[place].append(one)
            lengths[place] += own
            continue
        open_groups[key] = len(groups)
        groups.append([one])
        lengths.append(len(one.input_ids))
    return groups


def _begun_alike(encoded: list[Encoded]) -> list[Encoded]:
    """Samples without pictures that begin alike, such as questions about one description, get a trunk to share."""
    found = list(encoded)
    heads: list[tuple[int, list[int], int]] = []
    for number, one in enumerate(encoded):
        if one.pictures or one.trunk:
            continue
        for place, (head, members, shared) in enumerate(heads):
            alike = _alike(encoded[head], one)
            if min(alike, shared) >= WORTH:
                heads[place] = (head, [*members, number], min(alike, shared))
                break
        else:
            heads.append((number, [number], _prompt(one)))
    for _, members, shared in heads:
        for number in members if len(members) > 1 else ():
            found[number] = replace(encoded[number], trunk=shared)
    return found


def _prompt(one: Encoded) -> int:
    """How many tokens stand before the first that the loss counts."""
    return next((place for place, label in enumerate(one.labels) if label != IGNORED), len(one.labels))


def _alike(one: Encoded, other: Encoded) -> int:
    """How many tokens, none of them counted, two samples begin with together."""
    most = min(_prompt(one), _prompt(other))
    pairs = enumerate(zip(one.input_ids[:most], other.input_ids[:most]))
    return next((place for place, (first, second) in pairs if first != second), most)


@OBJECTIVES.register("answer")
class Answer(Objective):
    """Cross-entropy of the assistant's words."""

    Options = AnswerOptions
    sources = SOURCES

    def dataset(self) -> Dataset[Any]:
        """One item a picture: the samples about it."""
        return self._groups(self.data.open(self.seed))

    def _groups(self, source: Source) -> Groups:
        kind = FiniteGroups if len(source) else Groups
        spoken = self.options.template
        processor = self.processor if spoken is None else self.processor.speaking(spoken)
        return kind(source, processor, self.options, self.features.store if self.features else None)

    @classmethod
    def check_features(cls, options: Part, where: str) -> None:
        """Refuse pictures that are changed each time they are seen."""
        if isinstance(options, AnswerOptions) and options.augment != Augment():
            raise UserError(
                f"{where}.features.cache needs pictures that stay as they are, but {where}.objective.augment changes "
                "them; leave one of the two out"
            )

    def largest_item(self) -> list[Item]:
        """A document that fills a row: a picture, and then words, all of them supervised."""
        images, most = self.processor.image_processor, self.options.max_length
        pieces = images.pieces(*TYPICAL)
        places = sum(piece if isinstance(piece, int) else 1 for piece in pieces)
        if places >= most:
            raise UserError(
                f"a picture of {TYPICAL[0]} x {TYPICAL[1]} pixels takes {places} tokens, which leaves no room for "
                f"words in max_length = {most}; raise it"
            )
        ids: list[int] = []
        for piece in pieces:
            ids += [self.processor.image_token_id] * piece if isinstance(piece, int) else [_OTHER]
        shown: tuple[Shown, ...] = ()
        if any(isinstance(piece, int) for piece in pieces):
            plan = images.plan(*TYPICAL)
            width, height = (max(tile.canvas[axis] for tile in plan) for axis in (0, 1))
            pixels = torch.zeros(len(plan), 3, height, width, dtype=torch.uint8)
            words_read = reading(make(CONNECTORS, images.connector, "connector"))
            length = 0 if words_read is None else words_read.max_position_embeddings
            # Batches are made of such items, whose pictures stand for as many different ones.
            shown = (Shown((*TYPICAL[::-1], OWN), pixels, words=(_OTHER,) * length, alone=True),)
        words = [_OTHER] * (most - len(ids))
        labels = [IGNORED] * len(ids) + words
        labels[0] = IGNORED
        spatial = self.processor.spatial
        positions: list[Any] = [(place, place, place) if spatial else place for place in range(most)]
        return [(Document(ids + words, labels, positions, [TRUNK] * most, (), 1), shown)]

    def collate(self, items: list[list[Item]]) -> Batch:
        """Documents packed into rows, pictures in the order of the rows' placeholders."""
        documents = [part for item in items for part in item]
        lengths = [len(part) for part, _ in documents]
        rows = fill_rows(lengths, self.options.max_length) if self.options.pack else [[i] for i in range(len(lengths))]
        batch: Batch = collate_rows([part for part, _ in documents], rows, self.processor.pad_token_id)
        shown = [picture for row in rows for index in row for picture in documents[index][1]]
        batch |= gather(shown, once=self.options.encode_once)
        batch["samples"] = sum(part.samples for part, _ in documents)
        return batch

    def count(self, batch: Batch) -> int:
        """Supervised tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed cross-entropy, and ``accuracy``: supervised tokens that argmax gets right."""
        tensors = {name: batch[name] for name in TENSORS}
        shown = look(model, batch, self.features)
        told = {"logits_chunk": self.options.logits_chunk, "trim": self.options.trim}
        loss, hits = model.supervised_loss(**tensors, **shown, **told)  # type: ignore[operator]
        return loss, {"accuracy": hits}

    def tokens(self, batch: Batch) -> tuple[int, int]:
        """Real tokens, and all with padding."""
        return int((batch["document_ids"] >= 0).sum()), batch["document_ids"].numel()

    def samples(self, batch: Batch) -> int:
        """Question-answer pairs."""
        return int(batch["samples"])
