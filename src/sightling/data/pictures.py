"""Opening pictures safely: known formats only, the size checked before a pixel is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from sightling.errors import UserError

# Decoders with a good safety record; Pillow knows dozens more that no data set here needs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
"""A picture that declares more pixels is refused before decoding (a "decompression bomb")."""


def _identify(source: Path | IO[bytes], name: str) -> Image.Image:
    try:
        # Pillow's own bomb check would raise its own error first; ours says what to do.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
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
        raise UserError(f"picture {name} declares {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all")
    return image


def picture_size(source: Path | IO[bytes], name: str) -> tuple[int, int]:
    """(width, height) as a viewer shows it (EXIF rotation applied), without decoding pixels."""
    with _identify(source, name) as image:
        width, height = image.size
        # EXIF orientations 5 to 8 turn the picture by a quarter.
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def open_picture(source: Path | IO[bytes], name: str) -> Image.Image:
    """Decode to RGB as a viewer shows it: first frame, EXIF rotation applied, alpha over white.

    Raises:
        UserError: missing, corrupt, truncated, not a picture, or over ``MAX_PIXELS``.
    """
    with _identify(source, name) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return to_rgb(upright)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise UserError(f"picture {name} is corrupt: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, 16-bit scaled to 8."""
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        wide = image.convert("F")
        low, high = (0.0, 65535.0) if image.mode != "F" else wide.getextrema()
        scale = 255.0 / (high - low) if high > low else 0.0
        return wide.point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
