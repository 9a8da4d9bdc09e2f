"""Pictures that come with what other models say of them: from columns of a data set, and from the small world."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from sightling.data.augment import Augment
from sightling.data.sample import Notes, Picture, Sample
from sightling.data.sources import SOURCES
from sightling.errors import UserError
from sightling.evaluate.items import in_grey
from sightling.evaluate.world import held_out, world_items
from sightling.parts import make

TOLD = {"caption": "blip", "tags": "ram", "boxes": "dino"}
BOX = "cat {<10><20><30><40>}"


def record(names: str | list[str], **more: Any) -> dict[str, Any]:
    marks = "<image>\n" * (1 if isinstance(names, str) else len(names))
    turns = [{"from": "human", "value": f"{marks}What is it?"}, {"from": "gpt", "value": "A cat."}]
    return {"image": names, "conversations": turns, **more}


def source(folder: Path, records: list[dict[str, Any]], **told: Any) -> Any:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "data.json").write_text(json.dumps(records))
    return make(SOURCES, {"type": "files", "path": str(folder / "data.json"), **told}, "data").open(0)


def notes(sample: Sample) -> list[Notes | None]:
    return [picture.notes for picture in sample.pictures()]


def test_columns_become_notes(tmp_path: Path) -> None:
    rows = [record("a.png", blip="a cat", ram=["cat", "mat"], dino=[BOX]), record("b.png", blip="", ram="dog", dino="")]
    made = source(tmp_path, rows, notes=TOLD)
    assert notes(made.group(0)[0]) == [Notes("a cat", "cat, mat", BOX)]
    assert notes(made.group(1)[0]) == [Notes("", "dog", "")]
    assert notes(source(tmp_path, rows).group(0)[0]) == [None]
    assert notes(source(tmp_path, rows, notes={"tags": "ram"}, cache_mb=1).group(0)[0]) == [Notes(tags="cat, mat")]


def test_each_of_several_pictures_has_its_own(tmp_path: Path) -> None:
    rows = [record(["a.png", "b.png"], blip=["a cat", "a dog"])]
    made = source(tmp_path, rows, notes={"caption": "blip"})
    assert notes(made.group(0)[0]) == [Notes("a cat"), Notes("a dog")]


def test_samples_about_one_picture_still_share_it(tmp_path: Path) -> None:
    rows = [record("a.png", blip="a cat"), record("a.png", blip="a cat"), record("a.png", blip="another")]
    made = source(tmp_path, rows, notes={"caption": "blip"})
    assert [len(made.group(index)) for index in range(len(made))] == [2, 1]
    first, second = made.group(0)
    assert list(first.pictures()) == list(second.pictures())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([record("a.png", blib="a cat")], "record 0.*no key 'blip'.*did you mean 'blib'"),
        ([record("a.png", blip=3)], "'blip' is neither a text nor a list"),
        ([record(["a.png", "b.png"], blip=["a cat"])], "holds 1 texts for 2 pictures"),
        ([record(["a.png", "b.png"], blip="a cat")], "holds 1 texts for 2 pictures"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(tmp_path, rows, notes={"caption": "blip"})
    good = record("a.png", blip="a cat")
    skipping = source(tmp_path, [*rows, good], notes={"caption": "blip"}, on_error="skip")
    assert (len(skipping), skipping.skipped) == (1, 1)


def test_the_small_world_brings_a_detector_s_words_in_the_question_s_language() -> None:
    told = {"type": "world", "image_size": 16, "notes": {}}
    made = make(SOURCES, told, "data").open(0)
    for index in range(6):
        for sample in made.group(index):
            (said,) = notes(sample)
            assert said is not None and said.caption and said.tags and "{<" in said.boxes
            assert said.caption.isascii() == (sample.meta["language"] == "en")
    blind = make(SOURCES, {**told, "notes": {"drop": 1.0}}, "data").open(0)
    assert notes(blind.group(0)[0]) == [Notes()]
    plain = make(SOURCES, {"type": "world", "image_size": 16}, "data").open(0)
    assert notes(plain.group(0)[0]) == [None]
    assert [one.turns[0].text for one in made.group(0)] == [one.turns[0].text for one in plain.group(0)]
    with pytest.raises(UserError, match="notes has no key 'drob'"):
        make(SOURCES, {**told, "notes": {"drob": 1.0}}, "data")


def test_questions_of_an_evaluation_bring_them_too_and_blind_ones_bring_nothing_found() -> None:
    options = make(SOURCES, {"type": "world", "image_size": 16, "notes": {}}, "data")
    items = world_items(held_out(options, 1, None), {"color": 1}, 4)
    assert all(said is not None and said.caption for item in items for said in notes(item.sample))
    assert all(notes(item.sample) == [Notes()] for item in in_grey(items))
    plain = make(SOURCES, {"type": "world", "image_size": 16}, "data")
    assert all(notes(item.sample) == [None] for item in in_grey(world_items(held_out(plain, 1, None), {"color": 1}, 2)))


def test_augmented_pictures_keep_what_is_still_true() -> None:
    image = Image.new("RGB", (8, 8))
    said = Picture(image=image, notes=Notes("a cat", "cat", BOX))
    assert Augment(brightness=0.2)(said, Random(0)).notes == said.notes
    with pytest.raises(UserError, match="boxes"):
        Augment(flip=0.5)(said, Random(0))
    assert Augment(flip=0.5)(Picture(image=image, notes=Notes("a cat")), Random(0)).notes == Notes("a cat")
