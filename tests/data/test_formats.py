from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import makers
import pytest
from reading import image_url, one_problem, problems, records, shape

from sightling.data.formats import FORMATS, ORDER, read_records, read_samples, recognise, resolve
from sightling.data.formats.base import Look
from sightling.errors import UserError

# ---- recognising


@pytest.mark.parametrize("name", sorted(makers.ALL))
def test_each_layout_is_recognised_by_its_content_and_by_no_other_format(name: str, tmp_path: Path) -> None:
    path = makers.ALL[name](tmp_path)
    assert recognise(path).name == name
    if path.is_file():
        # The name says nothing.
        path = path.rename(path.with_name("data.bin"))
    # MiniMind-V's JSON is LLaVA's with habits of its own, which is why it is asked first.
    found = [each for each in ORDER if FORMATS.get(each).sniff(Look(path))]
    assert found == ([name, "llava"] if name == "minimind_json" else [name])


@pytest.mark.parametrize("name", sorted(makers.ALL))
def test_each_layout_is_read_without_a_problem(name: str, tmp_path: Path) -> None:
    path = makers.ALL[name](tmp_path)
    for record in read_records(path):
        assert record.problems == ()
        assert record.sample is not None
        assert record.sample.meta["source"]
        for picture in record.sample.pictures():
            assert picture.load().mode == "RGB"


def test_every_format_has_a_place_in_the_order_and_a_line_of_description() -> None:
    assert sorted(ORDER) == FORMATS.names()
    assert all(FORMATS.get(name).name == name and FORMATS.get(name).description for name in ORDER)


def test_what_is_in_no_known_format_says_what_it_looks_like(tmp_path: Path) -> None:
    odd = makers.write_lines(tmp_path / "pope.json", [{"question_id": 1, "image": "a.jpg", "text": "Is it?"}])
    with pytest.raises(UserError, match=r"a json file of records with the keys question_id, image, text, which is no"):
        recognise(odd)
    (tmp_path / "torn.json").write_text('{"conversations": [}')
    with pytest.raises(UserError, match=r"torn\.json, line 1: "):
        recognise(tmp_path / "torn.json")
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(UserError, match=r"none\.json holds no records: its JSON array is empty"):
        recognise(tmp_path / "none.json")
    (tmp_path / "notes.txt").write_text("just words")
    with pytest.raises(UserError, match=r"is a text file, which is no known data format; known are .*llava"):
        recognise(tmp_path / "notes.txt")
    (tmp_path / "weights.bin").write_bytes(b"\0\1\2")
    with pytest.raises(UserError, match="is a binary file"):
        recognise(tmp_path / "weights.bin")
    with pytest.raises(UserError, match="nothing does not exist"):
        recognise(tmp_path / "nothing")


def test_a_wrong_format_name_or_option_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = makers.llava(tmp_path)
    with pytest.raises(UserError, match="there is no data format 'lava'; did you mean 'llava'"):
        read_records(path, "lava")
    with pytest.raises(UserError, match="data format 'nlvr' has no key 'thre'; did you mean 'three'"):
        read_records(path, "nlvr", options={"thre": True})
    with pytest.raises(UserError, match=r"the images root .* is not a folder"):
        read_records(path, images_root=tmp_path / "nowhere")


def test_a_folder_stands_for_the_one_data_set_in_it(tmp_path: Path) -> None:
    table = makers.picture_table(tmp_path / "emoji")
    assert resolve(tmp_path / "emoji") == table
    assert resolve(makers.easy_vqa(tmp_path / "vqa").parent.parent) == tmp_path / "vqa/train/questions.json"
    classes = makers.class_folders(tmp_path / "eurosat/eurosat")
    assert resolve(tmp_path / "eurosat") == classes
    makers.nlvr(tmp_path / "nlvr")
    makers.write_lines(tmp_path / "nlvr/train/train.json", [makers.nlvr_row("1-0")])
    with pytest.raises(UserError, match=r"holds 2 data files; name one of them: dev/dev\.json, train/train\.json"):
        resolve(tmp_path / "nlvr")


def test_a_file_cut_within_its_first_record_is_told_so_rather_than_unknown(tmp_path: Path) -> None:
    path = makers.write_json(tmp_path / "it.json", [{"image": "a.jpg", "conversations": makers.talk("a" * 99, "b")}])
    with pytest.raises(UserError, match="is cut off: record 0, which starts at line 1, is not complete"):
        recognise(makers.half(path))


