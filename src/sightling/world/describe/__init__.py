"""Saying what a scene holds, in English and Chinese, from one phrase to a paragraph.

What is said is decided without words (:mod:`~sightling.world.describe.plan`), how it is said by a language
(:mod:`~sightling.world.describe.en`, :mod:`~sightling.world.describe.zh`). A new language is one such module and its
line in :data:`LANGUAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import ModuleType

from sightling.world.describe import en, zh
from sightling.world.describe.plan import DETAILS, described_facts
from sightling.world.describe.words import Words
from sightling.world.scene import Scene

LANGUAGES: dict[str, ModuleType] = {"en": en, "zh": zh}
"""The languages by key; each module holds ``noun_phrase``, ``extreme_phrase`` and ``sentences``."""

__all__ = ["DETAILS", "LANGUAGES", "Words", "describe", "describe_with", "described_facts"]


def describe(scene: Scene, language: str, detail: str, rng: Random, synonyms: float = 0.05) -> str:
    """A text that says exactly ``described_facts(scene, detail)``, worded by lot.

    Args:
        scene: what to describe.
        language: ``"en"`` or ``"zh"``.
        detail: ``"phrase"`` (a list of noun phrases), ``"short"`` (one sentence), ``"detailed"`` (a sentence for every
            thing) or ``"paragraph"`` (varied sentences, with relations).
        rng: draws the wording.
        synonyms: the chance that a word is replaced by one of its synonyms.

    Raises:
        ValueError: an unknown language or level of detail.
    """
    return describe_with(scene, language, detail, Words(rng, synonyms))


def describe_with(scene: Scene, language: str, detail: str, words: Words) -> str:
    """As :func:`describe`, with the words drawn by ``words``."""
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known are: {', '.join(LANGUAGES)}")
    tell: Callable[..., str] = LANGUAGES[language].sentences
    return tell(described_facts(scene, detail), detail, words)
