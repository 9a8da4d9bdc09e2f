"""A clip as a real video file."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from sightling.errors import UserError
from sightling.world.clips import Clip
from sightling.world.render import render

CODECS = {"libx264": {"crf": "12"}, "mpeg4": {"qscale": "2"}}
"""Encoders in the order in which they are looked for, with options that keep the colours near to the world's."""

MOST_FRAMES = 20_000
"""Pictures of a clip that is written."""


def write_clip(clip: Clip, path: str | Path, *, size: int = 128, seconds: float = 4.0, rate: int = 8) -> None:
    """The clip as a video of ``seconds * rate`` pictures whose shorter side is ``size`` pixels.

    Frame ``i`` of ``n`` shows the clip at ``(i + 0.5) / n``, so uniform midpoints of the video are the clip's frames,
    exactly where ``n`` is an odd multiple of their number, else half a picture later.

    Raises:
        UserError: no picture at all or too many, a file that cannot be written, or no encoder.
    """
    # Asked this way round, no number at all is refused too.
    if not 0.5 < seconds * rate <= MOST_FRAMES:
        raise UserError(
            f"{seconds} seconds at {rate} pictures a second make no video; it has 1 to {MOST_FRAMES:,} pictures"
        )
    write_video((render(scene, size) for scene in clip.frames(round(seconds * rate))), path, rate)


def write_video(pictures: Iterable[Image.Image], path: str | Path, rate: int = 8) -> None:
    """RGB pictures of one size as a video; the file name's ending says which kind (``.mp4``).

    An odd side grows by one pixel, for the colours of such files are stored at half the size.

    Raises:
        UserError: a file that cannot be written, an ending that no kind of video has, or no encoder.
    """
    codec = next((name for name in CODECS if name in av.codecs_available), None)
    if codec is None:
        raise UserError(f"this build of PyAV writes none of {', '.join(CODECS)}")
    path = Path(path)
    # Written aside and moved, whole; the ending stays, for it says which kind of video this is.
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with av.open(str(aside), "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(rate), options=dict(CODECS[codec]))
            stream.pix_fmt = "yuv420p"
            # One thread, so that the same pictures give the same bytes.
            stream.codec_context.thread_count = 1
            for picture in pictures:
                pixels = np.asarray(picture)
                pixels = np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], mode="edge")
                if not stream.codec_context.is_open:
                    stream.height, stream.width = pixels.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
            container.mux(stream.encode())
        aside.replace(path)
    except (OSError, ValueError, av.FFmpegError) as error:
        # FFmpeg's errors repeat number and path; the words are enough.
        raise UserError(f"the video {path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        aside.unlink(missing_ok=True)
