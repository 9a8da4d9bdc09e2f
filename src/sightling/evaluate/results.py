"""From answers to numbers: accuracy by family and language beside the guessers, captions, confusions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sightling.evaluate.items import Item
from sightling.evaluate.metrics import Bootstrap, Estimate, chance, normalise
from sightling.evaluate.world import CaptionCheck, check_caption

TOP = 5
MOST_LABELS = 16
"""A confusion of more answers than this is no longer readable."""


@dataclass(frozen=True)
class Prediction:
    """What was said to one question, and by the guessers.

    ``caption`` and ``blind_caption`` are set for captions only, and ``right`` then means: nothing made up and
    nothing missed. ``ranked`` holds the likeliest choices where choices were scored, and ``partial`` what was said to
    one picture of several where that was asked.
    """

    item: Item
    said: str
    blind: str
    guess: str
    right: bool
    blind_right: bool
    guess_right: bool
    ranked: tuple[str, ...] = ()
    blind_ranked: tuple[str, ...] = ()
    guess_ranked: tuple[str, ...] = ()
    caption: CaptionCheck | None = None
    blind_caption: CaptionCheck | None = None
    partial: str | None = None

    @property
    def partial_right(self) -> bool:
        """Whether what was said to one picture of several is right; not for captions."""
        return self.partial is not None and self.item.accepts(self.partial)

    def to_dict(self) -> dict[str, Any]:
        """One line of ``predictions.jsonl``."""
        item = self.item
        line: dict[str, Any] = {
            "picture": item.picture, "family": item.family, "language": item.language, "question": item.text,
            "answer": item.answers[0], "said": self.said, "right": self.right, "blind": self.blind,
            "blind_right": self.blind_right,
        }  # fmt: skip
        if self.caption is not None:
            line["caption"] = {**asdict(self.caption.score), "absent_things": list(self.caption.absent),
                               "missed_things": list(self.caption.missed)}  # fmt: skip
            return line
        line |= {"majority": self.guess, "majority_right": self.guess_right}
        if self.partial is not None:
            line |= {"partial": self.partial, "partial_right": self.partial_right}
        if self.ranked:
            line["ranked"] = list(self.ranked)
        if identity := item.sample.meta.get("id"):
            line["id"] = identity
        return line


def judge(
    item: Item,
    said: str,
    blind: str,
    guesses: Sequence[str],
    ranked: tuple[str, ...] = (),
    blind_ranked: tuple[str, ...] = (),
    partial: str | None = None,
) -> Prediction:
    """A question's answers held against the truth; ``guesses`` are the majority's, the commonest first."""
    if item.scene is not None:
        check = check_caption(said, item.scene, item.language)
        blind_check = check_caption(blind, item.scene, item.language)
        whole = [not (each.score.absent or each.score.missed) for each in (check, blind_check)]
        return Prediction(item, said, blind, "", whole[0], whole[1], False, caption=check, blind_caption=blind_check)
    guess = guesses[0] if guesses else ""
    right = [item.accepts(text) for text in (said, blind, guess)]
    return Prediction(
        item, said, blind, guess, right[0], right[1], right[2], ranked, blind_ranked, tuple(guesses[:TOP]),
        partial=partial,
    )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Accuracy of one family in one language; ``None`` stands for all of them together.

    Attributes:
        accuracy: exact match, or boxes that overlap enough, seeing the picture.
        blind: the same model shown a grey picture.
        majority: the guesser of commonest answers.
        gain: accuracy minus blind.
        chance: the mean of 1 / number of choices, where every question has a list of them.
        top: where choices were scored: the true answer among the likeliest ``TOP``, for model, blind and majority,
            and ``first``: the true answer is the likeliest.
        partial: where it was asked: the same model shown one picture of several.
        partial_gain: accuracy minus that.
    """

    family: str | None
    language: str | None
    accuracy: Estimate
    blind: Estimate
    majority: Estimate
    gain: Estimate
    chance: float | None
    top: dict[str, Estimate] = field(default_factory=dict)
    partial: Estimate | None = None
    partial_gain: Estimate | None = None


