"""Pairs and clips in an evaluation, and the guesser that sees one picture of several."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import red

from sightling.data.files import FilesOptions
from sightling.data.series import SeriesOptions
from sightling.data.sources import SOURCES
from sightling.errors import UserError
from sightling.evaluate.report import render_report
from sightling.evaluate.results import measure
from sightling.evaluate.run import Questions, answer, gather
from sightling.evaluate.section import EvaluateSection, Plan
from sightling.evaluate.series import LEARNING_QUESTIONS, held_out_series, seeing_one, series_items, series_majority
from sightling.evaluate.terminal import print_results
from sightling.parts import make

SCENE = {"colors": ["red", "blue", "green"], "textures": ["plain"], "backgrounds": ["plain"]}


def options(kind: str = "world_pairs", **told: Any) -> SeriesOptions:
    made = make(SOURCES, {"type": kind, "image_size": 16, "scene": SCENE, **told}, "data")
    assert isinstance(made, SeriesOptions)
    return made


def plan(source: SeriesOptions, **told: Any) -> Plan:
    return Plan(EvaluateSection(**told), source, "here", None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The majority guesser learns little."""
    monkeypatch.setattr(series_majority, "__defaults__", (30,))


def greys(questions: Questions, number: int, see: str) -> list[bool]:
    item = seeing_one(questions.items[number : number + 1], see)[0]  # type: ignore[arg-type]
    return [np.asarray(picture.load()).std() == 0 for picture in item.sample.pictures()]


def test_families_take_turns_and_every_question_is_asked_in_every_language(quick: None) -> None:
    source = options(families=["gone", "recolored", "more"])
    questions = gather(plan(source, scenes=12, families={"more": 2, "gone": 1}))
    items = questions.items
    assert Counter(item.family for item in items) == {"more": 16, "gone": 8}
    assert [item.language for item in items[:2]] == ["en", "zh"] and items[0].picture == items[1].picture
    assert list(items[0].sample.pictures()) == list(items[1].sample.pictures())
    assert (questions.partial, questions.about["partial"], questions.about["kind"]) == ("first", "first", "series")
    with pytest.raises(UserError, match=r"evaluate\.families: there is no question family 'mroe'; did you mean 'more'"):
        gather(plan(source, families=["mroe"]))


def test_a_hundred_of_each_family_where_nothing_is_said() -> None:
    source = options(families=["gone", "added"], languages=["en"]).open(1)
    assert Counter(item.family for item in series_items(source, {"gone": 1, "added": 1})) == {"gone": 100, "added": 100}


def test_held_out_questions_are_those_of_reserved_seeds() -> None:
    source = held_out_series(options(families=["gone"]), 7, None)
    assert source.seed == (1 << 63) + 7
    trained = {repr(options(families=["gone"]).open(7).puzzle(index).scenes) for index in range(20)}
    assert not trained & {repr(source.puzzle(index).scenes) for index in range(20)}


def test_the_majority_guesser_gains_nothing_over_chance() -> None:
    source = held_out_series(options(families=["more", "recolored"], languages=["en"]), 1, None)
    turns = {"more": 1, "recolored": 1}
    majority = series_majority(source, turns, 200)
    items = series_items(source, turns, 300)
    right = {"more": 0, "recolored": 0}
    for item in items:
        right[item.family] += majority.guess(item.family, "en", item.choices, item.text) == item.answers[0]
    assert 0.37 < right["more"] / 150 < 0.63 and right["recolored"] / 150 < 0.5
    assert LEARNING_QUESTIONS == 1000


@pytest.mark.parametrize("kind, see, shown", [("world_pairs", "first", 0), ("world_clips", "middle", 2)])
def test_one_picture_of_several_stays(quick: None, kind: str, see: str, shown: int) -> None:
    families = ["gone"] if kind == "world_pairs" else ["turned"]
    questions = gather(plan(options(kind, families=families, languages=["en"], scene={}), scenes=6))
    assert questions.partial == see
    for number, item in enumerate(questions.items):
        hidden = greys(questions, number, see)
        assert [not grey for grey in hidden] == [place == shown for place in range(len(hidden))]
        one = seeing_one([item], questions.partial)[0]
        assert one.text == item.text and one.answers == item.answers
        assert list(one.sample.pictures())[shown] is list(item.sample.pictures())[shown]


def test_hidden_pictures_of_one_size_are_one_object(quick: None) -> None:
    questions = gather(plan(options(families=["gone"], languages=["en"]), scenes=4))
    found = seeing_one(questions.items, "first")
    assert len({id(list(item.sample.pictures())[1]) for item in found}) == 1


def test_the_guesser_with_one_picture_is_measured_and_told(quick: None) -> None:
    model, processor = red()
    questions = gather(plan(options(families=["recolored", "gone"], languages=["en"]), scenes=16))
    predictions = answer(model, processor, questions)
    # This model says "red" whatever it sees, so all three guesses agree, and nothing is gained.
    assert {one.said for one in predictions} == {one.partial for one in predictions} == {"red"}
    assert all(one.partial_right == one.right for one in predictions)
    results = measure(predictions, {**questions.about, "seconds": {"questions": 1, "answers": 1}})
    cell = results.cell("recolored", "en")
    assert cell is not None and cell.partial is not None and cell.partial_gain is not None
    assert cell.partial == cell.accuracy and 0 < cell.accuracy.value < 1
    assert cell.partial_gain.value == 0
    assert json.loads(json.dumps(results.to_dict()))["cells"][0]["partial_gain"]["value"] == 0
    assert predictions[0].to_dict()["partial"] == "red"
    console = Console(file=io.StringIO(), width=100)
    print_results(console, results)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "the first picture alone" in told


def test_where_nobody_sees_one_picture_nothing_is_said_of_it(quick: None, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text("name,picture\ncat,0.png\ndog,1.png\nhen,2.png\n")
    files = FilesOptions(path=str(tmp_path / "t.csv"))
    model, processor = red()
    plain = gather(Plan(EvaluateSection(), files, "t", None))
    assert plain.partial is None
    predictions = answer(model, processor, plain)
    assert all(one.partial is None and "partial" not in one.to_dict() for one in predictions)
    assert measure(predictions, plain.about).cells[0].partial is None
    # Any data set can be asked so.
    assert gather(Plan(EvaluateSection(partial="middle"), files, "t", None)).partial == "middle"


def test_the_report_shows_the_guesser_with_one_picture(quick: None) -> None:
    model, processor = red()
    questions = gather(plan(options(families=["recolored"], languages=["en"]), scenes=6))
    about = {**questions.about, "recipe": None, "model": "m", "description": "", "parts": [], "parameters": 1,
             "run": {}, "train_command": "", "versions": {"sightling": "0", "torch": "0", "transformers": "0"},
             "command": "c", "rank": None, "seconds": {"questions": 1, "answers": 1}, "device": "cpu",
             "peak_memory_bytes": None, "created": "now"}  # fmt: skip
    page = render_report(measure(answer(model, processor, questions), about), [])
    assert "first picture alone" in page and page.count('<img src="data:image/png') >= 2
