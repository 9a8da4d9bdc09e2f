from __future__ import annotations

import json
from random import Random

import pytest
from small import noise

from sightling.data.sample import question
from sightling.evaluate.items import GREY, Item, in_grey, unique_prompts
from sightling.evaluate.results import Prediction, judge, measure
from sightling.world.describe import describe
from sightling.world.scenes import SceneSpec, sample_scene

COLORS = {"en": ("red", "blue", "green"), "zh": ("红色", "蓝色", "绿色")}


def colour(picture: int, language: str, true: int, said: int, blind: int = 0) -> Prediction:
    choices = COLORS[language]
    sample = question(f"what color? {language}", noise(0), answer=choices[true])
    item = Item(sample, picture, "color", language, (choices[true],), choices)
    return judge(item, choices[said], choices[blind], [choices[0]])


def caption(picture: int, said: str, blind: str = "") -> Prediction:
    scene = sample_scene(picture, SceneSpec())
    item = Item(question("what is there?", noise(0), answer="x"), picture, "caption", "en", ("x",), (), scene)
    return judge(item, said, blind, [])


def test_accuracy_beside_the_guessers() -> None:
    english = [
        colour(number, "en", number % 3, number % 3 if number < 24 else (number + 1) % 3) for number in range(30)
    ]
    chinese = [
        colour(number, "zh", number % 3, number % 3 if number < 21 else (number + 1) % 3) for number in range(30)
    ]
    results = measure([*english, *chinese], {})
    cell = results.cell("color", "en")
    assert cell is not None
    assert (cell.accuracy.value, cell.accuracy.n) == (0.8, 30)
    assert cell.blind.value == cell.majority.value == pytest.approx(1 / 3)
    assert cell.chance == pytest.approx(1 / 3)
    assert cell.gain.value == pytest.approx(0.8 - 1 / 3)
    assert cell.gain.low > 0
    everything = results.cell(None, None)
    assert everything is not None
    assert (everything.accuracy.value, everything.accuracy.n, everything.accuracy.pictures) == (0.75, 60, 30)
    gap = next(gap for gap in results.gaps if gap.family is None)
    assert (gap.language, gap.base, gap.difference.value) == ("zh", "en", pytest.approx(-0.1))


def test_confusion_counts_every_answer_once() -> None:
    chosen = [colour(number, "en", number % 3, (number // 3) % 3) for number in range(18)]
    odd = judge(chosen[0].item, "a red thing", "", [])
    confusion = measure([*chosen, odd], {}).confusions[0]
    assert confusion.labels == COLORS["en"]
    assert [row[-1] for row in confusion.counts] == [1, 0, 0]
    assert sum(map(sum, confusion.counts)) == 19
    assert confusion.counts[1][:3] == (2, 2, 2)


def test_questions_of_different_kinds_share_no_confusion() -> None:
    def relation(choices: tuple[str, ...], answer: str) -> Prediction:
        item = Item(question("?", noise(0), answer=answer), 0, "relation", "en", (answer,), choices)
        return judge(item, answer, "", [])

    pairs = [("yes", "no"), ("left", "right")]
    assert not measure([relation(pair, answer) for pair in pairs for answer in pair], {}).confusions


def test_captions_are_counted_by_things() -> None:
    truths = [describe(sample_scene(seed, SceneSpec()), "en", "short", Random(0)) for seed in range(20)]
    results = measure([caption(seed, truths[seed], "") for seed in range(20)], {})
    told = results.told("caption", "en")
    assert told is not None
    assert told.seeing.right.value == 1
    assert told.seeing.right.low < 1
    assert told.seeing.absent is not None
    assert told.seeing.absent.value == 0
    assert told.seeing.things == sum(len(sample_scene(seed, SceneSpec()).things) for seed in range(20))
    assert told.blind.absent is None
    assert told.blind.missed.value == 1
    assert results.cell(None, None) is None
    swapped = measure([caption(seed, truths[(seed + 1) % 20], "") for seed in range(20)], {}).told(None, None)
    assert swapped is not None
    assert swapped.seeing.right.value < 0.5
    assert swapped.seeing.whole.value < 0.5


def test_top_choices() -> None:
    item = colour(0, "en", 1, 1).item
    first = judge(item, "blue", "", ["red"], ("blue", "red"), ("red", "green"))
    later = judge(item, "red", "", ["red", "blue"], ("red", "blue"), ("red", "green"))
    cell = measure([first, later], {}).cell("color", "en")
    assert cell is not None
    assert (cell.top["first"].value, cell.top["model"].value) == (0.5, 1.0)
    assert (cell.top["blind"].value, cell.top["majority"].value) == (0.0, 0.5)


def test_results_are_plain_data() -> None:
    results = measure([colour(0, "en", 0, 0), caption(1, "a red circle", "a star")], {"model": "m"})
    told = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert set(told) == {"about", "cells", "captions", "gaps", "confusions"}
    lines = [json.loads(json.dumps(prediction.to_dict(), allow_nan=False)) for prediction in results.predictions]
    assert lines[0]["right"] is True
    assert set(lines[1]["caption"]) >= {"named", "right", "absent", "missed", "absent_things"}


def test_grey_pictures_are_one_and_of_the_same_size() -> None:
    items = [colour(number, "en", 0, 0).item for number in range(3)]
    grey = in_grey(items)
    pictures = {picture for item in grey for picture in item.sample.pictures()}
    assert len(pictures) == 1
    image = pictures.pop().load()
    assert image.size == (32, 32)
    assert image.getcolors() == [(32 * 32, GREY)]
    assert [item.text for item in grey] == [item.text for item in items]
    assert unique_prompts([item.sample for item in grey]) == ([0], [0, 0, 0])
    assert unique_prompts([item.sample for item in items]) == ([0, 1, 2], [0, 1, 2])
