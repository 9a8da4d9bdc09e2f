from __future__ import annotations

from pathlib import Path
from typing import Any

import makers
import pytest
from reading import problems, records, shape

from sightling.data.formats import read_samples
from sightling.data.formats.class_folders import pretty
from sightling.data.formats.easy_vqa import family_of
from sightling.data.formats.nlvr import BOXES
from sightling.data.formats.picture_table import name_language
from sightling.errors import UserError

# ---- NLVR


def test_nlvr_as_one_picture_or_three_and_in_all_orders(tmp_path: Path) -> None:
    path = makers.nlvr(tmp_path)
    (sample,) = read_samples(path)
    assert shape(sample) == [("user", ["@dev-7-0-0.png", "There is a box."]), ("assistant", ["true"])]
    assert sample.meta["directory"] == "2" and sample.meta["choices"] == ("true", "false")
    (three,) = read_samples(path, options={"three": True})
    assert tuple(picture.box for picture in three.pictures()) == BOXES
    assert [picture.load().size for picture in three.pictures()] == [(100, 100)] * 3
    every = list(read_samples(path, options={"orders": "all", "question": "{sentence} True or false?"}))
    assert [shape(sample)[0][1] for sample in every] == [
        [f"@dev-7-0-{order}.png", "There is a box. True or false?"] for order in range(6)
    ]


def test_nlvr_train_finds_its_pictures_and_can_drop_ambiguous_rows(tmp_path: Path) -> None:
    makers.picture(tmp_path / "train/images/74/train-1-0-0.png", (400, 100))
    rows = [makers.nlvr_row("1-0", "74"), makers.nlvr_row("2-0", "74", "false", neg_ambiguous=True)]
    path = makers.write_lines(tmp_path / "train/train_reconstructed.jsonl", rows)
    assert [shape(sample)[0][1][0] for sample in read_samples(path)] == ["@train-1-0-0.png", "@train-2-0-0.png"]
    assert len(list(read_samples(path, options={"drop_ambiguous": True}))) == 1
    # The folder's name says the split where the file's does not.
    renamed = path.rename(path.with_name("mine.jsonl"))
    assert shape(next(read_samples(renamed)))[0][1][0] == "@train-1-0-0.png"


def test_bad_nlvr_rows(tmp_path: Path) -> None:
    rows = [
        makers.nlvr_row("1-0", label="maybe"),
        makers.nlvr_row("1-0") | {"sentence": None},
        {"sentence": "There is a box.", "label": "true"},
    ]
    path = makers.write_lines(tmp_path / "dev.json", rows)
    assert problems(path, format="nlvr") == [
        "the label is 'maybe'; known are true, false",
        "the sentence is null",
        "there is no 'identifier'",
    ]
    with pytest.raises(UserError, match=r"does not hold \{sentence\}"):
        records(path, format="nlvr", options={"question": "True?"})


# ---- easy-VQA


def test_easy_vqa(tmp_path: Path) -> None:
    path = makers.easy_vqa(tmp_path)
    samples = list(read_samples(path))
    assert [(shape(sample)[0][1], sample.answer) for sample in samples] == [
        (["@0.png", "what color is the circle?"], "red"),
        (["@0.png", "is there a circle?"], "yes"),
        (["@1.png", "what shape is it?"], "circle"),
    ]
    assert samples[0].meta["choices"] == ("circle", "no", "red", "yes")
    pictures = [next(sample.pictures()) for sample in samples]
    assert pictures[0] is pictures[1] is not pictures[2]
    (tmp_path / "answers.txt").unlink()
    assert next(read_samples(path)).meta["choices"] == ("circle", "red", "yes")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("what color is the shape?", "color"),
        ("what is the color of the circle?", "color"),
        ("what shape is in the image?", "shape"),
        ("what is the green shape?", "shape"),
        ("does the image not contain a gray shape?", "existence"),
        ("is there not a blue shape?", "existence"),
    ],
)
def test_easy_vqa_families(text: str, family: str) -> None:
    assert family_of(text) == family


def test_bad_easy_vqa_rows(tmp_path: Path) -> None:
    path = makers.easy_vqa(tmp_path)
    makers.write_json(path, [["q?", "red", 0], ["q?", "", 0], ["q?", "mauve", 0], ["q?", "red"], ["q?", "red", None]])
    assert problems(path) == [
        "empty answer",
        "the answer 'mauve' is not in answers.txt",
        "is a list of 2; expected [question, answer, image id]",
        "is a list of 3; expected [question, answer, image id]",
    ]


# ---- a folder of class folders


