"""From a decoded picture to the encoder's inputs: crop, scale, place, as ``uint8``.

Legend: ``N`` encoder inputs (tiles), ``C`` = 3 channels, ``H`` ``W`` pixels.

Pixels stay ``uint8`` until they are on the device; :class:`sightling.sight.encoders.Encoder`
normalises them there, which moves a quarter of the bytes and keeps batches small.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightling.sight.tiling import Placement, Plan
from sightling.sight.tiling.base import GREY, Box, Size

RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}

Shown = dict[tuple[Box, tuple[Size, ...]], Image.Image]
"""Parts of one picture that were scaled already: by the part, and the sizes it went through."""


def cut(image: Image.Image, box: Box, fill: tuple[int, int, int] = GREY) -> Image.Image:
    """A part (left, top, right, bottom) of an RGB picture; what lies beyond the picture is filled."""
    if box == (0, 0, *image.size):
        return image
    if min(box[:2]) >= 0 and box[2] <= image.width and box[3] <= image.height:
        return image.crop(box)
    canvas = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), fill)
    canvas.paste(image, (-box[0], -box[1]))
    return canvas


def scale(
    image: Image.Image,
    placement: Placement,
    resample: str,
    fill: tuple[int, int, int] = GREY,
    known: Shown | None = None,
) -> Image.Image:
    """The placement's part of an RGB picture in the size it is shown in; what is in ``known`` is not made again."""
    known = {} if known is None else known
    part: Image.Image | None = None
    sizes: tuple[Size, ...] = ()
    for size in (*placement.steps, placement.scaled):
        sizes = (*sizes, size)
        if (placement.crop, sizes) not in known:
            part = part or cut(image, placement.crop, fill)
            known[placement.crop, sizes] = part if part.size == size else part.resize(size, RESAMPLE[resample])
        part = known[placement.crop, sizes]
    assert part is not None
    return part


def lay(part: Image.Image, placement: Placement, fill: tuple[int, int, int]) -> Image.Image:
    """One encoder input of ``placement.canvas`` pixels: what of the scaled part falls on it, the rest filled."""
    if placement.scaled == placement.canvas and placement.offset == (0, 0):
        return part
    canvas = Image.new("RGB", placement.canvas, fill)
    canvas.paste(part, placement.offset)
    return canvas


def to_pixels(
    image: Image.Image, plan: Plan, *, fill: tuple[int, int, int] | None = None, resample: str = "bicubic"
) -> Tensor:
    """``uint8`` pixels_NCHW of all tiles of one RGB picture; ``fill`` replaces the plan's colour.

    Tiles smaller than the largest fill the upper left of their places; zeros follow, which no encoder looks at.

    Raises:
        ValueError: the plan is for a picture of another size.
    """
    if image.size != plan.picture:
        raise ValueError(f"the plan is for a picture of {plan.picture} pixels, not of {image.size}")
    # Tiles of one grid are windows onto the same scaled picture, which is scaled once.
    shown: Shown = {}
    width, height = (max(tile.canvas[axis] for tile in plan) for axis in (0, 1))
    pixels_NHWC = np.zeros((len(plan), height, width, 3), dtype=np.uint8)
    colour = plan.fill if fill is None else fill
    for number, tile in enumerate(plan):
        laid = lay(scale(image, tile, resample, colour, shown), tile, colour)
        pixels_NHWC[number, : tile.canvas[1], : tile.canvas[0]] = np.asarray(laid)
    return torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2).contiguous()
