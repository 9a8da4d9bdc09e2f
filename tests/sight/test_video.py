"""Frames of videos: which are chosen, how they are read, and what is said of those that cannot be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.video import SAMPLINGS, FrameSampling, Timeline, is_video, read_video
from sightling.world.clip_families import CLIPS
from sightling.world.film import write_clip, write_video
from sightling.world.render import render
from sightling.world.scenes import SceneSpec
from sightling.world.series import Setting, draw
from videos import greys, sound, video, without_frames


def sampling(kind: str = "uniform", **told: Any) -> FrameSampling:
    return make(SAMPLINGS, {"type": kind, **told}, "sampling")


def lights(found: tuple[Picture, ...]) -> list[int]:
    """The number of each frame of a video of ``greys``, read from its pixels."""
    return [round((float(np.asarray(picture.load())[24, 40].mean()) - 16) / 8) for picture in found]


# ---- which frames


def line(count: int, rate: float = 10.0) -> Timeline:
    return Timeline(Path("none"), [number / rate for number in range(count)], count / rate)


def test_uniform_frames_lie_at_the_midpoints_of_equal_shares() -> None:
    assert sampling(frames=4).choose(line(40)) == [5, 15, 25, 35]
    assert sampling(frames=1).choose(line(40)) == [20]
    assert sampling(frames=8).choose(line(3)) == [0, 1, 2]


def test_a_frame_is_shown_until_the_next_begins() -> None:
    uneven = Timeline(Path("none"), [0.0, 0.1, 5.0], 6.0)
    assert [uneven.at(time) for time in (0, 0.05, 0.1, 4.9, 5.0, 9.0)] == [0, 0, 1, 1, 2, 2]
    assert sampling(frames=2).choose(uneven) == [1]


def test_frames_by_rate_are_thinned_evenly_to_the_most() -> None:
    assert sampling("rate").choose(line(45)) == [0, 10, 20, 30, 40]
    assert sampling("rate", per_second=2).choose(line(20)) == [0, 5, 10, 15]
    assert sampling("rate", frames=2).choose(line(80)) == [20, 60]
    assert len(sampling("rate").choose(line(10_000))) == 64
    # More than there are frames: each once.
    assert sampling("rate", per_second=100).choose(line(6)) == list(range(6))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["uniform", "rate"]), st.integers(1, 200), st.integers(1, 40), st.floats(0.5, 60))
def test_chosen_frames_ascend_and_none_comes_twice(kind: str, count: int, frames: int, rate: float) -> None:
    chosen = sampling(kind, frames=frames).choose(line(count, rate))
    assert 1 <= len(chosen) <= min(frames, count)
    assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < count


def test_frames_by_change_are_those_that_differ_most_from_the_one_before(tmp_path: Path) -> None:
    # Light rises by 0, 100, 0, 0, 60, 2, 0, 0.
    path = video(tmp_path / "a.mp4", [(20,) * 3, (120,) * 3, (120,) * 3, (120,) * 3, (180,) * 3, *[(182,) * 3] * 3])
    timeline = Timeline(path, [number / 4 for number in range(8)], 2.0)
    changes = timeline.changes()
    assert changes[0] == 0 and changes[1] > changes[4] > changes[5] >= 0
    assert abs(changes[1] - 100 * (1 - 16 * 16 / (48 * 32))) < 6
    assert sampling("change", frames=3).choose(timeline) == [0, 1, 4]
    assert sampling("change", frames=1).choose(timeline) == [0]
    assert sampling("change", frames=20).choose(timeline) == list(range(8))


@pytest.mark.parametrize(
    "told, message",
    [
        ({"type": "unform"}, "there is no frame sampling 'unform'; did you mean 'uniform'?"),
        ({"type": "uniform", "frames": 0}, "frames = 0 is wrong: input should be greater than or equal to 1"),
        ({"type": "uniform", "per_second": 1}, "has no key 'per_second'"),
    ],
)
def test_wrong_options_are_told(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make(SAMPLINGS, told, "sampling")
    assert message in str(error.value)


# ---- reading


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"),
                                         ("a.ts", "libx264"), ("a.mov", "libx264")])  # fmt: skip
def test_the_chosen_frames_are_read_in_order(tmp_path: Path, name: str, codec: str) -> None:
    found = read_video(video(tmp_path / name, greys(12), codec=codec), sampling(frames=4))
    assert lights(found.pictures) == [1, 4, 7, 10]
    assert found.times == (0.25, 1.0, 1.75, 2.5) and found.duration == 3.0 and found.frames == 12
    assert [picture.size() for picture in found.pictures] == [(48, 32)] * 4


def test_every_frame_can_be_read(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", greys(30))
    for kind in ("uniform", "rate", "change"):
        told = {"per_second": 100} if kind == "rate" else {}
        found = read_video(path, sampling(kind, frames=30, **told))
        assert lights(found.pictures) == list(range(30))


def test_eight_uniform_frames_where_nothing_is_said_and_tiles_are_handed_on(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", greys(24))
    assert lights(read_video(path).pictures) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert {picture.tiles for picture in read_video(path, tiles=1).pictures} == {1}


@pytest.mark.parametrize("turn, corner", [(None, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (-90, (-1, 0))])
def test_rotation_is_respected(tmp_path: Path, turn: int | None, corner: tuple[int, int]) -> None:
    """The red square of the left top goes where a turn counter-clockwise brings it."""
    (picture,) = read_video(video(tmp_path / "a.mp4", greys(2), rotation=turn), sampling(frames=1)).pictures
    assert picture.size() == ((32, 48) if turn in (90, -90) else (48, 32))
    pixels = np.asarray(picture.load()).astype(int)
    x, y = (4 if place == 0 else size - 5 for place, size in zip(corner, picture.size(), strict=True))
    assert pixels[y, x, 0] - pixels[y, x, 1] > 150
    assert (pixels[..., 0] - pixels[..., 1] > 100).mean() < 0.25


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    wide = read_video(video(tmp_path / "a.mp4", greys(2), ratio=Fraction(4, 3)))
    tall = read_video(video(tmp_path / "b.mp4", greys(2), ratio=Fraction(1, 2)))
    assert wide.pictures[0].size() == (64, 32) and tall.pictures[0].size() == (48, 64)


# ---- what cannot be read


def told(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_video(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_what_is_no_video_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("not a video")
    empty.touch()
    assert "does not exist" in told(tmp_path / "none.mp4")
    assert "is a folder" in told(tmp_path)
    assert "is not a video" in told(text) and "is not a video" in told(empty)
    assert "has no moving pictures, only sound" in told(sound(tmp_path / "a.m4a"))
    for name in ("b.avi", "b.mkv"):
        assert "has no frames" in told(without_frames(tmp_path / name))
    assert capfd.readouterr() == ("", "")


def test_a_broken_stream_is_told_with_its_time(tmp_path: Path) -> None:
    colors = [tuple(Random(number).choices(range(256), k=3)) for number in range(80)]
    whole = video(tmp_path / "a.mp4", colors, movflags="faststart").read_bytes()  # type: ignore[arg-type]
    cut, spoilt = tmp_path / "cut.mp4", tmp_path / "spoilt.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    noise = Random(0).randbytes(len(whole) // 2)
    spoilt.write_bytes(whole[: len(whole) - len(noise)] + noise)
    for path in (cut, spoilt):
        assert " is broken" in told(path)
    # The index lies at the end of a file that is still being written.
    head = tmp_path / "head.mp4"
    head.write_bytes(video(tmp_path / "b.mp4", greys(20)).read_bytes()[:600])
    assert "is not a video, or its beginning is broken" in told(head)


# ---- videos and pictures


def test_videos_are_known_by_content_and_else_by_their_name(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.avi", "a.ts", "a.mov"):
        bare = video(tmp_path / name, greys(8), codec="mpeg4" if name in ("a.mkv", "a.avi") else "libx264")
        assert is_video(bare)
        assert is_video(bare.rename(tmp_path / f"bare-{name[2:]}"))
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        path = tmp_path / f"picture-{kind}.mp4"
        Image.new("RGB", (8, 8)).save(path, kind)
        assert not is_video(path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert not is_video(tmp_path / "a.gif")
    assert is_video(tmp_path / "missing.mp4") and not is_video(tmp_path / "missing.png")
    assert not is_video(tmp_path)


# ---- clips of the small world as files


def test_a_written_clip_gives_its_frames_again(tmp_path: Path) -> None:
    puzzle = draw(CLIPS["appearing"], Setting(SceneSpec(min_things=3, max_things=4), Random(5)))
    assert puzzle.clip is not None
    path = tmp_path / "clip.mp4"
    # 12 frames are an odd multiple of 4, so midpoints meet.
    write_clip(puzzle.clip, path, size=64, seconds=2, rate=6)
    found = read_video(path, sampling(frames=4))
    assert (found.frames, found.duration) == (12, 2.0)
    for picture, scene in zip(found.pictures, puzzle.scenes, strict=True):
        apart = np.abs(np.asarray(picture.load()).astype(int) - np.asarray(render(scene, 64)).astype(int))
        assert apart.mean() < 4, apart.mean()


def test_writing_is_deterministic_and_odd_sides_grow(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (31, 33), (color, 0, 0)) for color in (0, 100, 200)]
    for name in ("a.mp4", "b.mp4"):
        write_video(pictures, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert {picture.size() for picture in read_video(tmp_path / "a.mp4").pictures} == {(32, 34)}


def test_a_video_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (32, 32))]
    for path in (tmp_path / "none" / "a.mp4", tmp_path / "a.novideo"):
        with pytest.raises(UserError, match=r"^the video .* cannot be written: [^\n]+$"):
            write_video(pictures, path)
    puzzle = draw(CLIPS["event"], Setting(SceneSpec(min_things=3), Random(0)))
    assert puzzle.clip is not None
    with pytest.raises(UserError, match="make no video"):
        write_clip(puzzle.clip, tmp_path / "a.mp4", seconds=0)
