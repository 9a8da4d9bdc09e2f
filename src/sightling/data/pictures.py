"""Opening pictures safely: known formats only, the size checked before a pixel is decoded."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sightling.errors import UserError

# Decoders with a good safety record; Pillow knows dozens more that no data set here needs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
WHITE = (255, 255, 255)
"""What transparent pictures are laid on, unless something else is said."""

MAX_PIXELS = 100_000_000
"""A picture that declares more pixels is refused before decoding (a "decompression bomb")."""

ORIENTATION = 0x0112
# EXIF orientation -> what makes the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)

_LIMIT = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A data-loading worker must not be born while another thread holds the lock: it would wait for ever.
    os.register_at_fork(before=_LIMIT.acquire, after_in_parent=_LIMIT.release, after_in_child=_LIMIT.release)


@contextmanager
def _own_limit() -> Iterator[None]:
    """Pillow's own pixel limit put aside: its error would come first and would not say width and height.

    The limit is one global of Pillow's, hence the lock.
    """
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _identify(source: Path | IO[bytes], name: str) -> Image.Image:
    try:
        with _own_limit():
            image = Image.open(source, formats=FORMATS)
    except FileNotFoundError:
        raise UserError(f"picture {name} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"picture {name} is a folder, not a file") from None
    except PermissionError:
        raise UserError(f"picture {name} cannot be read: permission denied") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise UserError(f"picture {name} is not a picture in a known format ({', '.join(FORMATS)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise UserError(f"picture {name} declares {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 to 8, read without decoding pixels.

    Pillow turns a TIFF by itself. A PNG may carry EXIF behind its pixels; ``PngImageFile.getexif`` would decode
    them all to find it, so the base class's reader is asked, and such an orientation does not count. Nor does one
    in EXIF data that cannot be read: the picture itself can.
    """
    if image.format == "TIFF":
        return 1
    try:
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, struct.error, KeyError, IndexError, TypeError):
        return 1
    return found if found in UPRIGHT else 1


def picture_size(source: Path | IO[bytes], name: str) -> tuple[int, int]:
    """(width, height) as :func:`open_picture` gives it, read from the header without decoding pixels.

    Raises:
        UserError: missing, not a picture, or over ``MAX_PIXELS``.
    """
    with _identify(source, name) as image:
        width, height = image.size
        turned = _orientation(image) in QUARTER_TURNS
    return (height, width) if turned else (width, height)


def open_picture(source: Path | IO[bytes], name: str, ground: tuple[int, int, int] = WHITE) -> Image.Image:
    """Decode to RGB as a viewer shows it: first frame, EXIF rotation applied, alpha over ``ground``.

    Raises:
        UserError: missing, corrupt, truncated, not a picture, or over ``MAX_PIXELS``.
    """
    with _identify(source, name) as image:
        orientation = _orientation(image)
        try:
            image.load()
            flat = to_rgb(image, ground)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise UserError(f"picture {name} is corrupt: {error}") from None
    # What the file says of its pixels has been done to them; left there it would be done again.
    flat.info.clear()
    return flat.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else flat


def upright(image: Image.Image) -> Image.Image:
    """A picture in memory as a viewer shows it: what is left of its EXIF rotation is applied, and then gone.

    An image that Pillow opened keeps its file's EXIF data; one that needs no turn is returned as it is.
    """
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def to_rgb(image: Image.Image, ground: tuple[int, int, int] = WHITE) -> Image.Image:
    """Any mode to RGB: transparency over ``ground``, 16-bit scaled to 8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        shown = _to_8_bit(values, image.mode).convert("RGB")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            # Pillow would cut such values off at 255 on the way to RGBA, which makes all of the picture white.
            shown.paste(ground, mask=Image.fromarray((values == clear).astype(np.uint8) * 255))
        return shown
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, (*ground, 255)), layered).convert("RGB")
    if image.mode == "RGB":
        return image.copy()
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, mode: str) -> Image.Image:
    """Wide grey values to 8 bits: integers from 0..65535, floating point from its own range (it has no other)."""
    low, high = 0.0, 65535.0
    if mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