@dataclass(frozen=True)
class Told:
    """How true captions are. ``right`` and ``missed`` are shares of the pictures' things, ``absent`` of named things.

    ``absent`` is ``None`` when nothing was named at all. ``whole``: captions with nothing made up and nothing missed.
    """

    things: int
    named: int
    right: Estimate
    missed: Estimate
    absent: Estimate | None
    whole: Estimate


@dataclass(frozen=True)
class Captions:
    """Captions of one family in one language, by the model and by the blind model; ``None`` stands for all."""

    family: str | None
    language: str | None
    seeing: Told
    blind: Told


@dataclass(frozen=True)
class Gap:
    """Accuracy in ``language`` minus accuracy in ``base``, same pictures; ``family`` ``None`` is all."""

    family: str | None
    language: str
    base: str
    difference: Estimate


@dataclass(frozen=True)
class Confusion:
    """Counts of true answers (rows) against what was said (columns; the last one is everything else)."""

    family: str
    language: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass
class Results:
    """Everything that was measured. ``about`` says on what, with what and how."""

    about: dict[str, Any]
    cells: list[Cell]
    captions: list[Captions]
    gaps: list[Gap]
    confusions: list[Confusion]
    predictions: list[Prediction] = field(repr=False)

    def cell(self, family: str | None, language: str | None) -> Cell | None:
        """The cell of that family and language."""
        return next((cell for cell in self.cells if (cell.family, cell.language) == (family, language)), None)

    def told(self, family: str | None, language: str | None) -> Captions | None:
        """The captions of that family and language."""
        return next((each for each in self.captions if (each.family, each.language) == (family, language)), None)

    @property
    def families(self) -> list[str]:
        """Families with exact answers, in the order asked."""
        return list(dict.fromkeys(cell.family for cell in self.cells if cell.family is not None))

    @property
    def languages(self) -> list[str]:
        """Languages, in the order asked."""
        return list(dict.fromkeys(prediction.item.language for prediction in self.predictions))

    def to_dict(self) -> dict[str, Any]:
        """``results.json``: every number, no prediction."""
        return {
            "about": self.about,
            "cells": [asdict(cell) for cell in self.cells],
            "captions": [asdict(each) for each in self.captions],
            "gaps": [asdict(gap) for gap in self.gaps],
            "confusions": [asdict(confusion) for confusion in self.confusions],
        }


def measure(predictions: Sequence[Prediction], about: dict[str, Any]) -> Results:
    """All numbers of an evaluation.

    Raises:
        ValueError: no predictions.
    """
    if not predictions:
        raise ValueError("there is nothing to measure")
    bootstrap = Bootstrap(1 + max(prediction.item.picture for prediction in predictions))
    exact = [prediction for prediction in predictions if prediction.caption is None]
    told = [prediction for prediction in predictions if prediction.caption is not None]
    families = _unique(prediction.item.family for prediction in exact)
    languages = _unique(prediction.item.language for prediction in predictions)
    cells = []
    gaps = []
    for family in (None, *families):
        for language in (None, *languages):
            chosen = _chosen(exact, family, language)
            if chosen:
                cells.append(_cell(family, language, chosen, bootstrap))
        base = _chosen(exact, family, languages[0])
        for language in languages[1:]:
            other = _chosen(exact, family, language)
            if base and other:
                difference = bootstrap.difference(_pictures(other), _hits(other), _pictures(base), _hits(base))
                gaps.append(Gap(family, language, languages[0], difference))
    captions = []
    confusions = []
    for family in (None, *_unique(prediction.item.family for prediction in told)):
        for language in (None, *languages):
            chosen = _chosen(told, family, language)
            if chosen:
                checks = [prediction.caption for prediction in chosen if prediction.caption is not None]
                blind = [prediction.blind_caption for prediction in chosen if prediction.blind_caption is not None]
                pictures = _pictures(chosen)
                captions.append(
                    Captions(family, language, _told(pictures, checks, bootstrap), _told(pictures, blind, bootstrap))
                )
    for family in families:
        for language in languages:
            confusion = _confusion(family, language, _chosen(exact, family, language))
            if confusion is not None:
                confusions.append(confusion)
    return Results(about, cells, captions, gaps, confusions, list(predictions))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _chosen(predictions: Sequence[Prediction], family: str | None, language: str | None) -> list[Prediction]:
    return [one for one in predictions if family in (None, one.item.family) and language in (None, one.item.language)]


