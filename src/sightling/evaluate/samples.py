"""Questions from a data set: any finite source whose samples end with the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightling.data.files import FilesOptions
from sightling.data.source import Source, SourceOptions
from sightling.errors import UserError, nearest
from sightling.evaluate.items import Item
from sightling.evaluate.metrics import Majority
from sightling.evaluate.section import EvaluateSection


def sample_items(source: Source, section: EvaluateSection, where: str, most: int | None = None) -> list[Item]:
    """The questions of a source, of its first ``most`` groups; the number of the group is the picture's.

    The accepted answers are ``meta[answers_key]`` where a sample has it, else its closing assistant turn.

    Raises:
        UserError: an endless source, a sample without an answer, or a ``family_key`` that no sample has.
    """
    if not len(source):
        raise UserError(f"{where} is endless; evaluation needs a finite data set, or the small world")
    items: list[Item] = []
    families = 0
    for number in range(min(len(source), most or len(source))):
        for sample in source.group(number):
            if not sample.turns or sample.turns[-1].role != "assistant" or not sample.answer.strip():
                raise UserError(f"{where}: sample {len(items)} does not end with an answer; nothing says what is right")
            families += section.family_key in sample.meta
            items.append(
                Item(
                    sample,
                    number,
                    str(sample.meta.get(section.family_key, "all")),
                    str(sample.meta.get("language", "all")),
                    _accepted(sample.meta.get(section.answers_key), sample.answer),
                    tuple(sample.meta.get("choices", ())),
                    boxes=section.judged == "boxes",
                )
            )
    if not families and section.family_key != "family":
        known = sorted({key for item in items for key in item.sample.meta})
        near = nearest(section.family_key, known)
        raise UserError(f"{where}: no sample has the meta key {section.family_key!r}, evaluate.family_key; {near}")
    return items


def _accepted(told: Any, answer: str) -> tuple[str, ...]:
    listed = [told] if isinstance(told, str) else list(told) if isinstance(told, (list, tuple)) else []
    return tuple(dict.fromkeys([answer, *map(str, listed)]))


def sample_majority(options: SourceOptions, section: EvaluateSection, items: Sequence[Item]) -> tuple[Majority, str]:
    """(a guesser, what it learnt from): the other side of the split where there is one, else the questions themselves.

    From the questions themselves it takes the best constant answer in hindsight, an upper bound for any constant.
    """
    if isinstance(options, FilesOptions) and options.hold_out is not None:
        split = options.hold_out
        other = split.model_copy(update={"part": "kept" if split.part == "held" else "held"})
        majority = Majority()
        source = options.model_copy(update={"hold_out": other}).open(0)
        for item in sample_items(source, section, "the other side of the split"):
            majority.learn(item.family, item.language, item.choices, item.text, item.answers[0])
        return majority, "the other side of the split"
    majority = Majority(texts=False)
    for item in items:
        majority.learn(item.family, item.language, item.choices, item.text, item.answers[0])
    return majority, "the asked questions themselves, in hindsight"


def answer_lists(items: Sequence[Item]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Every true answer by (family, language), in order of their first."""
    lists: dict[tuple[str, str], dict[str, None]] = {}
    for item in items:
        lists.setdefault((item.family, item.language), {})[item.answers[0]] = None
    return {key: tuple(answers) for key, answers in lists.items()}
