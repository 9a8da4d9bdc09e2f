"""Token ids to text, piece by piece, never a part of a character."""

from __future__ import annotations

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


class TextStream:
    """Turns ids into text as they come; the pieces joined are the text of all ids, without white space around it.

    A byte-level token may end inside a character (a Chinese one has three bytes): such a piece waits for its
    rest. White space waits too, until something follows it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = 0
        self._started = False
        self._space = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more token; often empty."""
        self._ids.append(token)
        piece = self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        self._decoded += len(piece)
        return self._trimmed(piece)

    def end(self) -> str:
        """What was still waiting: bytes that never became a character show as U+FFFD."""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._trimmed(whole[self._decoded :])

    def _trimmed(self, piece: str) -> str:
        piece = self._space + piece
        if not self._started:
            piece = piece.lstrip()
        kept = piece.rstrip()
        self._space = piece[len(kept) :]
        self._started = self._started or bool(kept)
        return kept
