"""A plan as a picture: the grid drawn over what the encoder is given, the overview and the original beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sightling.errors import UserError
from sightling.sight.preprocess import RESAMPLE, cut
from sightling.sight.tiling import Placement, Plan
from sightling.sight.tiling.base import Size

PAPER, INK, PALE, LIGHT = (250, 250, 248), (32, 36, 44), (110, 116, 126), (255, 255, 255)
LINES = ((214, 40, 90), (0, 110, 200), (0, 140, 90), (200, 110, 0))
"""Colours of neighbouring borders; four are enough that no two windows that meet share one."""

MARGIN, GAP, LINE = 24, 24, 3
MOST_MAIN, MOST_BESIDE = (960, 900), (260, 420)
LEAST_WIDTH = 560


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn plan.

    Attributes:
        image: the whole sheet.
        origin: (x, y) on the sheet of the canvas's upper left corner.
        scale: the sheet's pixels per pixel of the canvas.
        borders: for each cell of the grid, (left, top, right, bottom) on the sheet of its border's line.
    """

    image: Image.Image
    origin: tuple[int, int]
    scale: float
    borders: tuple[tuple[int, int, int, int], ...]


def draw_plan(picture: Image.Image, plan: Plan, tokens: Sequence[int], title: str, notes: Sequence[str]) -> Drawing:
    """The canvas with its grid, tiles numbered as they are fed, with the tokens of each.

    Args:
        picture: the RGB picture that the plan is for.
        plan: how it is cut.
        tokens: visual tokens of each tile.
        title: the first line.
        notes: lines below it.

    Raises:
        ValueError: the picture's size or the number of counts is not the plan's.
    """
    if picture.size != plan.picture:
        raise ValueError(f"the plan is for a picture of {plan.picture} pixels, not of {picture.size}")
    if len(tokens) != len(plan):
        raise ValueError(f"{len(tokens)} counts of tokens for {len(plan)} tiles")
    scale = min(MOST_MAIN[0] / plan.canvas[0], MOST_MAIN[1] / plan.canvas[1])
    main = _seen(picture, plan.laid, plan.fill, scale)
    beside = [(f"the picture: {_size(plan.picture)}", _original(picture, plan))]
    if plan.overview is not None and len(plan) > 1:
        overview = plan[plan.overview]
        fitting = min(MOST_BESIDE[0] / overview.canvas[0], MOST_BESIDE[0] / overview.canvas[1])
        small = _seen(picture, overview, plan.fill, fitting)
        _frame(small, INK)
        _badge(small, (0, 0, *small.size), str(plan.overview + 1), f"{tokens[plan.overview]:,}", INK)
        beside.append((f"overview: {_size(overview.canvas)}, {tokens[plan.overview]:,} tokens", small))
    return _sheet(main, beside, plan, tokens, scale, title, notes)


def _sheet(
    main: Image.Image,
    beside: Sequence[tuple[str, Image.Image]],
    plan: Plan,
    tokens: Sequence[int],
    scale: float,
    title: str,
    notes: Sequence[str],
) -> Drawing:
    """Title and notes, the canvas below them, the other panels in a column to its right."""
    large, small = _font(22), _font(15)
    caption = f"as planned: {_size(plan.canvas)}" + _grid_told(plan)
    words = [large.getlength(title), *(small.getlength(note) for note in notes)]
    column = max([small.getlength(text) for text, _ in beside] + [panel.width for _, panel in beside])
    left_width = max(main.width, int(small.getlength(caption)))
    width = int(max(left_width + GAP + column, LEAST_WIDTH, *words)) + 2 * MARGIN
    top = MARGIN + 34 + 22 * len(notes) + 14
    right_height = sum(panel.height + 24 + GAP for _, panel in beside) - GAP
    height = top + max(main.height + 24, right_height) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, large)
    for number, note in enumerate(notes):
        draw.text((MARGIN, MARGIN + 34 + 22 * number), note, PALE, small)
    draw.text((MARGIN, top), caption, INK, small)
    origin = (MARGIN, top + 24)
    sheet.paste(main, origin)
    borders = _grid(sheet, plan, tokens, origin, scale)
    at = top
    for text, panel in beside:
        draw.text((MARGIN + left_width + GAP, at), text, INK, small)
        sheet.paste(panel, (MARGIN + left_width + GAP, at + 24))
        at += panel.height + 24 + GAP
    return Drawing(sheet, origin, scale, borders)


