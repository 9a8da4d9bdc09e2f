"""Token ids and labels of one row as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sightling.model.modeling import IGNORED
from sightling.model.tokenizer import PlainText


@dataclass(slots=True)
class Row:
    """Ids and labels as they grow; ``text`` waits until a control token ends it.

    Text between two control tokens is cut into tokens as one, whoever wrote its parts, as it is when the whole
    conversation is one string. ``image`` is the placeholder's id.
    """

    plain: PlainText
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    text: str = ""
    image: int = -1

    def add(self, ids: Sequence[int], counted: bool = False) -> None:
        """Tokens behind what is there; waiting text is cut first with :meth:`flush`."""
        self.ids += ids
        self.labels += ids if counted else [IGNORED] * len(ids)

    def flush(self) -> None:
        """Cut the waiting text into tokens."""
        if self.text:
            self.add(self._cut(self.text))
            self.text = ""

    def template(self, pieces: Sequence[int | str], counted: bool = False) -> None:
        """Control tokens by id, and text between them."""
        for piece in pieces:
            if isinstance(piece, str):
                self.text += piece
            else:
                self.flush()
                self.add((piece,), counted)

    def answer(self, words: str, counted: bool) -> None:
        """An assistant's words, cut as they are behind the opening, unless a token would straddle the two."""
        before = self._cut(self.text) if self.text else ()
        both = self._cut(self.text + words) if words else before
        own = both[len(before) :] if both[: len(before)] == before else self._cut(words)
        self.text = ""
        self.add(before)
        self.add(own, counted)

    def _cut(self, text: str) -> tuple[int, ...]:
        # A BOS that a tokenizer puts there itself does not make what follows it a later text; pictures may stand
        # before it, as BLIP-2's do.
        first = not self.ids or (self.ids[-1] == self.plain.bos and set(self.ids[:-1]) <= {self.image})
        return self.plain(text, first)
