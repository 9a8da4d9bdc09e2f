"""What a user names by a path, opened: a picture, or a video as several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.video import SAMPLINGS, FrameSampling, Video, is_video, read_video

FRAME_TILES = 1
"""Into how many tiles a frame is cut at most: what a video shows is in its many frames."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture, or the frames of a video in order, all decoded; ``video`` tells about the latter."""

    name: str
    pictures: tuple[Picture, ...]
    video: Video | None = None

    def about(self) -> dict[str, Any]:
        """A video in plain values, for JSON.

        Raises:
            ValueError: it is a picture.
        """
        if self.video is None:
            raise ValueError(f"{self.name} is a picture, not a video")
        return {
            "path": self.name,
            "duration": self.video.duration,
            "frames": len(self.pictures),
            "of": self.video.frames,
            "times": list(self.video.times),
        }


def open_path(path: str | Path, sampling: FrameSampling | None = None) -> Opened:
    """A picture's or a video's file, by its content; an animated GIF is a picture, its first frame.

    Raises:
        UserError: it is missing, broken, or neither.
    """
    if str(path).startswith(("http:", "https:")):
        raise UserError(f"{path} is an address; addresses are not opened, so download the file and name it")
    if is_video(path):
        video = read_video(path, sampling, tiles=FRAME_TILES)
        return Opened(str(path), video.pictures, video)
    return Opened(str(path), (Picture(image=Picture(path=Path(path)).load()),))


def frame_sampling(kind: str | None, frames: int | None) -> FrameSampling:
    """The frame sampling that ``--sampling`` and ``--frames`` ask for.

    Raises:
        UserError: there is no such kind, or no such number of frames.
    """
    told: Mapping[str, Any] = {} if frames is None else {"frames": frames}
    return make(SAMPLINGS, {"type": kind or "uniform", **told}, "video")


def open_all(paths: Sequence[str | Path], kind: str | None, frames: int | None) -> list[Opened]:
    """Everything that a command is given by path, with the values of ``--sampling`` and ``--frames``.

    Raises:
        UserError: a file cannot be opened, or the options are wrong, or there is no video for them.
    """
    sampling = frame_sampling(kind, frames)
    opened = [open_path(path, sampling) for path in paths]
    if (kind is not None or frames is not None) and not any(one.video for one in opened):
        raise UserError("--frames and --sampling are for videos; none of the files is one")
    return opened
