"""Choosing words: the canonical one nearly always, a synonym at a low, settable rate."""

from __future__ import annotations

from random import Random

from sightling.world.lexicon import Entry


class Words:
    """Draws which of an entry's words to use.

    Args:
        rng: where the choices come from; read only when there is a choice.
        synonyms: the chance, from 0 to 1, that a word which has synonyms is replaced by one of them.
    """

    __slots__ = ("rng", "synonyms")

    def __init__(self, rng: Random, synonyms: float = 0.0) -> None:
        self.rng = rng
        self.synonyms = synonyms

    def index(self, entry: Entry, count: int) -> int:
        """Which of ``count`` words of ``entry`` to take; 0 is the canonical one."""
        if count > 1 and self.synonyms and self.rng.random() < self.synonyms:
            return 1 + int(self.rng.random() * (count - 1))
        return 0

    def en(self, entry: Entry) -> str:
        """An English word, singular."""
        return entry.en[self.index(entry, len(entry.en))]

    def plural(self, entry: Entry) -> str:
        """An English word, plural."""
        return entry.plural[self.index(entry, len(entry.plural))]

    def zh(self, entry: Entry) -> str:
        """A Chinese word."""
        return entry.zh[self.index(entry, len(entry.zh))]

    def one_of(self, options: tuple[str, ...]) -> str:
        """One of several equally good wordings."""
        return options[int(self.rng.random() * len(options))]