# ---- LLaVA


def test_llava(tmp_path: Path) -> None:
    first, second, third = read_samples(makers.llava(tmp_path))
    assert shape(first) == [
        ("user", ["@a.png", "What is it?"]),
        ("assistant", ["A circle."]),
        ("user", ["Which colour?"]),
        ("assistant", ["Red."]),
    ]
    assert shape(second)[0] == ("user", ["Are ", "@a.png", " and ", "@b.png", "alike?"])
    assert shape(third)[0] == ("user", ["Say hello."])
    assert first.meta == {"source": "llava", "id": "0"}
    # Records about one picture share the object.
    assert next(first.pictures()) is next(second.pictures())


def test_llava_with_images_and_a_system_turn(tmp_path: Path) -> None:
    row = {"images": ["a.png"], "system": "Be brief.", "conversations": makers.talk("Look: <image>", "Yes.")}
    (sample,) = read_samples(makers.write_lines(tmp_path / "it.jsonl", [row]))
    assert shape(sample) == [
        ("system", ["Be brief."]),
        ("user", ["Look: ", "@a.png"]),
        ("assistant", ["Yes."]),
    ]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (
            {"image": "a.png", "conversations": makers.talk("<image>\n<image>\nQ", "A")},
            "2 <image> marks, but 1 picture",
        ),
        (
            {"image": ["a.png", "b.png"], "conversations": makers.talk("<image>Q", "A")},
            "1 <image> mark, but 2 pictures",
        ),
        ({"conversations": makers.talk("<image>\nQ", "A")}, "1 <image> mark, but 0 pictures"),
        ({"image": "a.png", "conversations": makers.talk("Q", "A")}, "0 <image> marks, but 1 picture"),
        (
            {"image": "a.png", "conversations": makers.talk("Q", "<image>A")},
            "turn 1 (assistant) holds <image>; pictures stand in user turns only",
        ),
        ({"conversations": makers.talk("Q", " ")}, "empty answer: turn 1 (assistant) has no text"),
        ({"conversations": makers.talk("", "A")}, "turn 0 (user) is empty"),
        ({"conversations": makers.talk("Q")}, "no answer: there is no assistant turn"),
        ({"conversations": makers.talk("Q", "A", "Q")}, "no answer: the last turn, 2, is the user's"),
        (
            {"conversations": [{"from": "bot", "value": "Q"}]},
            "turn 0 has the role 'bot'; known are assistant, developer, gpt, human, system, user",
        ),
        (
            {"conversations": [{"from": "gpt", "value": "A"}, {"from": "human", "value": "Q"}]},
            "turn 0 has the role 'assistant'; expected 'user'; no answer: the last turn, 1, is the user's",
        ),
        (
            {"conversations": [*makers.talk("Q", "A"), {"from": "system", "value": "S"}]},
            "turn 2 has the role 'system'; only the first turn may",
        ),
        ({"conversations": []}, "'conversations' is empty; expected a list of turns"),
        ({"conversations": "Q"}, "'conversations' is a string; expected a list of turns"),
        ({"image": "a.png"}, "there is no 'conversations'"),
        ({"conversations": ["Q", "A"]}, "turn 0 is a string, not an object"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 0 holds a number where its text should be"),
        (
            {"image": {"a": 1}, "conversations": makers.talk("Q", "A")},
            "'image' is an object; expected a path or a list",
        ),
        ({"image": ["a.png", 3], "conversations": makers.talk("Q", "A")}, "a picture's path is a number, not a string"),
        (
            {"image": "https://x.org/a.png", "conversations": makers.talk("<image>Q", "A")},
            "picture https://x.org/a.png is a web address",
        ),
        ({"image": "a.png", "images": ["a.png"], "conversations": makers.talk("Q", "A")}, "both 'image' and 'images'"),
    ],
)
def test_bad_llava_records_are_named(record: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert problem in one_problem(tmp_path, record, format="llava")


def test_a_bad_record_does_not_stop_the_reading_unless_asked(tmp_path: Path) -> None:
    good = {"conversations": makers.talk("Q", "A")}
    path = makers.write_json(tmp_path / "it.json", [good, {"conversations": makers.talk("Q", "")}, good, 7], indent=1)
    read = records(path)
    assert [bool(record.problems) for record in read] == [False, True, False, True]
    assert read[1].where == f"{path}, record 1 (line 14)" and read[1].line == 14
    assert read[3].problems == ("is a number, not an object",)
    with pytest.raises(UserError, match=r"record 1 \(line 14\): empty answer: turn 1 \(assistant\) has no text"):
        list(read_samples(path))
    assert len(list(read_samples(path, on_error="skip"))) == 2


def test_pictures_are_found_beside_the_file_or_under_the_images_root(tmp_path: Path) -> None:
    path = makers.llava(tmp_path / "data")
    other = tmp_path / "pictures"
    other.mkdir()
    assert next(next(read_samples(path)).pictures()).path == tmp_path / "data/a.png"
    assert next(next(read_samples(path, images_root=other)).pictures()).path == other / "a.png"
    absolute = {"image": str(tmp_path / "x.png"), "conversations": makers.talk("<image>", "A")}
    (sample,) = read_samples(makers.write_json(tmp_path / "abs.json", [absolute]), images_root=other)
    assert next(sample.pictures()).path == tmp_path / "x.png"


# ---- MiniMind-V


def test_minimind_json(tmp_path: Path) -> None:
    first, second = read_samples(makers.minimind_json(tmp_path))
    assert shape(first) == [("user", ["图里有什么?", "@a.jpg"]), ("assistant", ["一个圆。"])]
    assert shape(second) == [("user", ["比较", "@a.jpg", "@b.jpg"]), ("assistant", ["一样"])]


def test_minimind_json_options_and_the_form_of_2025(tmp_path: Path) -> None:
    row = {"image": "1.jpg", "conversations": [{"role": "user", "content": "<image>Q"}, {"role": "x", "content": "A"}]}
    path = makers.write_lines(tmp_path / "it.jsonl", [row])
    assert recognise(path).name == "minimind_json"
    (sample,) = read_samples(path, options={"prefix": "COCO_train2014_"})
    assert shape(sample) == [("user", ["@COCO_train2014_1.jpg", "Q"]), ("assistant", ["A"])]


def test_a_comma_in_a_file_name_is_no_list(tmp_path: Path) -> None:
    row = {"image": "a, b.jpg", "conversations": makers.talk("<image>Q", "A")}
    path = makers.write_json(tmp_path / "it.json", [row])
    assert recognise(path).name == "llava"
    assert shape(next(read_samples(path)))[0] == ("user", ["@a, b.jpg", "Q"])


def test_bad_minimind_records(tmp_path: Path) -> None:
    two = {"image": "a.jpg, b.jpg", "conversations": makers.talk("<image>Q", "A")}
    assert one_problem(tmp_path, two, format="minimind_json") == "1 <image> mark, but 2 pictures"
    listed = {"image": ["a.jpg"], "conversations": makers.talk("<image>Q", "A")}
    assert "'image' is a list; expected names in one string" in one_problem(tmp_path, listed, format="minimind_json")


def test_minimind_parquet_with_a_json_string_or_a_list_and_one_or_several_pictures(tmp_path: Path) -> None:
    red, blue = makers.encoded((9, 7)), makers.encoded((5, 5), (0, 0, 255))
    rows = [{"conversations": json.dumps(makers.chat("<image>\nQ", "A")), "image_bytes": red}]
    (sample,) = read_samples(makers.minimind_parquet(tmp_path / "one", rows))
    assert shape(sample) == [("user", ["@data", "Q"]), ("assistant", ["A"])]
    assert next(sample.pictures()).size() == (9, 7)
    rows = [{"conversations": makers.chat("<image><image>Q", "A"), "image_bytes": [red, blue]}]
    (sample,) = read_samples(makers.minimind_parquet(tmp_path / "two", rows))
    assert [picture.size() for picture in sample.pictures()] == [(9, 7), (5, 5)]


def test_the_stand_in_picture_of_text_only_rows_is_left_out(tmp_path: Path) -> None:
    text = json.dumps(makers.chat("Say hello.", "Hello."))
    rows = [
        {"conversations": text, "image_bytes": makers.encoded((8, 8), (0, 0, 0))},
        {"conversations": text, "image_bytes": None},
        {"conversations": text, "image_bytes": makers.encoded((9, 9))},
    ]
    read = records(makers.minimind_parquet(tmp_path, rows))
    assert [record.sample is not None and not list(record.sample.pictures()) for record in read] == [True, True, False]
    assert read[2].problems == ("0 <image> marks, but 1 picture",)


def test_bad_parquet(tmp_path: Path) -> None:
    rows = [{"conversations": '[{"role": ', "image_bytes": b""}]
    assert (
        "'conversations' is not JSON: expecting value at character"
        in problems(makers.minimind_parquet(tmp_path, rows))[0]
    )
    with pytest.raises(UserError, match="is cut off or is not a parquet file"):
        recognise(makers.half(makers.minimind_parquet(tmp_path / "half")))
    lacking = makers.minimind_parquet(tmp_path / "lacking", [{"conversations": "[]"}])
    with pytest.raises(UserError, match="has no column 'image_bytes'; it has conversations"):
        records(lacking, format="minimind_parquet")


# ---- OpenAI


def test_openai_parts_and_columns(tmp_path: Path) -> None:
    first, second = read_samples(makers.openai(tmp_path))
    assert shape(first) == [
        ("system", ["Be brief."]),
        ("user", ["@a.png", "What is it?"]),
        ("assistant", ["A circle."]),
    ]
    assert shape(second)[0] == ("user", ["@a.png", "What is it?"])


def test_openai_data_uris_and_parts_without_a_source(tmp_path: Path) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(makers.encoded((9, 7))).decode()
    inline = [{"type": "text", "text": "Q"}, {"type": "image_url", "image_url": {"url": uri}}]
    bare = [{"type": "image"}, {"type": "text", "text": "an <image> tag of HTML"}, {"type": "image"}]
    lines = [
        {"messages": makers.chat(inline, "A")},
        {"messages": makers.chat(bare, [{"type": "text", "text": "A"}]), "images": ["a.png", {"path": "b.png"}]},
    ]
    first, second = read_samples(makers.write_lines(tmp_path / "it.jsonl", lines))
    assert next(first.pictures()).size() == (9, 7)
    assert shape(second)[0] == ("user", ["@a.png", "an <image> tag of HTML", "@b.png"])


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": makers.chat("<image><image>Q", "A"), "images": ["a"]}, "2 <image> marks, but 1 picture"),
        ({"messages": makers.chat("<image>Q", "A")}, "1 <image> mark, but 0 pictures"),
        ({"messages": makers.chat([{"type": "image"}], "A")}, "no picture is left in 'images'"),
        ({"messages": makers.chat([{"type": "text", "text": "Q"}], "A"), "images": ["a"]}, "but 0 image parts"),
        ({"messages": makers.chat([{"type": "audio"}], "A")}, "turn 0 has a part of type 'audio'; known are text,"),
        ({"messages": makers.chat("Q", [{"type": "image", "image": "a"}])}, "turn 1 (assistant) holds a picture"),
        ({"messages": makers.chat(image_url("data:image/png;base64,@@"), "A")}, "not valid base64"),
        ({"messages": makers.chat(image_url("http://x/a.png"), "A")}, "web address"),
        ({"messages": makers.chat("Q", "")}, "empty answer"),
        ({"messages": [{"role": "tool", "content": "Q"}]}, "turn 0 has the role 'tool'"),
    ],
)  # fmt: skip
def test_bad_openai_records_are_named(record: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert problem in one_problem(tmp_path, record, format="openai")


def test_openai_as_parquet_the_way_the_hub_keeps_it(tmp_path: Path) -> None:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Q"}]
    answer = [{"type": "text", "text": "A"}]
    rows = [
        {"messages": makers.chat(parts, answer), "images": [{"bytes": makers.encoded((9, 7)), "path": None}]},
        {"messages": makers.chat(parts[1:], answer), "images": []},
    ]
    path = makers.minimind_parquet(tmp_path, rows)
    assert recognise(path).name == "openai"
    first, second = read_samples(path)
    assert shape(first) == [("user", ["@data", "Q"]), ("assistant", ["A"])]
    assert shape(second) == [("user", ["Q"]), ("assistant", ["A"])]
