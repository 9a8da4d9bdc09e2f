from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import makers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightling.data.checks import Problem, Spread, check
from sightling.errors import UserError


@pytest.mark.parametrize("name", sorted(makers.ALL))
def test_a_good_data_set_of_each_layout_is_clean(name: str, tmp_path: Path) -> None:
    report = check(makers.ALL[name](tmp_path))
    assert report.format == name
    assert report.clean and not report.problems
    assert report.records == report.samples > 0 and report.bad == 0


def test_the_numbers(tmp_path: Path) -> None:
    makers.picture(tmp_path / "a.png", (10, 20))
    makers.picture(tmp_path / "b.png", (30, 5))
    records = [
        {"image": "a.png", "conversations": makers.talk("<image>\nQ", "A", "QQQ", "AA")},
        {"image": ["a.png", "b.png"], "conversations": makers.talk("<image><image>QQ", "AAAAAA")},
        {"conversations": makers.talk("QQQQ", "A")},
        {"image": "a.png", "conversations": makers.talk("Q", "A")},
    ]
    report = check(makers.write_json(tmp_path / "it.json", records, indent=1))
    assert (report.records, report.samples, report.bad, report.text_only) == (4, 3, 1, 1)
    assert (report.turns, report.pictures, report.unique_pictures) == (8, 3, 2)
    assert report.question_chars == Spread(1, 2, 4)
    assert report.answer_chars == Spread(1, 1, 6)
    assert report.width == Spread(10, 10, 30) and report.height == Spread(5, 5, 20)
    assert report.problems == [Problem(3, 51, "0 <image> marks, but 1 picture")]
    assert json.loads(json.dumps(report.to_dict()))["problems"] == [
        {"index": 3, "line": 51, "problem": "0 <image> marks, but 1 picture"}
    ]


def test_every_kind_of_bad_picture_is_named_with_its_record(tmp_path: Path) -> None:
    makers.picture(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("I am a text")
    (tmp_path / "half.jpg").write_bytes(makers.encoded((300, 300))[:1200])
    makers.huge_png(tmp_path / "huge.png")
    names = ["good.png", "gone.png", "text.png", "half.jpg", "huge.png", "gone.png"]
    records = [{"image": name, "conversations": makers.talk("<image>Q", "A")} for name in names]
    path = makers.write_lines(tmp_path / "it.jsonl", records)
    seen = []
    report = check(path, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [(problem.index, problem.line) for problem in report.problems] == [(n, n + 1) for n in range(1, 6)]
    messages = [problem.problem for problem in report.problems]
    assert messages[0] == messages[4] == f"picture {tmp_path / 'gone.png'} does not exist"
    assert "is not a picture in a known format" in messages[1]
    assert "is corrupt" in messages[2]
    assert "declares 60000 x 60000 pixels; the limit is 100,000,000 in all" in messages[3]
    assert report.bad == 5 and not report.clean and report.unique_pictures == 5
    # Headers alone find all but the corrupt one.
    assert [problem.index for problem in check(path, decode=False).problems] == [1, 2, 4, 5]


def test_a_box_beyond_the_picture_is_a_problem(tmp_path: Path) -> None:
    path = makers.nlvr(tmp_path)
    makers.picture(path.parent / "images/2/dev-7-0-0.png", (300, 100))
    (problem,) = check(path, options={"three": True}).problems
    assert "the box (300, 0, 400, 100) does not lie within picture" in problem.problem


def test_a_file_cut_in_half_is_reported_with_what_came_before(tmp_path: Path) -> None:
    records = [{"conversations": makers.talk("Q", "A")}] * 41
    path = makers.half(makers.write_json(tmp_path / "it.json", records, indent=1))
    report = check(path)
    assert 15 < report.samples < 25
    (problem,) = report.problems
    assert problem.index is None
    assert f"{path} is cut off: record {report.records}, which starts at line" in problem.problem


def test_an_empty_data_set_is_not_clean(tmp_path: Path) -> None:
    report = check(makers.write_json(tmp_path / "it.json", []), "llava")
    assert [problem.problem for problem in report.problems] == [f"{tmp_path / 'it.json'} holds no records"]
    with pytest.raises(UserError, match="does not exist"):
        check(tmp_path / "nothing")


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_spreads(numbers: list[int]) -> None:
    spread = Spread.of(Counter(numbers))
    assert spread == Spread(min(numbers), sorted(numbers)[(len(numbers) - 1) // 2], max(numbers))
    assert Spread.of(Counter()) is None
