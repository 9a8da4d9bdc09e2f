from __future__ import annotations

import pickle
from pathlib import Path

import makers
import numpy as np
import pytest
from PIL import Image

from sightling.data.files import FilesOptions, FileSource, HoldOut
from sightling.data.records import Decoded
from sightling.data.sample import Picture, Sample, Turn
from sightling.data.source import SOURCES
from sightling.errors import UserError
from sightling.parts import make


def test_questions_about_one_picture_are_one_group_that_shares_it(tmp_path: Path) -> None:
    source = FileSource(makers.easy_vqa(tmp_path))
    assert len(source) == 2
    first, second = source.group(0)
    assert next(first.pictures()) is next(second.pictures())
    assert [sample.answer for sample in source.samples()] == ["red", "yes", "circle"]
    with pytest.raises(IndexError, match="group 2 of a source of 2 groups"):
        source.group(2)


def test_groups_can_be_kept_small(tmp_path: Path) -> None:
    source = FileSource(makers.easy_vqa(tmp_path), per_group=1)
    assert [len(source.group(index)) for index in range(len(source))] == [1, 1, 1]
    assert next(source.group(0)[0].pictures()) is next(source.group(1)[0].pictures())
    with pytest.raises(UserError, match="per_group is 0"):
        FileSource(tmp_path, per_group=0)


def test_three_crops_group_by_all_three_and_text_alone(tmp_path: Path) -> None:
    rows = [makers.nlvr_row("7-0", "2"), makers.nlvr_row("7-0", "2", "false")]
    path = makers.write_lines(makers.nlvr(tmp_path), rows)
    source = FileSource(path, options={"three": True})
    assert len(source) == 1
    one, other = source.group(0)
    assert list(one.pictures()) == list(other.pictures())
    texts = [{"conversations": makers.talk("Q", "A")}] * 3
    assert len(FileSource(makers.write_json(tmp_path / "text.json", texts))) == 3


def test_the_two_sides_of_a_split_share_nothing(tmp_path: Path) -> None:
    for number in range(10):
        makers.picture(tmp_path / f"c/{number}.png")
    for number in range(10):
        makers.picture(tmp_path / f"d/{number}.png")
    sides = [FileSource(tmp_path, split=HoldOut(fraction=0.25, part=part)) for part in ("kept", "held")]
    names = [{sample.meta["id"] for sample in side.samples()} for side in sides]
    assert len(names[0]) == 15 and len(names[1]) == 5 and not names[0] & names[1]
    by_label = FileSource(tmp_path, split=HoldOut(fraction=0.5, by="label", part="held"))
    assert len({sample.meta["label"] for sample in by_label.samples()}) == 1


def test_bad_records_and_missing_pictures_raise_or_are_counted(tmp_path: Path) -> None:
    makers.picture(tmp_path / "a.png")
    records = [
        {"image": "a.png", "conversations": makers.talk("<image>Q", "A")},
        {"image": "gone.png", "conversations": makers.talk("<image>Q", "A")},
        {"conversations": makers.talk("Q", "")},
    ]
    path = makers.write_json(tmp_path / "it.json", records)
    with pytest.raises(UserError, match=r"it\.json, record 1 \(line 1\): picture .*gone\.png does not exist"):
        FileSource(path)
    source = FileSource(path, on_error="skip")
    assert len(source) == 1 and source.skipped == 2
    makers.write_json(path, records[1:])
    with pytest.raises(UserError, match=r"it\.json has no samples \(2 bad ones\)"):
        FileSource(path, on_error="skip")
    # A file that breaks off is never half a data set, whatever is skipped.
    makers.write_json(path, records * 5, indent=1)
    with pytest.raises(UserError, match="is cut off"):
        FileSource(makers.half(path), on_error="skip")


def test_decoded_pictures_are_kept_up_to_the_budget(tmp_path: Path) -> None:
    path = makers.easy_vqa(tmp_path)
    one_picture = 4 * 64 * 64
    source = FileSource(path, cache_bytes=one_picture)
    first = source.group(0)
    assert source.group(0) is first
    assert len({id(picture) for sample in first for picture in sample.pictures()}) == 1
    assert next(first[0].pictures()).image is not None
    assert [sample.answer for sample in first] == ["red", "yes"]
    assert next(source.group(1)[0].pictures()).image is None
    plain = FileSource(path)
    assert next(plain.group(0)[0].pictures()).load().tobytes() == next(first[0].pictures()).load().tobytes()


def test_boxes_survive_the_cache(tmp_path: Path) -> None:
    source = FileSource(makers.nlvr(tmp_path), options={"three": True}, cache_bytes=1 << 20)
    assert [picture.load().size for picture in source.group(0)[0].pictures()] == [(100, 100)] * 3


def test_a_budget_survives_the_cache() -> None:
    sample = Sample((Turn("user", (Picture(image=Image.new("RGB", (4, 4)), tiles=2), "?")),))
    [kept] = Decoded(1 << 20).group(0, [sample])
    assert [picture.tiles for picture in kept.pictures()] == [2]


def test_a_source_can_be_pickled_and_permuted(tmp_path: Path) -> None:
    source = FileSource(makers.class_folders(tmp_path))
    assert [s.answer for s in pickle.loads(pickle.dumps(source)).samples()] == [s.answer for s in source.samples()]
    assert sorted(source.permutation(np.random.default_rng(0))) == [0, 1, 2]


def test_the_section_of_a_recipe(tmp_path: Path) -> None:
    path = makers.nlvr(tmp_path)
    section = {"type": "files", "path": str(path), "options": {"three": True}, "cache_mb": 1}
    options = make(SOURCES, section, "data")
    assert isinstance(options, FilesOptions)
    assert len(list(options.open(0).group(0)[0].pictures())) == 3
    with pytest.raises(UserError, match=r"data\.hold_out\.fraction = 2 is wrong"):
        make(SOURCES, {**section, "hold_out": {"fraction": 2}}, "data")
