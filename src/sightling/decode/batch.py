"""Greedy answers for many samples at once: what an evaluation waits for.

Legend: ``B`` rows, ``T`` tokens, ``U`` trunks, ``D`` width, ``V`` vocabulary.

Samples about the same pictures are answered side by side. What they share, the trunk up to the end of
the pictures, runs through the language model once, and its keys and values are handed to every question
about it. Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightling.data.sample import Picture, Sample
from sightling.decode.decoder import Decoder, decoder_for
from sightling.decode.prompt import at_rest, encode_prompt, forbidden_ids, room, stop_ids
from sightling.decode.sampling import check_finite
from sightling.decode.visual import Seen, encode_pictures, visual_tokens
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import Encoded, VisionLanguageProcessor

Progress = Callable[[int, int], None]
"""Called with (samples answered, samples in all) after each batch."""


_Trunk = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[int, ...]]
"""What rows may share: the identities of their pictures, the words that these are read with, and the tokens."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A sample's place in the list, its prompt, how many tokens its answer may have."""

    index: int
    prompt: Encoded
    budget: int

    @property
    def shown(self) -> list[tuple[Picture, tuple[int, ...]]]:
        """The prompt's pictures, each with the words that it is read with."""
        return list(zip(self.prompt.pictures, self.prompt.words, strict=True))

    @property
    def trunk(self) -> _Trunk:
        """What other rows may share: the pictures (the same objects) and the tokens around them."""
        first = self.prompt.pictures[: self.prompt.trunk_pictures]
        words = self.prompt.words[: self.prompt.trunk_pictures]
        return tuple(id(picture) for picture in first), words, self.prompt.input_ids[: self.prompt.trunk]


def answer_all(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
    decoder: str = "auto",
) -> list[str]:
    """The model's greedy answers, in the order of the samples; a closing assistant turn is ignored.

    The same answers as ``model.generate(do_sample=False)`` gives each sample alone (to rounding: where two
    tokens are equally likely to seven digits, a batch may prefer the other). A ``Picture`` object that
    several samples share is encoded once. ``decoder`` is one of :data:`~sightling.decode.decoder.WAYS`.

    Raises:
        UserError: a picture cannot be read, a prompt fills the model's context, or a decoder cannot decode this model.
    """
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size} is too few; at least 1 is needed")
    chosen = decoder_for(model, decoder)
    rows = []
    for index, sample in enumerate(samples):
        prompt = encode_prompt(processor, sample)
        rows.append(_Row(index, prompt, room(model, processor, prompt, max_new_tokens)))
    answers = [""] * len(rows)
    done = 0
    with torch.inference_mode(), at_rest(model):
        features = _Features(model, processor, rows)
        for batch in _batches(rows, batch_size):
            features.need(batch)
            for row, ids in zip(batch, _answer(chosen, model, processor, batch, features)):
                answers[row.index] = processor.decode_answer(ids)
            features.release(batch)
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
    return answers


def _batches(rows: Sequence[_Row], batch_size: int) -> Iterator[list[_Row]]:
    """Batches in which rows that share a trunk are neighbours; longest prompts first.

    The longest come first so that what does not fit into memory is found at once.
    """
    groups: dict[_Trunk, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.trunk, []).append(row)
    ordered = sorted(groups.values(), key=lambda group: -max(len(row.prompt.input_ids) for row in group))
    flat = [row for group in ordered for row in group]
    for start in range(0, len(flat), batch_size):
        yield flat[start : start + batch_size]


