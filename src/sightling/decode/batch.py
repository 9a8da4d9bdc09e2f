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

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from sightling.data.sample import Picture, Sample
from sightling.decode.cache import is_plain, new_cache
from sightling.decode.prompt import at_rest, encode_prompt, forbidden_ids, room, stop_ids
from sightling.decode.sampling import check_finite
from sightling.decode.visual import Seen, encode_pictures, in_row_order, visual_tokens
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import Encoded, VisionLanguageProcessor
from sightling.model.spatial import Places, position_ids

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
) -> list[str]:
    """The model's greedy answers, in the order of the samples; a closing assistant turn is ignored.

    The same answers as ``model.generate(do_sample=False)`` gives each sample alone (to rounding: where two
    tokens are equally likely to seven digits, a batch may prefer the other). A ``Picture`` object that
    several samples share is encoded once.

    Raises:
        UserError: a picture cannot be read, or a prompt fills the model's context.
    """
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size} is too few; at least 1 is needed")
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
            for row, ids in zip(batch, _answer(model, processor, batch, features)):
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


@dataclass
class _State:
    """Where a batch stands: its cache, which cached tokens_BT count, the next position_B."""

    cache: DynamicCache
    valid_BT: Tensor
    next_B: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows only."""
        self.cache.batch_select_indices(rows)
        self.valid_BT, self.next_B = self.valid_BT[rows], self.next_B[rows]


def _feed(
    model: VisionLanguageModel,
    state: _State,
    tokens: Sequence[Sequence[int]],
    features: list[Tensor],
    pad: int,
    places: Sequence[Places | None] = (),
) -> Tensor:
    """Run further tokens, left-padded to one length, behind what is cached; hidden_BD of each row's last.

    ``places`` are those of prompts whose tokens have any; further words are numbered behind what is there.
    """
    length = max(len(row) for row in tokens)
    ids_BT = torch.tensor([[pad] * (length - len(row)) + list(row) for row in tokens], device=model.device)
    sizes_B = torch.tensor([len(row) for row in tokens], device=model.device)
    offset_BT = torch.arange(length, device=model.device) - (length - sizes_B)[:, None]
    state.valid_BT = torch.cat([state.valid_BT, offset_BT >= 0], dim=1)
    positions_BT = (state.next_B[:, None] + offset_BT).clamp_min(0)
    state.next_B = state.next_B + sizes_B
    told = [own for own in places if own is not None]
    if told:
        rows = [((0, 0, 0),) * (length - len(own)) + own for own in told]
        positions_BT = position_ids(rows).to(model.device)
        state.next_B = torch.where(sizes_B > 0, positions_BT.amax((0, 2)) + 1, state.next_B)
    output = model.decode(
        ids_BT,
        image_features_NQD=in_row_order(features),
        # Without padding transformers takes its faster way.
        attention_mask=None if bool(state.valid_BT.all()) else state.valid_BT.long(),
        position_ids_BT=positions_BT,
        past_key_values=state.cache,
        use_cache=True,
    )
    return output.last_hidden_state[:, -1]


def _prefill(model: VisionLanguageModel, batch: Sequence[_Row], features: _Features, pad: int) -> tuple[_State, Tensor]:
    """The prompts of a batch into a fresh cache: (state, hidden_BD at each prompt's last token)."""
    trunks: dict[_Trunk, int] = {}
    for row in batch:
        trunks.setdefault(row.trunk, len(trunks))
    cache = new_cache(model)
    # A layer of another kind (a sliding window, a state) would count the padding between trunk and question.
    shared = is_plain(cache) and len(trunks) < len(batch) and any(row.prompt.trunk for row in batch)
    firsts = list({row.trunk: row for row in reversed(batch)}[key] for key in trunks) if shared else []
    empty = torch.zeros(len(firsts or batch), 0, dtype=torch.bool, device=model.device)
    state = _State(cache, empty, torch.zeros(len(firsts or batch), dtype=torch.long, device=model.device))
    if shared:
        opening = features.of([one for row in firsts for one in row.shown[: row.prompt.trunk_pictures]])
        places = [row.prompt.places and row.prompt.places[: row.prompt.trunk] for row in firsts]
        _feed(model, state, [row.prompt.input_ids[: row.prompt.trunk] for row in firsts], opening, pad, places)
        state.select(torch.tensor([trunks[row.trunk] for row in batch], device=model.device))
    starts = [(row.prompt.trunk, row.prompt.trunk_pictures) if shared else (0, 0) for row in batch]
    rest = [row.prompt.input_ids[start:] for row, (start, _) in zip(batch, starts)]
    pictures = [one for row, (_, seen) in zip(batch, starts) for one in row.shown[seen:]]
    places = [row.prompt.places and row.prompt.places[start:] for row, (start, _) in zip(batch, starts)]
    return state, _feed(model, state, rest, features.of(pictures), pad, places)


def _answer(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, batch: Sequence[_Row], features: _Features
) -> list[list[int]]:
    """Greedy token ids of each row's answer, the stop token not among them."""
    stops, forbidden = stop_ids(model, processor), list(forbidden_ids(model))
    head, pad = model.get_output_embeddings(), processor.pad_token_id
    answers: list[list[int]] = [[] for _ in batch]
    rows = list(range(len(batch)))
    state, hidden_BD = _prefill(model, batch, features, pad)
    while True:
        logits_BV = head(hidden_BD)
        logits_BV[:, forbidden] = -torch.inf
        largest_B, chosen_B = logits_BV.max(-1)
        check_finite(largest_B)
        chosen = chosen_B.tolist()
        going = []
        for place, (row, token) in enumerate(zip(rows, chosen)):
            if token not in stops:
                answers[row].append(token)
                if len(answers[row]) < batch[row].budget:
                    going.append(place)
        if not going:
            return answers
        if len(going) < len(rows):
            state.select(torch.tensor(going, device=model.device))
            rows = [rows[place] for place in going]
        hidden_BD = _feed(model, state, [[chosen[place]] for place in going], [], pad)