def _pictures(predictions: Sequence[Prediction]) -> list[int]:
    return [prediction.item.picture for prediction in predictions]


def _hits(predictions: Sequence[Prediction]) -> list[float]:
    return [float(prediction.right) for prediction in predictions]


def _cell(family: str | None, language: str | None, chosen: Sequence[Prediction], bootstrap: Bootstrap) -> Cell:
    pictures = _pictures(chosen)

    def share(outcome: Callable[[Prediction], bool]) -> Estimate:
        return bootstrap.share(pictures, [float(outcome(prediction)) for prediction in chosen])

    top = {}
    if all(prediction.ranked for prediction in chosen):
        top = {
            "first": share(lambda one: one.item.accepts(one.ranked[0])),
            "model": share(lambda one: _among(one.ranked, one.item)),
            "blind": share(lambda one: _among(one.blind_ranked, one.item)),
            "majority": share(lambda one: _among(one.guess_ranked, one.item)),
        }
    blind = [float(prediction.blind_right) for prediction in chosen]
    partial = partial_gain = None
    if all(prediction.partial is not None for prediction in chosen):
        partial = share(lambda one: one.partial_right)
        seeing_one = [float(prediction.partial_right) for prediction in chosen]
        partial_gain = bootstrap.difference(pictures, _hits(chosen), pictures, seeing_one)
    return Cell(
        family,
        language,
        share(lambda one: one.right),
        share(lambda one: one.blind_right),
        share(lambda one: one.guess_right),
        bootstrap.difference(pictures, _hits(chosen), pictures, blind),
        chance(prediction.item.choices for prediction in chosen),
        top,
        partial,
        partial_gain,
    )


def _among(ranked: Sequence[str], item: Item) -> bool:
    return any(item.accepts(one) for one in ranked[:TOP])


def _told(pictures: Sequence[int], checks: Sequence[CaptionCheck], bootstrap: Bootstrap) -> Told:
    scores = [check.score for check in checks]
    things = [float(score.right + score.missed) for score in scores]
    named = [float(score.named) for score in scores]
    absent = None
    if sum(named):
        absent = bootstrap.share(pictures, [float(score.absent) for score in scores], named)
    return Told(
        int(sum(things)),
        int(sum(named)),
        bootstrap.share(pictures, [float(score.right) for score in scores], things),
        bootstrap.share(pictures, [float(score.missed) for score in scores], things),
        absent,
        bootstrap.share(pictures, [float(not (score.absent or score.missed)) for score in scores]),
    )


def _confusion(family: str, language: str, chosen: Sequence[Prediction]) -> Confusion | None:
    """The confusion of a family with a readable number of answers; of two answers, accuracy says it all."""
    truths = {prediction.item.answers[0] for prediction in chosen}
    if not all(prediction.item.choices for prediction in chosen):
        return None
    # In the order of the choices, the longest list first.
    lists = sorted({prediction.item.choices for prediction in chosen}, key=lambda choices: (-len(choices), choices))
    if any(not set(lists[0]) & set(other) for other in lists[1:]):
        return None  # "left" is never taken for "no": questions of different kinds share no confusion
    labels = [label for label in _unique(label for choices in lists for label in choices) if label in truths]
    if all(label.isdigit() for label in labels):
        labels.sort(key=int)
    if not 3 <= len(labels) <= MOST_LABELS:
        return None
    column = {normalise(label): place for place, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for prediction in chosen:
        row = column[normalise(prediction.item.answers[0])]
        counts[row][column.get(normalise(prediction.said), len(labels))] += 1
    return Confusion(family, language, tuple(labels), tuple(map(tuple, counts)))
