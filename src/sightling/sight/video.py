"""A video as a few pictures: which of its frames are shown, and how they are read.

Times are seconds from the first frame. The frame at a time is the one that a player shows then: the last that began.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pydantic import Field

from sightling.data.pictures import MAX_PIXELS
from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.parts import Part
from sightling.registry import Registry

_COVER = 0x0400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC

THUMBNAIL = 32
"""Side in pixels of the pictures that changes are measured on."""

ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp")
"""What a file is called that is taken for a video whatever it holds."""

# (where the mark stands, the mark), of pictures first: their boxes are the same as a video's in newer formats.
_PICTURES = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (0, b"GIF8"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\0"),
             (0, b"MM\0*"), (4, b"ftypavif"), (4, b"ftyphei"), (4, b"ftypmif1"))  # fmt: skip
_VIDEOS = ((4, b"ftyp"), (4, b"moov"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "), (0, b"OggS"), (0, b"FLV\x01"),
           (0, b"\0\0\1\xba"), (0, b"\x30\x26\xb2\x75"))  # fmt: skip

_UPRIGHT = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""What makes a frame upright, by the signs of the display matrix (a, b, c, d): x' = a x + c y, y' = b x + d y."""


# --- which frames ------------------------------------------------------------------------------------------------


class Timeline:
    """When the frames of a video begin, and how much each differs from the one before.

    Args:
        path: of the video, for changes.
        times: seconds, ascending, the first 0.
        duration: seconds until the last frame ends.
    """

    def __init__(self, path: Path, times: Sequence[float], duration: float) -> None:
        self.path = path
        self.times = list(times)
        self.duration = duration

    def at(self, time: float) -> int:
        """The number of the frame that is shown at a time."""
        return max(0, bisect_right(self.times, time + 1e-9) - 1)

    def changes(self) -> np.ndarray:
        """For every frame the mean absolute difference from the frame before it, 0 to 255; 0 for the first.

        Measured over the three channels of both frames, reduced to 32 x 32 pixels.

        Raises:
            UserError: the video is broken.
        """
        found: list[float] = []
        before: np.ndarray | None = None
        with _opened(self.path) as (container, stream):
            for frame in _decoded(container, stream, self.path):
                small = frame.reformat(THUMBNAIL, THUMBNAIL, "rgb24").to_ndarray().astype(np.float32)
                found.append(0.0 if before is None else float(np.abs(small - before).mean()))
                before = small
        # Where a stream shows fewer frames than it holds, the rest does not change.
        return np.asarray((found + [0.0] * len(self.times))[: len(self.times)])


class FrameSampling(Part, ABC):
    """Which frames of a video are shown; each kind registers in :data:`SAMPLINGS`."""

    frames: int = Field(default=8, ge=1, le=4096)

    @abstractmethod
    def choose(self, timeline: Timeline) -> list[int]:
        """Numbers of frames, ascending, none twice; at least one."""


SAMPLINGS: Registry[type[FrameSampling]] = Registry("frame sampling")
"""Every way to choose frames, by name."""


@SAMPLINGS.register("uniform")
class Uniform(FrameSampling):
    """``frames`` frames at the midpoints of equal shares of the duration: at (i + 0.5) / frames of it.

    A video of fewer frames gives each once.
    """

    def choose(self, timeline: Timeline) -> list[int]:
        """Numbers of frames, ascending."""
        count = min(self.frames, len(timeline.times))
        return _ascending(timeline.at((index + 0.5) / count * timeline.duration) for index in range(count))


@SAMPLINGS.register("rate")
class Rate(FrameSampling):
    """``per_second`` frames a second from the first on; more than ``frames`` are thinned out evenly.

    Source: MiniCPM-V 2.6 (Yao et al. 2024), which shows one frame a second and 64 at most.
    """

    frames: int = Field(default=64, ge=1, le=4096)
    per_second: float = Field(default=1.0, gt=0, le=1000)

    def choose(self, timeline: Timeline) -> list[int]:
        """Numbers of frames, ascending."""
        # No more steps than twice the frames there are; any beyond would meet a frame again.
        step = max(1 / self.per_second, timeline.duration / (2 * len(timeline.times)))
        count = max(1, int(np.ceil(timeline.duration / step - 1e-9)))
        found = _ascending(timeline.at(index * step) for index in range(count))
        if len(found) <= self.frames:
            return found
        return [found[int((index + 0.5) * len(found) / self.frames)] for index in range(self.frames)]


@SAMPLINGS.register("change")
class ByChange(FrameSampling):
    """The first frame, and the ``frames`` - 1 frames that differ most from the one before them, in order of time.

    The measure is that of :meth:`Timeline.changes`; of equal changes the earlier counts as the greater.
    """

    def choose(self, timeline: Timeline) -> list[int]:
        """Numbers of frames, ascending."""
        order = np.argsort(-timeline.changes()[1:], kind="stable")[: self.frames - 1]
        return [0, *sorted((order + 1).tolist())]


def _ascending(numbers: Iterator[int]) -> list[int]:
    return sorted(set(numbers))


# --- reading them ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Video:
    """The frames of a video that are shown.

    Attributes:
        pictures: in order.
        times: the second at which each begins.
        duration: of the whole video in seconds.
        frames: how many frames the whole video has.
    """

    pictures: tuple[Picture, ...]
    times: tuple[float, ...]
    duration: float
    frames: int


