"""From a decoded picture to the encoder's inputs: crop, scale, place, as ``uint8``.

Legend: ``N`` encoder inputs (tiles), ``C`` = 3 channels, ``H`` ``W`` pixels.

Pixels stay ``uint8`` until they are on the device; :class:`sightling.sight.encoders.Encoder`
normalises them there, which moves a quarter of the bytes and keeps batches small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightling.sight.tiling import Placement

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def place(image: Image.Image, placement: Placement, fill: tuple[int, int, int], resample: str) -> Image.Image:
    """One encoder input of an RGB picture, as an RGB picture of ``placement.canvas`` pixels."""
    whole = (0, 0, *image.size)
    part = image if placement.crop == whole else image.crop(placement.crop)
    if part.size != placement.scaled:
        part = part.resize(placement.scaled, RESAMPLE[resample])
    if placement.scaled == placement.canvas:
        return part
    canvas = Image.new("RGB", placement.canvas, fill)
    canvas.paste(part, placement.offset)
    return canvas


def to_pixels(
    image: Image.Image,
    plan: Sequence[Placement],
    *,
    fill: tuple[int, int, int] = (127, 127, 127),
    resample: str = "bicubic",
) -> Tensor:
    """``uint8`` pixels_NCHW of all placements of one picture, which must share one canvas size."""
    tiles = [np.asarray(place(image, placement, fill, resample)) for placement in plan]
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).contiguous()
