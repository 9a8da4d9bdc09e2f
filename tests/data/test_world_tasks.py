"""The small world with MiniGPT-v2's task identifiers, and told in words with boxes."""

from __future__ import annotations

from typing import Any

import pytest

from sightling.data.sample import Sample
from sightling.data.sources import SOURCES
from sightling.data.texts import TEXTS
from sightling.data.world import WorldOptions
from sightling.parts import make
from sightling.world.families.boxes import BOXED
from sightling.world.grounding import read_groups
from sightling.world.questions import FAMILIES

TASKS = {
    "color": "vqa", "existence": "vqa", "caption": "caption", "description": "caption", "refer": "refer",
    "identify": "identify", "detection": "detection", "grounding": "grounding",
}  # fmt: skip


def groups(**told: Any) -> list[Sample]:
    source = make(SOURCES, {"type": "world", "image_size": 16, "families": list(TASKS), **told}, "data").open(3)
    return [sample for index in range(12) for sample in source.group(index)]


def test_identifiers_stand_before_the_questions_and_change_nothing_else() -> None:
    plain, told = groups(), groups(identifiers=True)
    assert {sample.meta["family"] for sample in told} == set(TASKS)
    for one, other in zip(plain, told, strict=True):
        assert other.turns[0].text == f"[{TASKS[other.meta['family']]}] {one.turns[0].text}"
        assert (other.answer, other.meta) == (one.answer, one.meta)
    assert all(FAMILIES[name].task == task for name, task in TASKS.items())


def test_a_tokenizer_reads_the_identifiers_too() -> None:
    text = make(TEXTS, {"type": "world", "families": ["refer"], "identifiers": True}, "data").open(0)
    assert any(text.text(index).startswith("[refer] ") for index in range(10))


@pytest.mark.parametrize("identifiers", [False, True])
def test_what_is_asked_with_boxes_is_told_with_boxes(identifiers: bool) -> None:
    for sample in groups(told=1.0, identifiers=identifiers):
        words, _, asked = sample.turns[0].text.partition("\n")
        assert not list(sample.pictures()) and asked.startswith("[") == identifiers
        told = read_groups(words)
        assert (told is not None) == (sample.meta["family"] in BOXED)
        if sample.meta["family"] in ("refer", "detection"):
            boxes = {one.box for one in told or ()}
            assert {one.box for one in read_groups(sample.answer) or ()} <= boxes


def test_identifiers_are_off_unless_asked_for() -> None:
    assert WorldOptions().identifiers is False
    assert not any(sample.turns[0].text.startswith("[") for sample in groups())