def read_video(path: str | Path, sampling: FrameSampling | None = None, *, tiles: int | None = None) -> Video:
    """The frames of a video that ``sampling`` chooses (by default eight, uniformly), as it is shown: upright, square
    pixels, RGB.

    Args:
        path: the file.
        sampling: which frames.
        tiles: into how many tiles each frame is cut at most, see :class:`~sightling.data.sample.Picture`.

    Raises:
        UserError: it is missing, no video, broken, larger than the pixel limit, or has sound only or no frames.
    """
    path = Path(path)
    marks, timeline = _timeline(path)
    chosen = (sampling or Uniform()).choose(timeline)
    wanted = {marks[number]: number for number in chosen}
    found = _collect(path, wanted)
    missing = [number for number in chosen if number not in found]
    if missing:
        raise UserError(f"video {path} is broken: its frame at {timeline.times[missing[0]]:.2f} s cannot be read")
    pictures = tuple(Picture(image=found[number], tiles=tiles) for number in chosen)
    times = tuple(round(timeline.times[number], 4) for number in chosen)
    return Video(pictures, times, round(timeline.duration, 4), len(timeline.times))


def is_video(path: str | Path) -> bool:
    """Whether a file is to be read as a video: by its first bytes, and where they say nothing, by its ending.

    An animated GIF is a picture.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        head = b""
    if any(head[at : at + len(mark)] == mark for at, mark in _PICTURES):
        return False
    if any(head[at : at + len(mark)] == mark for at, mark in _VIDEOS):
        return True
    # The sync bytes of a transport stream, one packet apart.
    return head[:1] == head[188:189] == head[376:377] == b"G" or path.suffix.lower() in ENDINGS


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its first stream of moving pictures)."""
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise UserError(f"video {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"video {path} is a folder, not a file") from None
    except PermissionError:
        raise UserError(f"video {path} cannot be read: permission denied") from None
    except av.error.EOFError:
        raise UserError(f"video {path} has no frames") from None
    except (av.FFmpegError, OSError, ValueError):
        raise UserError(f"{path} is not a video, or its beginning is broken") from None
    with container:
        # The cover of a song is a stream of one picture too. PyAV 13 does not tell it from a video.
        covers = [stream for stream in container.streams.video if int(getattr(stream, "disposition", 0)) & _COVER]
        streams = [stream for stream in container.streams.video if stream not in covers]
        if not streams:
            kind = "only sound" if container.streams.audio else "and no sound"
            raise UserError(f"video {path} has no moving pictures, {kind}")
        stream = streams[0]
        if stream.width * stream.height > MAX_PIXELS:
            declared = f"{stream.width} x {stream.height}"
            raise UserError(f"video {path} declares {declared} pixels; the limit is {MAX_PIXELS:,} in all")
        stream.thread_type = "AUTO"
        yield container, stream


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """The frames in the order they are shown.

    Raises:
        UserError: the stream is broken.
    """
    at = 0.0
    try:
        for frame in container.decode(stream):
            at = frame.time if frame.time is not None else at
            if frame.is_corrupt:
                raise UserError(f"video {path} is broken at {at:.2f} s")
            yield frame
    except (av.FFmpegError, OSError, ValueError):
        raise UserError(f"video {path} is broken after {at:.2f} s") from None


def _timeline(path: Path) -> tuple[list[int], Timeline]:
    """(a mark for each frame, the timeline): marks are time stamps, or numbers where a file has no stamps."""
    with _opened(path) as (container, stream):
        base = float(stream.time_base or 0)
        stamps: dict[int, int] = {}
        whole = base > 0
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    whole = whole and packet.pts is not None
                    stamps[packet.pts if packet.pts is not None else len(stamps)] = packet.duration or 0
        except (av.FFmpegError, OSError, ValueError):
            raise UserError(f"video {path} is broken after {max(stamps, default=0) * base:.2f} s") from None
        declared = stream.duration
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    if not whole:
        marks, seconds = list(range(_count(path))), 1 / rate
    else:
        marks, seconds = sorted(stamps), base
    if not marks:
        raise UserError(f"video {path} has no frames")
    times = [(mark - marks[0]) * seconds for mark in marks]
    last = stamps[marks[-1]] * seconds if whole else seconds
    duration = times[-1] + (last or 1 / rate)
    if whole and declared is not None and declared * base > 1.1 * duration + 1:
        held = f"{duration:.1f} of the {declared * base:.1f} s"
        raise UserError(f"video {path} is broken: it holds {held} that it declares")
    return marks, Timeline(path, times, duration)


def _count(path: Path) -> int:
    with _opened(path) as (container, stream):
        return sum(1 for _ in _decoded(container, stream, path))


def _collect(path: Path, wanted: dict[int, int]) -> dict[int, Image.Image]:
    """The wanted frames by number; ``wanted`` maps marks to numbers."""
    found: dict[int, Image.Image] = {}
    left = set(wanted)
    with _opened(path) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream, path)):
            mark = frame.pts if frame.pts in left else number if frame.pts is None else None
            if mark in left:
                found[wanted[mark]] = _upright(frame, stream)
                left.discard(mark)
            if not left:
                break
    return found


def _upright(frame: Any, stream: Any) -> Image.Image:
    """A frame as it is shown: pixels made square, then turned."""
    image: Image.Image = frame.to_image()
    ratio = stream.sample_aspect_ratio
    if ratio and ratio != 1 and ratio > 0:
        # Only ever grown, as players do.
        wide = (round(image.width * ratio), image.height)
        tall = (image.width, round(image.height / ratio))
        image = image.resize(wide if ratio > 1 else tall, Image.Resampling.BICUBIC)
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
            # Another angle than whole quarters stays as it is, as players leave it.
            way = _UPRIGHT.get(tuple((one > 0) - (one < 0) for one in (a, b, c, d)))
            return image.transpose(way) if way is not None else image
    return image
