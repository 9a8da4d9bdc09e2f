"""Questions about scenes with exact answers, balanced so that a question's text does not give its answer away.

Source of the idea that such a balance must be measured: Goyal et al., "Making the V in VQA Matter", CVPR 2017, where a
guesser that never saw a picture did well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random

from sightling.errors import UserError, nearest
from sightling.world.describe import LANGUAGES
from sightling.world.describe.words import Words
from sightling.world.families import FAMILIES, Family, View
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec

__all__ = ["FAMILIES", "Question", "ask", "ask_many"]

SYNONYMS = 0.05
"""How often a word of a question is a synonym; answers are always canonical."""

_TRIES = 8
"""How often a question that was asked already is drawn anew, and what came to nothing is made up for."""

_PATIENCE = 100
"""How often a scene that was asked nothing yet is tried."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Attributes:
        family: a key of ``FAMILIES``.
        language: ``"en"`` or ``"zh"``.
        text: the question.
        answer: the one right answer, short and canonical; for captions and descriptions one of many.
        choices: every answer that this form of question can have under the specification; ``()`` for open ones.
    """

    family: str
    language: str
    text: str
    answer: str
    choices: tuple[str, ...]


def ask(
    scene: Scene, family: str, language: str, rng: Random, spec: SceneSpec, *, synonyms: float = SYNONYMS
) -> Question | None:
    """One question of a family about a scene, or ``None`` when the scene does not carry one this time.

    Call it once a scene and family: to call until something comes tilts the answers of families that are not steady
    (see :class:`~sightling.world.families.base.Family`), because scenes of few things fail more often.

    Args:
        scene: what is asked about.
        family: a key of ``FAMILIES``.
        language: ``"en"`` or ``"zh"``.
        rng: draws the question.
        spec: what the scene was drawn from; answers are balanced over its scenes.
        synonyms: the chance that a word of the question is replaced by one of its synonyms.

    Raises:
        UserError: an unknown family or language.
    """
    _check((family,), language)
    return _ask(View(scene, spec, rng), FAMILIES[family], language, rng, Words(rng, synonyms))


def ask_many(
    scene: Scene,
    rng: Random,
    spec: SceneSpec,
    families: Mapping[str, float],
    language: str,
    count: int,
    *,
    synonyms: float = SYNONYMS,
) -> list[Question]:
    """Up to ``count`` questions about one scene, no text twice.

    Each question's family is drawn by weight and asked once. What came to nothing is made up for by the steady families
    among them, so fewer than ``count`` come only where there are none or where the scene offers no more.

    Args:
        scene: what is asked about.
        rng: draws the questions.
        spec: what the scene was drawn from.
        families: weights by name of family, 0 or more.
        language: ``"en"`` or ``"zh"``.
        count: how many questions.
        synonyms: as in :func:`ask`.

    Raises:
        UserError: an unknown family or language, or weights of which none is above 0.
    """
    _check(families, language)
    chosen = [(FAMILIES[name], weight) for name, weight in families.items() if weight > 0]
    if not chosen:
        raise UserError("questions need at least one family with a weight above 0")
    view, words = View(scene, spec, rng), Words(rng, synonyms)
    asked: dict[str, Question] = {}
    _fill(asked, _draw(chosen, rng, count), view, language, rng, words)
    steady = [(family, weight) for family, weight in chosen if family.steady]
    for attempt in range(_PATIENCE):
        # A scene with one question is worth more patience than a scene with one question fewer.
        if len(asked) >= count or not steady or (asked and attempt >= _TRIES):
            break
        _fill(asked, _draw(steady, rng, count - len(asked)), view, language, rng, words)
    return list(asked.values())


def _draw(families: list[tuple[Family, float]], rng: Random, count: int) -> list[Family]:
    return rng.choices(
        [family for family, _ in families], cum_weights=list(accumulate(w for _, w in families)), k=count
    )


def _fill(
    asked: dict[str, Question], families: list[Family], view: View, language: str, rng: Random, words: Words
) -> None:
    """Asks once of each of ``families``; a text that was asked already is drawn anew, to the same answer.

    To the same answer, for otherwise answers with few possible texts would become rarer than the others.
    """
    for family in families:
        found = _ask(view, family, language, rng, words)
        if found is None:
            continue
        answer = found.answer
        for _ in range(_TRIES):
            if found is not None and found.text not in asked and (found.answer == answer or not found.choices):
                asked[found.text] = found
                break
            found = _ask(view, family, language, rng, words)


def _ask(view: View, family: Family, language: str, rng: Random, words: Words) -> Question | None:
    draft = family.propose(view, rng)
    if draft is None:
        return None
    thin = view.tables.rates(family).get(draft.group) if family.thinned and draft.choices else None
    if thin is not None and rng.random() >= thin.get(draft.answer, 1.0):
        return None
    text = family.text(draft, language, words)
    if family.write is not None:
        return Question(family.name, language, text, family.write(view, draft, language, words), ())
    choices = _in_words(family, draft.form, draft.choices, language)
    return Question(family.name, language, text, choices[draft.choices.index(draft.answer)], choices)


@lru_cache(maxsize=1024)
def _in_words(family: Family, form: str, choices: tuple[str, ...], language: str) -> tuple[str, ...]:
    return tuple(family.word(language, form, choice) for choice in choices)


def _check(families: Mapping[str, float] | tuple[str, ...], language: str) -> None:
    for name in families:
        if name not in FAMILIES:
            raise UserError(f"unknown question family {name!r}; {nearest(name, FAMILIES)}")
    if language not in LANGUAGES:
        raise UserError(f"unknown language {language!r}; {nearest(language, LANGUAGES)}")
