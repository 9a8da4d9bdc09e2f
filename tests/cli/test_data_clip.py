"""``sightling data clip`` writes a clip of the small world as a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sightling import cli
from sightling.data.series import ClipOptions
from sightling.sight.video import read_video
from sightling.world.film import write_video


def outcome(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(part) for part in ("data", "clip", *argv)])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def test_a_clip_is_written_with_its_question(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    code, out, err = outcome(capsys, path, "--family", "appearing", "--language", "zh", "--seed", 4, "--size", 32)
    assert (code, err) == (0, "")
    told = ClipOptions(families={"appearing": 1.0}, languages={"zh": 1.0}, synonyms=0).open(4).group(0)[0]
    assert out.splitlines() == [f"wrote {path}", f"{told.turns[0].text}  {told.answer}"]
    found = read_video(path)
    assert (found.frames, found.duration) == (32, 4.0) and found.pictures[0].size() == (32, 32)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--family", "evnt"), "clip.families: there is no question family 'evnt'; did you mean 'event'?"),
        (("--language", "fr"), "clip.languages: there is no language 'fr'"),
        (("--seconds", "0"), "0.0 seconds at 8 pictures a second make no video"),
        (("--seconds", "nan"), "nan seconds at 8 pictures a second make no video"),
        (("--seconds", "1e9"), "1000000000.0 seconds at 8 pictures a second make no video; it has 1 to 20,000"),
    ],
)
def test_wrong_options_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    code, out, err = outcome(capsys, tmp_path / "clip.mp4", *arguments)
    assert (code, out) == (2, "")
    assert told in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_is_stopped_halfway_leaves_an_older_one_as_it_was(tmp_path: Path) -> None:
    def pictures() -> Iterator[Image.Image]:
        yield Image.new("RGB", (32, 32))
        raise KeyboardInterrupt

    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        write_video(pictures(), path)
    assert [one.name for one in tmp_path.iterdir()] == ["clip.mp4"] and path.read_bytes() == b"older"


def test_a_folder_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = outcome(capsys, tmp_path / "none" / "clip.mp4", "--size", "16")
    assert (code, out) == (2, "") and "cannot be written" in err and err.count("\n") == 1
