"""Token ids to text, piece by piece, never a part of a character."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

UNFINISHED = "\ufffd"
"""What a decoder shows for bytes that are no character, or not one yet."""


class TextStream:
    """Turns ids into text as they come; the pieces joined are the text of all ids, without white space around it.

    A byte-level token may end inside a character (a Chinese one has three bytes): such a piece waits for its
    rest. White space waits too, until something follows it. Only the latest tokens are decoded again, with the
    piece before them, since some decoders treat the first token of a text differently.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Where the piece before begins, where it ends, and how long all pieces are.
        self._before, self._told, self._length = 0, 0, 0
        self._started = False
        self._space = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more token; often empty."""
        self._ids.append(token)
        known = self._decoded(self._ids[self._before : self._told])
        text = self._decoded(self._ids[self._before :])
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        self._before, self._told = self._told, len(self._ids)
        return self._trimmed(text[len(known) :])

    def end(self) -> str:
        """What was still waiting: bytes that never became a character show as U+FFFD."""
        return self._trimmed(self._decoded(self._ids)[self._length :])

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _trimmed(self, piece: str) -> str:
        self._length += len(piece)
        piece = self._space + piece
        if not self._started:
            piece = piece.lstrip()
        kept = piece.rstrip()
        self._space = piece[len(kept) :]
        self._started = self._started or bool(kept)
        return kept
