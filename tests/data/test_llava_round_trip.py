from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import talk

from sightling.data.formats import read_records, read_samples
from sightling.data.formats.conversation import MARK
from sightling.data.formats.llava import to_record
from sightling.data.sample import Part, Picture, Sample, Turn, question
from sightling.errors import UserError

# Any text but the mark itself; a turn must hold more than white space.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda text: MARK not in text)
SPOKEN = TEXT.filter(str.strip)
NAMES = st.sampled_from(["a.png", "b c.jpg", "d/图.png"])


@st.composite
def user_parts(draw: st.DrawFn) -> tuple[Part, ...]:
    """Pictures and texts in any order, no two texts side by side (they would be one)."""
    parts: list[Part] = []
    for name in draw(st.lists(NAMES | st.none(), max_size=4)):
        if name is not None:
            parts.append(Picture(path=Path(name)))
        elif not parts or isinstance(parts[-1], Picture):
            parts.append(draw(SPOKEN))
    return tuple(parts) or (draw(SPOKEN),)


@st.composite
def conversations(draw: st.DrawFn) -> Sample:
    turns = [Turn("system", (draw(SPOKEN),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Turn("user", draw(user_parts())), Turn("assistant", (draw(SPOKEN),))]
    return Sample(tuple(turns), {"source": "llava", "id": draw(TEXT)})


def plain(sample: Sample, root: Path) -> list[tuple[str, list[str]]]:
    """Roles and parts; a picture as its path below ``root``."""
    return [
        (turn.role, [f"@{part.path.relative_to(root)}" if isinstance(part, Picture) else part for part in turn.parts])
        for turn in sample.turns
        if turn.parts
    ]


@given(sample=conversations())
@settings(max_examples=60, deadline=None)
def test_a_sample_written_as_a_record_is_read_back(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.json"
        path.write_text(json.dumps([to_record(sample)]), encoding="utf-8")
        (back,) = read_samples(path, "llava")
        assert plain(back, Path(folder)) == plain(sample, Path())
        assert back.meta == sample.meta


@given(marks=st.integers(0, 4), pictures=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_marks_and_pictures_must_agree(marks: int, pictures: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "image": [f"{number}.png" for number in range(pictures)],
            "conversations": talk(MARK * marks + "Q", "A"),
        }
        path = Path(folder) / "it.json"
        path.write_text(json.dumps([record]), encoding="utf-8")
        (read,) = read_records(path, "llava")
        if marks == pictures:
            assert read.sample is not None
            assert [picture.path for picture in read.sample.pictures()] == [
                Path(folder) / f"{n}.png" for n in range(marks)
            ]
        else:
            assert read.sample is None
            assert f"{marks} <image> mark" in read.problems[0] and f"{pictures} picture" in read.problems[0]


def test_what_llava_cannot_say_is_refused() -> None:
    with pytest.raises(UserError, match="would take for a picture: 'see <image>'"):
        to_record(question("see <image>", answer="A"))
    with pytest.raises(UserError, match="names whole picture files, and <3 bytes> is none"):
        to_record(question("Q", Picture(data=b"abc"), answer="A"))
    with pytest.raises(UserError, match=r"whole picture files, and a\.png is none"):
        to_record(question("Q", Picture(path=Path("a.png"), box=(0, 0, 1, 1)), answer="A"))