class _Features:
    """What is seen by picture, kept from the first batch that needs it to the last."""

    def __init__(self, model: VisionLanguageModel, processor: VisionLanguageProcessor, rows: Sequence[_Row]) -> None:
        self._model = model
        self._processor = processor
        self._uses = Counter(id(picture) for row in rows for picture in row.prompt.pictures)
        self._known: dict[int, Seen] = {}

    def need(self, batch: Sequence[_Row]) -> None:
        """Encode the pictures of a batch that are not known yet."""
        pictures = {id(picture): picture for row in batch for picture in row.prompt.pictures}
        fresh = [picture for key, picture in pictures.items() if key not in self._known]
        for picture, seen in zip(fresh, encode_pictures(self._model, self._processor, fresh)):
            self._known[id(picture)] = seen

    def release(self, batch: Sequence[_Row]) -> None:
        """Forget the pictures that no later row asks about."""
        for row in batch:
            for picture in row.prompt.pictures:
                self._uses[id(picture)] -= 1
                if not self._uses[id(picture)]:
                    del self._known[id(picture)]

    def of(self, shown: Sequence[tuple[Picture, tuple[int, ...]]]) -> list[Tensor]:
        """The tokens_VD of each picture, with the words that it is read with."""
        seen = [self._known[id(picture)] for picture, _ in shown]
        return visual_tokens(self._model, seen, [words for _, words in shown])


def _prefill(decoder: Decoder, batch: Sequence[_Row], features: _Features) -> tuple[Any, Tensor]:
    """The prompts of a batch into fresh rows: (what is held, hidden_BD at each prompt's last token)."""
    trunks: dict[_Trunk, int] = {}
    for row in batch:
        trunks.setdefault(row.trunk, len(trunks))
    # A layer of another kind (a sliding window, a state) would count the padding between trunk and question.
    shared = decoder.plain and len(trunks) < len(batch) and any(row.prompt.trunk for row in batch)
    firsts = list({row.trunk: row for row in reversed(batch)}[key] for key in trunks) if shared else []
    held = decoder.start(len(firsts or batch))
    if shared:
        opening = features.of([one for row in firsts for one in row.shown[: row.prompt.trunk_pictures]])
        places = [row.prompt.places and row.prompt.places[: row.prompt.trunk] for row in firsts]
        decoder.feed(held, [row.prompt.input_ids[: row.prompt.trunk] for row in firsts], opening, places)
        held.repeat([trunks[row.trunk] for row in batch])
    starts = [(row.prompt.trunk, row.prompt.trunk_pictures) if shared else (0, 0) for row in batch]
    rest = [row.prompt.input_ids[start:] for row, (start, _) in zip(batch, starts)]
    pictures = [one for row, (_, seen) in zip(batch, starts) for one in row.shown[seen:]]
    places = [row.prompt.places and row.prompt.places[start:] for row, (start, _) in zip(batch, starts)]
    return held, decoder.feed(held, rest, features.of(pictures), places)


def _answer(
    decoder: Decoder, model: VisionLanguageModel, processor: VisionLanguageProcessor, batch: Sequence[_Row],
    features: _Features,
) -> list[list[int]]:  # fmt: skip
    """Greedy token ids of each row's answer, the stop token not among them."""
    stops = stop_ids(model, processor)
    forbidden = torch.tensor(forbidden_ids(model), dtype=torch.long, device=model.device)
    answers: list[list[int]] = [[] for _ in batch]
    rows = list(range(len(batch)))
    held, hidden_BD = _prefill(decoder, batch, features)
    while True:
        logits_BV = decoder.logits(hidden_BD)
        logits_BV.index_fill_(1, forbidden, -torch.inf)
        largest_B, chosen_B = logits_BV.max(-1)
        check_finite(largest_B)
        chosen = chosen_B.tolist()
        ended = []
        for place, (row, token) in enumerate(zip(rows, chosen)):
            if token not in stops:
                answers[row].append(token)
            if token in stops or len(answers[row]) == batch[row].budget:
                ended.append(place)
        if len(ended) == len(rows):
            return answers
        if ended:
            order = held.drop(ended)
            rows, chosen = [rows[place] for place in order], [chosen[place] for place in order]
        hidden_BD = decoder.feed(held, [[token] for token in chosen])
