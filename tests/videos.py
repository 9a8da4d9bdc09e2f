"""Small videos for tests, written with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RGB = tuple[int, int, int]


def frame(color: RGB, width: int = 48, height: int = 32) -> np.ndarray[Any, Any]:
    """A frame of one colour with a red square at its left top."""
    pixels = np.full((height, width, 3), color, dtype=np.uint8)
    pixels[: height // 2, : height // 2] = (255, 0, 0)
    return pixels


def video(
    path: Path,
    colors: Sequence[RGB],
    *,
    rate: int = 4,
    codec: str = "libx264",
    rotation: float | None = None,
    ratio: Fraction | None = None,
    **options: str,
) -> Path:
    """A video with a frame of each colour, ``rate`` a second; ``rotation`` turns it when it is shown."""
    with av.open(str(path), "w", options=options) as container:
        told = {"crf": "1", "bf": "2"} if codec == "libx264" else {"qscale": "1"}
        stream: Any = container.add_stream(codec, rate=rate, options=told)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = 48, 32
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for color in colors:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(color), "rgb24")))
        container.mux(stream.encode())
    return path


def greys(count: int) -> list[RGB]:
    """Frames that can be told apart: frame ``i`` of at most 30 is as light as 16 + 8 ``i``."""
    return [(16 + 8 * number,) * 3 for number in range(count)]


def sound(path: Path) -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def without_frames(path: Path) -> Path:
    """A video that declares a stream of pictures and holds none."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = 48, 32
        container.start_encoding()
    return path
