from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightling.data.formats import Record, read_records
from sightling.data.sample import Picture, Sample, question
from sightling.data.show import FEWEST_ALIKE, Run, page, pick, token_runs
from sightling.errors import UserError


@dataclass
class Encoded:
    input_ids: Sequence[int]
    labels: Sequence[int]


class Bytes:
    """A tokenizer of bytes, with the placeholder 256."""

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return b"".join(b"<image>" if token == 256 else bytes([token]) for token in ids).decode(errors="replace")


class Processor:
    """Encodes a sample as bytes: 6 placeholders a picture, assistant turns supervised."""

    tokenizer = Bytes()

    def encode(self, sample: Sample) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        for turn in sample.turns:
            for part in turn.parts:
                new = [256] * 6 if isinstance(part, Picture) else list(part.encode())
                ids += new
                labels += new if turn.role == "assistant" else [-100] * len(new)
        return Encoded(ids, labels)

    def pixels(self, picture: Picture) -> np.ndarray:
        return np.asarray(picture.load().resize((4, 4))).transpose(2, 0, 1)[None]


def test_runs_of_a_sample() -> None:
    sample = question("猫?", Picture(image=Image.new("RGB", (3, 3))), answer="是的")
    runs = token_runs(Processor().encode(sample), Bytes())
    assert [(run.text, run.supervised, run.repeats) for run in runs] == [
        ("<image>", False, 6),
        ("猫", False, 1),
        ("?", False, 1),
        ("是", True, 1),
        ("的", True, 1),
    ]
    assert runs[1].ids == tuple("猫".encode())


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20), cut=st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_runs_keep_every_token_and_its_supervision(text: str, cut: int) -> None:
    ids = list(text.encode())
    labels = [-100] * min(cut, len(ids)) + ids[cut:]
    runs = token_runs(Encoded(ids, labels), Bytes())
    assert [token for run in runs for token in run.ids] == ids
    assert [run.supervised for run in runs for _ in run.ids] == [label != -100 for label in labels]
    assert all(run.repeats == 1 or run.repeats == len(run.ids) >= FEWEST_ALIKE for run in runs)
    if cut == 0 and "\ufffd" not in text:
        assert "".join(run.text * run.repeats for run in runs) == text


def test_bytes_that_are_no_character_are_shown_all_the_same() -> None:
    assert token_runs(Encoded([0xE7, 0x41], [-100, -100]), Bytes()) == [
        Run("\ufffd", (0xE7,), False),
        Run("A", (0x41,), False),
    ]


def test_labels_that_do_not_fit_are_a_bug() -> None:
    with pytest.raises(ValueError, match="2 input ids, but 1 labels"):
        token_runs(Encoded([1, 2], [1]), Bytes())
    with pytest.raises(ValueError, match="token 1 is 2, but its label is 3"):
        token_runs(Encoded([1, 2], [1, 3]), Bytes())


@given(st.integers(0, 40), st.integers(1, 10), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_picking(total: int, count: int, seed: int) -> None:
    records = [Record(index, "", question("Q")) for index in range(total)]
    drawn = [record.index for record in pick(iter(records), count, seed)]
    assert len(set(drawn)) == min(total, count) and drawn == sorted(drawn)
    assert drawn == [record.index for record in pick(iter(records), count, seed)]
    assert all(index < 5 for index in [record.index for record in pick(iter(records), count, seed, among=5)])


class Reader(HTMLParser):
    """Checks that tags close, and collects what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_self_contained(tmp_path: Path) -> None:
    makers.picture(tmp_path / "a.png", (1200, 600))
    (tmp_path / "bad.png").write_text("text")
    records = [
        {"image": "a.png", "id": "<b>1</b>", "conversations": makers.talk("<image>\nis <b>it</b>?", "yes")},
        {"image": "bad.png", "conversations": makers.talk("<image>", "A")},
        {"conversations": makers.talk("Q", "")},
    ]
    path = makers.write_json(tmp_path / "it.json", records)
    for processor in (None, Processor()):
        html = page(list(read_records(path)), str(path), processor)
        reader = Reader()
        reader.feed(html)
        assert not reader.open
        assert reader.sources and all(source.startswith("data:image/png;base64,") for source in reader.sources)
        assert "is &lt;b&gt;it&lt;/b&gt;?" in html and "<b>it" not in html and "&lt;b&gt;1" in html
        assert html.count("is not a picture in a known format") == 1
        assert "empty answer: turn 1 (assistant) has no text" in html
        assert "record 0 (line 1)" in html
        shown = Image.open(io.BytesIO(base64.b64decode(reader.sources[0].split(",")[1])))
        assert shown.size == (512, 256) and "1200 x 600" in html
        if processor is not None:
            assert "22 tokens, 3 supervised" in html
            learnt = re.findall(r'<span class="token learn" title[^>]*>(.*?)</span>', html)
            assert learnt == ["y", "e", "s"]
            assert re.search(r"&lt;image&gt;\s*<i> × 6</i>", html)
            assert len(reader.sources) == 2
        else:
            assert "supervised" not in html


def test_what_the_processor_refuses_is_shown_as_a_problem() -> None:
    class Refusing(Processor):
        def encode(self, sample: Sample) -> Encoded:
            raise UserError("the sample is too long")

    html = page([Record(0, "here", question("Q", answer="A"))], "it", Refusing())
    assert "the sample is too long" in html
