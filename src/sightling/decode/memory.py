"""What a conversation need not compute twice: what was seen by picture, keys and values by prompt.

Legend: ``V`` visual tokens of a picture, ``T`` tokens, ``D`` width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from sightling.data.sample import Picture
from sightling.decode.decoder import Decoder
from sightling.decode.visual import Seen, encode_pictures, visual_tokens
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import Encoded, VisionLanguageProcessor

Mark = Hashable
"""A token id; at a placeholder, the content key of its picture and the words that it is read with."""


class Memory:
    """What was seen in recent pictures, and the cache of the last prompt with its answer.

    Pictures are known by their content: the same picture opened again is not encoded again, not even where its tokens
    depend on what is asked. A prompt that begins as the last one did goes on from there.

    Args:
        pictures: how many pictures are remembered; the one not used for longest is forgotten first.
    """

    def __init__(self, pictures: int = 32) -> None:
        self._limit = pictures
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._held: Any = None
        self._decoder: Decoder | None = None
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        """How many pictures are remembered."""
        return len(self._seen)

    def forget(self) -> None:
        """Forget the last prompt; pictures stay."""
        self._held, self._decoder, self._marks = None, None, []

    @torch.inference_mode()
    def visual_tokens(
        self,
        model: VisionLanguageModel,
        processor: VisionLanguageProcessor,
        prompt: Encoded,
        keys: Sequence[str],
    ) -> list[Tensor]:
        """The visual tokens_VD of each of a prompt's pictures, encoded where its content key is not known.

        Raises:
            UserError: a picture is missing or corrupt.
        """
        fresh = {key: picture for key, picture in zip(keys, prompt.pictures) if key not in self._seen}
        encoded = dict(zip(fresh, encode_pictures(model, processor, list(fresh.values()))))
        found = [encoded[key] if key in encoded else self._seen[key] for key in keys]
        for key, seen in zip(keys, found):
            self._seen[key] = seen
            self._seen.move_to_end(key)
        while len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return visual_tokens(model, found, prompt.words)

    def take(self, decoder: Decoder, marks: Sequence[Mark]) -> tuple[Any, int]:
        """A row that holds the prompt's beginning, and how many of its tokens; at least one is left to feed.

        The row is handed over: what is interrupted in the middle of a layer never comes back. What another decoder
        holds is of no use, and what other weights made neither.
        """
        row, before, held = self._held, self._decoder, self._marks
        self.forget()
        same = 0
        gated = decoder.model.gated
        # What stands before the first picture may have looked at others than those of this prompt.
        ahead = gated is not None and gated.options.ahead and _pictures(held) != _pictures(marks)
        if row is not None and not ahead and decoder.plain and before is not None and _alike(before, decoder):
            most = min(len(held), len(marks) - 1)
            same = next((place for place in range(most) if held[place] != marks[place]), most)
        if not same:
            return decoder.start(1), 0
        row.take_back(len(held) - same)
        return row, same

    def keep(self, decoder: Decoder, row: Any, marks: list[Mark]) -> None:
        """Remember a row and what it holds."""
        self._held, self._decoder, self._marks = row, decoder, marks


def _alike(one: Decoder, other: Decoder) -> bool:
    """Whether what one decoder holds can be read by another: the same, or transformers' layers of the same model."""
    return one is other or (one.way == other.way == "transformers" and one.model is other.model)


def _pictures(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that stand for pictures."""
    return [mark for mark in marks if not isinstance(mark, int)]


def marks_of(processor: VisionLanguageProcessor, prompt: Encoded, keys: Sequence[str]) -> list[Mark]:
    """The prompt's ids, with every placeholder replaced by its picture's content key and words."""
    pairs = zip(zip(keys, prompt.words), prompt.pictures)
    placed = iter([key for key, picture in pairs for _ in range(_placeholders(processor, picture))])
    return [next(placed) if token == processor.image_token_id else token for token in prompt.input_ids]


def pictures_behind(processor: VisionLanguageProcessor, prompt: Encoded, held: int) -> int:
    """How many of the prompt's pictures, the last ones, stand behind its first ``held`` tokens."""
    seen = sum(token == processor.image_token_id for token in prompt.input_ids[:held])
    for index, picture in enumerate(prompt.pictures):
        if not seen:
            return len(prompt.pictures) - index
        seen -= _placeholders(processor, picture)
    return 0


def _placeholders(processor: VisionLanguageProcessor, picture: Picture) -> int:
    return processor.visual(picture).count(processor.image_token_id)
