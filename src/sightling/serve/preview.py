"""A picture in the terminal: two pixels a character, the upper one as its colour, the lower one as its ground."""

from __future__ import annotations

from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

COLUMNS, ROWS = 24, 16
UPPER_HALF = "▀"


def fitted(width: int, height: int, columns: int = COLUMNS, rows: int = ROWS) -> tuple[int, int]:
    """(columns, rows) of a preview that keeps the picture's shape; a character is two pixels high."""
    scale = min(columns / width, 2 * rows / height)
    return max(1, min(columns, round(width * scale))), max(1, min(rows, round(height * scale / 2)))


def half_blocks(image: Image.Image, columns: int = COLUMNS, rows: int = ROWS) -> Text:
    """An RGB picture as text of at most ``columns`` by ``rows`` characters in 24-bit colours."""
    across, down = fitted(*image.size, columns, rows)
    small = image.convert("RGB").resize((across, 2 * down), Image.Resampling.BOX)
    pixels = small.tobytes()
    text = Text(no_wrap=True)
    for row in range(down):
        for column in range(across):
            upper, lower = (3 * ((2 * row + half) * across + column) for half in (0, 1))
            color, ground = (Color.from_rgb(*pixels[at : at + 3]) for at in (upper, lower))
            text.append(UPPER_HALF, Style(color=color, bgcolor=ground))
        if row < down - 1:
            text.append("\n")
    return text