def _grid(
    sheet: Image.Image, plan: Plan, tokens: Sequence[int], origin: tuple[int, int], scale: float
) -> tuple[tuple[int, int, int, int], ...]:
    """Every cell's border, number and tokens; where windows overlap each has a colour of its own."""
    draw = ImageDraw.Draw(sheet)
    numbers = [index for index in range(len(plan)) if len(plan) == 1 or index != plan.overview]
    lapping = _overlap(plan)
    borders = []
    for box in plan.windows:
        left, top, right, bottom = (
            origin[side % 2] + round(edge * scale) - (1 if side > 1 else 0) for side, edge in enumerate(box)
        )
        borders.append((left, top, max(left, right), max(top, bottom)))
    for cell, border in enumerate(borders):
        row, column = divmod(cell, plan.grid[1])
        colour = LINES[row % 2 * 2 + column % 2] if lapping else LINES[0]
        draw.rectangle(border, outline=colour, width=min(LINE, *_thin(border)))
    for cell, (number, border) in enumerate(zip(numbers, borders, strict=True)):
        row, column = divmod(cell, plan.grid[1])
        colour = LINES[row % 2 * 2 + column % 2] if lapping else LINES[0]
        _badge(sheet, border, str(number + 1), f"{tokens[number]:,}", colour)
    return tuple(borders)


def _thin(border: tuple[int, int, int, int]) -> tuple[int, int]:
    """How wide a border's line may be without covering a narrow tile."""
    return max(1, (border[2] - border[0]) // 6), max(1, (border[3] - border[1]) // 6)


def _overlap(plan: Plan) -> bool:
    """Whether any two neighbouring windows share pixels."""
    boxes = plan.windows
    rows, columns = plan.grid
    across = columns > 1 and boxes[1][0] < boxes[0][2]
    return across or (rows > 1 and boxes[columns][1] < boxes[0][3])


def _badge(
    sheet: Image.Image, box: tuple[int, int, int, int], number: str, count: str, colour: tuple[int, int, int]
) -> None:
    """A tile's number in its upper left corner and its tokens behind it, in the largest letters that fit."""
    draw = ImageDraw.Draw(sheet)
    for size in (20, 16, 12, 9):
        font = _font(size)
        behind = f"{count} tokens" if size > 12 else count
        high, pad = round(size * 1.35), max(2, size // 4)
        first, second = (round(font.getlength(text)) + 2 * pad for text in (number, behind))
        left, top = box[0], box[1]
        if top + high > box[3] + 1 or left + first > box[2] + 1:
            continue
        draw.rectangle((left, top, left + first - 1, top + high - 1), fill=colour)
        draw.text((left + pad, top + high / 2), number, LIGHT, font, anchor="lm")
        if left + first + second <= box[2] + 1:
            draw.rectangle((left + first, top, left + first + second - 1, top + high - 1), fill=LIGHT)
            draw.text((left + first + pad, top + high / 2), behind, INK, font, anchor="lm")
        elif top + 2 * high <= box[3] + 1 and left + second <= box[2] + 1:
            draw.rectangle((left, top + high, left + second - 1, top + 2 * high - 1), fill=LIGHT)
            draw.text((left + pad, top + high * 1.5), behind, INK, font, anchor="lm")
        elif size > 9:
            continue
        return


def _seen(picture: Image.Image, tile: Placement, fill: tuple[int, int, int], scale: float) -> Image.Image:
    """A tile as it is planned, in the size it is drawn in; small ones show their pixels as squares."""
    size = (max(1, round(tile.canvas[0] * scale)), max(1, round(tile.canvas[1] * scale)))
    # A tile that is drawn smaller is scaled in one step, so that a huge one takes no memory.
    factor = min(scale, 1.0)
    drawn = (max(1, round(tile.scaled[0] * factor)), max(1, round(tile.scaled[1] * factor)))
    canvas = tile.canvas if factor == 1 else size
    sheet = Image.new("RGB", canvas, fill)
    part = cut(picture, tile.crop, fill).resize(drawn, RESAMPLE["bicubic"])
    sheet.paste(part, (round(tile.offset[0] * factor), round(tile.offset[1] * factor)))
    return sheet if sheet.size == size else sheet.resize(size, Image.Resampling.NEAREST)


def _original(picture: Image.Image, plan: Plan) -> Image.Image:
    """The picture in its own shape; what the plan cuts off is paled."""
    scale = min(MOST_BESIDE[0] / picture.width, MOST_BESIDE[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, RESAMPLE["bicubic"] if scale < 1 else Image.Resampling.NEAREST)
    left, top, right, bottom = plan.laid.crop
    crop = (max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom))
    if crop != (0, 0, *picture.size):
        left, top, right, bottom = (round(edge * scale) for edge in crop)
        # Of a very long picture so little may be kept that it would be less than a pixel here.
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        kept = small.crop((left, top, right, bottom))
        small = Image.blend(small, Image.new("RGB", size, PAPER), 0.7)
        small.paste(kept, (left, top))
        ImageDraw.Draw(small).rectangle((left, top, right - 1, bottom - 1), outline=LINES[0], width=2)
    return small


def _frame(image: Image.Image, colour: tuple[int, int, int]) -> None:
    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(image).rectangle(box, outline=colour, width=min(LINE, *_thin(box)))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _grid_told(plan: Plan) -> str:
    return f", {plan.grid[0]} x {plan.grid[1]} tiles" if len(plan.cells) > 1 else ", one tile"


def _size(size: Size) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; folders on the way are made.

    Raises:
        UserError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            image.save(aside, "PNG")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