def test_class_folders(tmp_path: Path) -> None:
    folder = makers.class_folders(tmp_path)
    (folder / "AnnualCrop/.hidden.jpg").write_text("")
    (folder / "AnnualCrop/notes.txt").write_text("")
    samples = list(read_samples(folder))
    assert [(shape(sample)[0][1], sample.answer) for sample in samples] == [
        (["@0.jpg", "what is it?"], "annual crop"),
        (["@1.jpg", "what is it?"], "annual crop"),
        (["@0.jpg", "what is it?"], "sea lake"),
    ]
    assert samples[0].meta["choices"] == ("annual crop", "sea lake") and samples[2].meta["label"] == "SeaLake"
    (renamed, *_) = read_samples(folder, options={"question": "这是什么?", "names": {"AnnualCrop": "农田"}})
    assert renamed.answer == "农田" and renamed.turns[0].text == "这是什么?"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("AnnualCrop", "annual crop"),
        ("sea_lake-2", "sea lake 2"),
        ("HerbaceousVegetation", "herbaceous vegetation"),
        ("TVSet", "TV set"),
        ("dog", "dog"),
        ("猫", "猫"),
    ],
)
def test_pretty_names(folder: str, name: str) -> None:
    assert pretty(folder) == name


def test_bad_class_folders(tmp_path: Path) -> None:
    folder = makers.class_folders(tmp_path)
    (folder / "Void").mkdir()
    assert problems(folder) == ["class folder 'Void' holds no pictures"]
    with pytest.raises(UserError, match="no class folder 'SeaLak', which 'names' renames; did you mean 'SeaLake'"):
        records(folder, options={"names": {"SeaLak": "sea"}})
    with pytest.raises(UserError, match=r"two class folders .* have the name 'x'"):
        records(folder, options={"names": {"SeaLake": "x", "Void": "x"}})


# ---- a table of pictures and names


def test_picture_table(tmp_path: Path) -> None:
    samples = list(read_samples(makers.picture_table(tmp_path)))
    told = [
        (sample.meta["picture"], sample.meta["language"], sample.turns[0].text, sample.answer) for sample in samples
    ]
    assert told == [
        ("noto", "en", "what is this?", "joker"),
        ("noto", "zh", "这是什么?", "大小王"),
        ("twemoji", "en", "what is this?", "joker"),
        ("twemoji", "zh", "这是什么?", "大小王"),
        ("noto", "en", "what is this?", "ox"),
        ("noto", "zh", "这是什么?", "公牛"),
    ]
    assert samples[0].meta["code"] == "0" and "noto" not in samples[0].meta
    assert next(samples[0].pictures()) is next(samples[1].pictures())


def test_picture_table_options(tmp_path: Path) -> None:
    path = makers.picture_table(tmp_path)

    def answers(**options: Any) -> list[str]:
        return [sample.answer for sample in read_samples(path, options=options)]

    english = {"names": {"en": "en_name"}, "pictures": ["noto"]}
    assert answers(**english) == ["joker", "ox"]
    assert answers(**english, where={"skin_tone": 1}) == ["ox"]
    assert answers(**english, where={"skin_tone": [0, "1"]}) == ["joker", "ox"]
    assert answers(**english, filled=["twemoji"]) == ["joker"]
    assert answers(**english, sort_by=["length(en_name)", "code"], limit=1) == ["ox"]
    assert answers(**english, sort_by=["en_name"]) == ["joker", "ox"]
    # A row without a picture in the chosen column is not read; that it has one elsewhere says it is no mistake.
    assert answers(names={"en": "en_name"}, pictures=["twemoji"]) == ["joker"]


def test_a_table_of_questions(tmp_path: Path) -> None:
    (tmp_path / "qa.tsv").write_text("file\tquestion\tanswer\na.png\tIs it red?\tyes\nb.png\tIs it red?\t\n")
    first, second = records(tmp_path / "qa.tsv")
    assert first.sample is not None and shape(first.sample)[0] == ("user", ["@a.png", "Is it red?"])
    assert first.sample.meta["question"] == "Is it red?" and first.sample.meta["family"] == "question"
    assert second.problems == ("empty answer: column 'answer' is empty",)


@pytest.mark.parametrize(
    ("column", "language"),
    [("name", "en"), ("en_name", "en"), ("name_zh", "zh"), ("Label", "en"), ("zh_keywords", None), ("class id", None)],
)
def test_name_columns(column: str, language: str | None) -> None:
    assert name_language(column) == language


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "it.csv"
    path.write_text("image,name\na.png,ox\nb.png\n,cow\nc.png,\n")
    read = records(path)
    assert [record.problems for record in read] == [
        (),
        ("has 1 cells; the header has 2 columns",),
        ("there is no picture: image are empty",),
        ("empty answer: column 'name' is empty",),
    ]
    assert [record.line for record in read] == [2, 3, 4, 5]
    with pytest.raises(UserError, match="has no column 'nam', which 'names' names; did you mean 'name'"):
        records(path, options={"names": {"en": "nam"}})
    with pytest.raises(UserError, match="no question for names in 'fr'"):
        records(path, options={"names": {"fr": "name"}})
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column of picture paths among a, b"):
        records(path, format="picture_table")
