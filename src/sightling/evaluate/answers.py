"""What a model answers to many questions, as fast as the questions allow, with the picture and without."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sightling.decode.batch import answer_all
from sightling.evaluate.items import Item, Progress, in_grey, unique_prompts
from sightling.evaluate.likelihood import answers_exactly, score_many
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor

BATCH = 128
"""Questions that are answered side by side."""

SPARE = 4
"""Tokens an answer from a known list may go on beyond the longest of the list; by then it is wrong."""

OPEN_FACTOR, OPEN_LEAST = 1.5, 24
"""An open answer may be this much longer than the longest true one, and has at least so many tokens."""

TOP = 5


def say_all(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    items: Sequence[Item],
    *,
    progress: Progress | None = None,
    name: str = "answers",
) -> list[str]:
    """The model's greedy answer to each question.

    Where one true answer is known, one pass over all questions about a picture finds those that the model answers
    in just those words; only the others are generated. Equal questions about one picture are asked once.
    """
    answers: list[str | None] = [None] * len(items)
    known = [number for number, item in enumerate(items) if not item.is_caption]

    def report(what: str, at: int, whole: int) -> None:
        if progress is not None:
            progress(f"{name}: {what}", at, whole)

    exact = answers_exactly(
        model, processor, [items[number].sample for number in known],
        progress=lambda at, whole: report("checking", at, whole),
    )  # fmt: skip
    for number, right in zip(known, exact):
        if right:
            # As it would be read back from the generated tokens.
            answers[number] = processor.decode_answer(processor.plain(items[number].sample.answer))
    open_ones = [number for number, answer in enumerate(answers) if answer is None]
    for limit, numbers in _by_length(processor, items, open_ones):
        samples = [items[number].sample for number in numbers]
        firsts, where = unique_prompts(samples)
        said = answer_all(
            model, processor, [samples[first] for first in firsts], max_new_tokens=limit, batch_size=BATCH,
            progress=lambda at, whole: report("generating", at, whole),
        )  # fmt: skip
        for number, place in zip(numbers, where):
            answers[number] = said[place]
    return [answer or "" for answer in answers]


def say_all_blind(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    items: Sequence[Item],
    *,
    progress: Progress | None = None,
) -> list[str]:
    """The same model's answers to the same questions about a grey picture."""
    return say_all(model, processor, in_grey(items), progress=progress, name="blind")


def _by_length(
    processor: VisionLanguageProcessor, items: Sequence[Item], numbers: Sequence[int]
) -> list[tuple[int, list[int]]]:
    """(most tokens of an answer, the questions that it fits); captions and short answers are not mixed."""
    lengths: dict[str, int] = {}

    def length(text: str) -> int:
        if text not in lengths:
            lengths[text] = len(processor.plain(text))
        return lengths[text]

    closed: list[int] = []
    groups: dict[tuple[str, str], list[int]] = {}
    for number in numbers:
        item = items[number]
        if item.choices:
            closed.append(number)
        else:
            groups.setdefault((item.family, item.language), []).append(number)
    found = []
    if closed:
        lists = {items[number].choices for number in closed}
        longest = max(length(choice) for choices in lists for choice in choices)
        answers = max(length(answer) for number in closed for answer in items[number].answers)
        found.append((max(longest, answers) + SPARE, closed))
    for group in groups.values():
        longest = max(length(items[number].sample.answer) for number in group)
        found.append((max(OPEN_LEAST, math.ceil(OPEN_FACTOR * longest)), group))
    return found


def rank_all(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    items: Sequence[Item],
    choices: Sequence[Sequence[str]],
    *,
    progress: Progress | None = None,
    name: str = "ranking",
) -> list[tuple[str, ...]]:
    """For each question its choices from the likeliest on, :data:`TOP` of them; equal questions are scored once."""
    samples = [item.sample for item in items]
    firsts, where = unique_prompts(samples)
    # Equal prompts with other choices must not be taken for one.
    if any(choices[firsts[place]] != own for place, own in zip(where, choices)):
        firsts, where = list(range(len(samples))), list(range(len(samples)))
    scores = score_many(
        model, processor, [samples[first] for first in firsts], [choices[first] for first in firsts],
        progress=None if progress is None else lambda at, whole: progress(f"{name}: scoring", at, whole),
    )  # fmt: skip
    ranked = []
    for first, score in zip(firsts, scores):
        best = score.topk(min(TOP, len(score))).indices.tolist()
        ranked.append(tuple(choices[first][index] for index in best))
    return [ranked[place] for place in where]
