from __future__ import annotations

import gzip
import json
import tarfile
from itertools import pairwise
from pathlib import Path

import makers
import pytest

from sightling.data.checks import check
from sightling.data.formats import read_records, read_samples
from sightling.data.sample import Picture
from sightling.data.tars import key_of, record_starts
from sightling.errors import UserError


def problem(folder: Path, *members: tuple[str, bytes]) -> str:
    (record,) = read_records(makers.tar(folder / "it.tar", list(members)))
    assert record.sample is None
    assert record.where == f"{folder / 'it.tar'}, key 'k'"
    return "; ".join(record.problems)


def test_keys_end_at_the_first_dot_of_the_files_name() -> None:
    assert key_of("a/b.c/0001.seg.PNG") == ("a/b.c/0001", "seg.png")
    assert key_of("./0001.jpg") == ("./0001", "jpg")
    assert [key_of(name) for name in ("readme", "._x.jpg", "d/.hidden", "a/")] == [None] * 4


def test_captions_and_conversations(tmp_path: Path) -> None:
    caption, marked, named = read_samples(makers.webdataset(tmp_path))
    assert [turn.text for turn in caption.turns] == ["", "a caption"]
    assert caption.meta == {"source": "webdataset", "url": "x", "score": 2, "__key__": "a"}
    assert [turn.text for turn in marked.turns] == ["What is it?", "A circle."]
    assert isinstance(marked.turns[0].parts[0], Picture)
    assert marked.meta == {"source": "llava", "__key__": "b"}
    (picture,) = named.pictures()
    assert picture.load().size == (8, 8)
    assert picture.name == f"{tmp_path}/shard-000000.tar, member c.b.png"


def test_the_users_words_beside_a_captions_pictures(tmp_path: Path) -> None:
    caption, *_ = read_samples(makers.webdataset(tmp_path), options={"question": "Describe it."})
    assert caption.turns[0].text == "Describe it."


def test_pictures_without_names_come_in_the_tars_order(tmp_path: Path) -> None:
    told = {"messages": makers.chat([{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Q"}], "A")}
    members = [("k.1.png", makers.encoded((8, 8), kind="PNG")), ("k.0.jpg", makers.encoded((9, 9)))]
    (sample,) = read_samples(makers.tar(tmp_path / "it.tar", [*members, ("k.json", json.dumps(told).encode())]))
    assert [picture.size() for picture in sample.pictures()] == [(8, 8), (9, 9)]


def test_what_is_wrong_with_a_key(tmp_path: Path) -> None:
    picture = ("k.jpg", makers.encoded())
    llava = {"image": "x.png", "conversations": makers.talk("<image>Q", "A")}
    assert problem(tmp_path, picture) == "there is no .txt and no .json with 'conversations' or 'messages'"
    assert problem(tmp_path, ("k.txt", b"words")) == "there is a .txt and no picture that it could be the caption of"
    assert "empty answer" in problem(tmp_path, picture, ("k.txt", b" "))
    assert problem(tmp_path, picture, ("k.txt", b"\xff")) == "the .txt is not UTF-8"
    assert problem(tmp_path, picture, ("k.json", b"{")).startswith("the .json is not JSON: Expecting")
    assert problem(tmp_path, picture, ("k.json", b"[]")) == "the .json is a list, not an object"
    assert problem(tmp_path, picture, picture, ("k.txt", b"x")) == "two members of one key end in .jpg"
    assert (
        problem(tmp_path, picture, ("k.json", json.dumps(llava).encode()))
        == "no picture 'x.png' stands under this key; there are k.jpg"
    )


def test_check_names_the_member_that_is_no_picture(tmp_path: Path) -> None:
    path = makers.tar(tmp_path / "it.tar", [("k.jpg", b"no picture"), ("k.txt", b"words")])
    (found,) = check(path).problems
    assert found.problem.startswith(f"picture {path}, member k.jpg is not a picture in a known format")


def test_records_are_found_by_their_bytes(tmp_path: Path) -> None:
    long = "d/" + "n" * 120
    members = [("readme", b"x"), ("0.jpg", b"1"), ("0.txt", b"2" * 600), (f"{long}.jpg", b"3"), ("1.txt", b"")]
    path = makers.tar(tmp_path / "it.tar", members)
    starts = list(record_starts(path))
    assert starts[0] == 1024 and len(starts) == 4
    content = path.read_bytes()
    assert content[starts[0] :].startswith(b"0.jpg") and content[starts[2] :].startswith(b"1.txt")
    assert all(stop % 512 == 0 and stop > start for start, stop in pairwise(starts))
    assert [record.where.rpartition(", ")[2] for record in read_records(path)] == [
        "key '0'",
        f"key {long!r}",
        "key '1'",
    ]


def test_no_place_to_cut_a_tar_goes_unnoticed(tmp_path: Path) -> None:
    whole = makers.webdataset(tmp_path).read_bytes()
    with tarfile.open(tmp_path / "shard-000000.tar") as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + 512
    path = tmp_path / "cut.tar"
    for at in (*range(512, end + 1, 512), 700, last.offset + 100, end - 300):
        path.write_bytes(whole[:at])
        with pytest.raises(UserError, match=r"cut\.tar is cut off"):
            list(record_starts(path))
    path.write_bytes(whole[: last.offset] + b"\1" * 512 + whole[last.offset + 512 :])
    with pytest.raises(UserError, match=r"cut\.tar is cut off or damaged: what follows is no member \(at byte"):
        list(record_starts(path))
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match="is not a plain tar file"):
        list(record_starts(path))
