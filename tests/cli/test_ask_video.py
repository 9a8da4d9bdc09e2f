"""Videos given to ``sightling ask`` and ``sightling chat``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import sightling
from sightling import cli
from sightling.serve.opening import open_path
from sightling.sight.video import Uniform, read_video
from videos import greys, sound, video, without_frames


def outcome(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(part) for part in argv])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return video(tmp_path / "clip.mp4", greys(12))


def test_a_video_is_its_frames_in_order(capsys: pytest.CaptureFixture[str], saved_model: Path, clip: Path) -> None:
    code, out, err = outcome(capsys, "ask", saved_model, clip, "red?", "--json", "--frames", 3, "--max-new-tokens", 5)
    assert (code, err) == (0, "")
    told = json.loads(out)
    model, processor = sightling.load(saved_model)
    pictures = read_video(clip, Uniform(frames=3), tiles=1).pictures
    assert told["answer"] == sightling.ask(model, processor, pictures, "red?", max_new_tokens=5)
    assert told["pictures"] == [str(clip)]
    assert told["visual_tokens"] == 3 * processor.image_processor.count(48, 32, 1)
    assert told["videos"] == [
        {"path": str(clip), "duration": 3.0, "frames": 3, "of": 12, "times": [0.5, 1.5, 2.5]}
    ]


def test_pictures_and_videos_keep_their_order(
    capsys: pytest.CaptureFixture[str], saved_model: Path, clip: Path, png: Path
) -> None:
    base = ("--json", "--sampling", "rate", "--max-new-tokens", 4)
    told = json.loads(outcome(capsys, "ask", saved_model, png, clip, "red?", *base)[1])
    model, processor = sightling.load(saved_model)
    frames = open_path(clip, Uniform(frames=3)).pictures
    assert [one["times"] for one in told["videos"]] == [[0.0, 1.0, 2.0]] and len(frames) == 3
    by_rate = [sightling.Picture(path=png), *read_video(clip, cli_sampling("rate")).pictures]
    assert told["answer"] == sightling.ask(model, processor, by_rate, "red?", max_new_tokens=4)


def cli_sampling(kind: str) -> object:
    from sightling.serve.opening import frame_sampling

    return frame_sampling(kind, None)


def test_an_animated_gif_is_one_picture(capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first = Image.new("RGB", (48, 32), (200, 10, 10))
    first.save(path, save_all=True, append_images=[Image.new("RGB", (48, 32), (10, 10, 200))] * 3)
    told = json.loads(outcome(capsys, "ask", saved_model, path, "red?", "--json", "--max-new-tokens", 2)[1])
    assert "videos" not in told
    assert told["visual_tokens"] == sightling.load(saved_model)[1].image_processor.count(48, 32)


def test_bad_videos_are_one_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path, clip: Path
) -> None:
    text, cut = tmp_path / "text.mp4", tmp_path / "cut.mp4"
    text.write_text("no video")
    cut.write_bytes(clip.read_bytes()[:500])
    for path, told in (
        (tmp_path / "none.mp4", "does not exist"),
        (text, "is not a video"),
        (cut, "is not a video, or its beginning is broken"),
        (sound(tmp_path / "a.m4a"), "has no moving pictures, only sound"),
        (without_frames(tmp_path / "a.avi"), "has no frames"),
    ):
        code, out, err = outcome(capsys, "ask", saved_model, path, "red?")
        assert (code, out) == (2, ""), path
        assert told in err and str(path) in err and err.startswith("error: ") and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("CLIP", "red?", "--frames", "0"), "video.frames = 0 is wrong"),
        (("CLIP", "red?", "--sampling", "unifrm"), "there is no frame sampling 'unifrm'; did you mean 'uniform'?"),
        (("PNG", "red?", "--frames", "4"), "--frames and --sampling are for videos; none of the files is one"),
    ],
)
def test_wrong_options_are_one_sentence(
    capsys: pytest.CaptureFixture[str], saved_model: Path, png: Path, clip: Path, arguments: tuple[str, ...], told: str
) -> None:
    real = {"CLIP": str(clip), "PNG": str(png)}
    code, out, err = outcome(capsys, "ask", saved_model, *(real.get(part, part) for part in arguments))
    assert (code, out) == (2, "")
    assert told in err and err.count("\n") == 1, err


def test_a_chat_takes_videos_as_it_takes_pictures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, saved_model: Path, clip: Path
) -> None:
    def talk(text: str, *argv: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        return outcome(capsys, "chat", saved_model, *argv, "--frames", 2, "--max-new-tokens", 4)

    session = sightling.Session(*sightling.load(saved_model), max_new_tokens=4)
    for picture in read_video(clip, Uniform(frames=2), tiles=1).pictures:
        session.add(picture)
    answer = "".join(session.ask("red?"))
    for code, out, _ in (talk("red?\n", clip), talk(f"/image {clip}\nred?\n")):
        assert (code, out) == (0, answer + "\n")
    code, out, err = talk("/image none.mp4\n")
    assert code == 2 and "video none.mp4 does not exist" in err and err.count("\n") == 1
