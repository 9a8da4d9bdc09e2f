"""What a model would be given for a picture and a question: the plan, its tokens, and the exact prompt.

All of it is arithmetic on sizes and words; no weights are needed, so a recipe can be asked before it is trained.
Sizes are (width, height) in pixels, grids (rows, columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sightling.data.sample import Picture, question
from sightling.errors import UserError
from sightling.model.build import (
    ModelSection,
    build_processor,
    check_model,
    prepared_as,
    pretrained_vision_config,
)
from sightling.model.pretrained import load_tokenizer
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.templates import TEMPLATES
from sightling.model.vocabulary import add_control_tokens
from sightling.parts import make, validate
from sightling.sight.connectors import CONNECTORS
from sightling.sight.encoders import TOWERS, EncoderOptions, tower_config
from sightling.sight.tiling import TILINGS, Placement, Plan
from sightling.sight.tiling.anyres import Unpadded
from sightling.sight.tiling.base import Grid, Size

Region = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Tile:
    """One encoder input.

    Attributes:
        number: its place among the encoder inputs, from 1.
        place: ``overview``, or its row and column in the grid, from 1.
        crop: (left, top, right, bottom) in the picture's pixels of what it shows; None where it shows filling only.
        scaled: the size that this part has on the tile.
        canvas: the tile's size.
        patches: the encoder's patches on it.
        tokens: the visual tokens that come of it.
    """

    number: int
    place: str
    crop: Region | None
    scaled: Size
    canvas: Size
    patches: Grid
    tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a prompt: a control token as often as it stands in a row, or text between two control tokens.

    ``ids`` are all its tokens, repeated ones too. ``spelt`` is false for text that its tokens do not spell, because
    the tokenizer does not know some character: encoding the text does not give the ids then.
    """

    text: str
    ids: tuple[int, ...]
    control: bool
    times: int = 1
    spelt: bool = True


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything told about a picture.

    Attributes:
        scheme: the tiling scheme with its options.
        plan: how the picture is cut.
        tiles: the encoder inputs, in the order they are fed.
        beside: tokens that belong to no tile, by what they are; what a scheme takes away is negative.
        total: all tokens that the picture takes.
        prompt: the pieces of the prompt; None where there is none yet.
        no_prompt: why there is none.
    """

    scheme: dict[str, Any]
    plan: Plan
    tiles: tuple[Tile, ...]
    beside: dict[str, int]
    total: int
    prompt: tuple[Piece, ...] | None
    no_prompt: str

    @property
    def text_tokens(self) -> int:
        """Tokens of the prompt that stand for no picture."""
        return sum(len(piece.ids) for piece in self.prompt or ()) - self.total

    def told(self) -> dict[str, Any]:
        """The same as plain data."""
        keys = ("number", "place", "crop", "scaled", "canvas", "patches", "tokens")
        known: dict[str, Any] = {
            "tiling": self.scheme,
            "picture_size": list(self.plan.picture),
            "canvas": list(self.plan.canvas),
            "grid": list(self.plan.grid),
            "tiles": [{key: getattr(tile, key) for key in keys} for tile in self.tiles],
            "tokens_beside_tiles": self.beside,
            "visual_tokens": self.total,
            "prompt": None if self.prompt is None else [_plain(piece) for piece in self.prompt],
        }
        if self.prompt is None:
            return {**known, "no_prompt": self.no_prompt}
        return {**known, "text_tokens": self.text_tokens, "prompt_tokens": self.text_tokens + self.total}


def _plain(piece: Piece) -> dict[str, Any]:
    if piece.control:
        return {"token": piece.text, "id": piece.ids[0], "times": piece.times}
    return {"text": piece.text, "ids": piece.ids}


def inspect_model(processor: VisionLanguageProcessor, picture: Picture, text: str) -> Inspection:
    """What a model is given for a picture and a question.

    Raises:
        UserError: a picture that cannot be opened, or that its tiling scheme cannot take.
    """
    images = processor.image_processor
    connector = make(CONNECTORS, images.connector, "connector")

    def tokens(rows: int, columns: int) -> int:
        return connector.tokens(rows, columns, images.extra_features)

    plan = images.plan(*picture.size(), picture.tiles)
    return _inspection(images.tiling, plan, tokens, prompt_pieces(processor, picture, text), "", connector.beside)


def inspect_recipe(
    told: Mapping[str, Any], picture: Picture, text: str, *, where: str = "model", trained_by: str | None = None
) -> Inspection:
    """What the model of a recipe's ``model`` section would be given.

    Args:
        told: the section.
        picture: the picture.
        text: the question.
        where: what the section is called in errors.
        trained_by: the stage that trains the tokenizer, if one does.

    Raises:
        UserError: a wrong section, a pretrained encoder that cannot be read, or a picture that cannot be taken.
    """
    scheme = make(TILINGS, told.get("tiling") or {"type": "single"}, f"{where}.tiling")
    section = check_model(told, where)
    path = section.encoder.get("pretrained")
    vision = pretrained_vision_config(path) if path else tower_config(section.tower(), f"{where}.encoder")
    options = validate(EncoderOptions, section.encoder_options(), f"{where}.encoder")
    connector = make(CONNECTORS, section.connector, f"{where}.connector")

    def tokens(rows: int, columns: int) -> int:
        return connector.tokens(rows, columns, int(options.keep_cls))

    kind = TOWERS[vision.model_type]
    plan = scheme.plan(*picture.size(), kind.image_size(vision), kind.patch_size(vision), picture.tiles)
    named = {"type": (told.get("tiling") or {"type": "single"})["type"], **scheme.model_dump(mode="json")}
    tokenizer, reason = _tokenizer(section, trained_by)
    pieces = None
    if tokenizer is not None:
        resample = prepared_as(path)[1] if path else "bicubic"
        pieces = prompt_pieces(build_processor(section, vision, tokenizer, resample), picture, text)
    return _inspection(named, plan, tokens, pieces, reason, connector.beside)


def _tokenizer(section: ModelSection, trained_by: str | None) -> tuple[Any, str]:
    """The tokenizer with the template's control tokens, or None and why there is none."""
    path = section.tokenizer.get("pretrained")
    if path is None and trained_by is not None:
        return None, f"the tokenizer does not exist yet: the stage {trained_by!r} trains it"
    path = path or section.language_model.get("pretrained")
    if path is None:
        return None, "the recipe names no tokenizer, and none of its stages trains one"
    try:
        tokenizer = load_tokenizer(path)
    except UserError as error:
        return None, str(error)
    marks = make(TILINGS, section.tiling, "model.tiling").marks()
    add_control_tokens(tokenizer, TEMPLATES.get(section.template), path, marks)
    return tokenizer, ""


def _inspection(
    scheme: dict[str, Any],
    plan: Plan,
    tokens: Callable[[int, int], int],
    prompt: tuple[Piece, ...] | None,
    no_prompt: str,
    outside: bool,
) -> Inspection:
    counts, beside = token_counts(plan, tokens)
    total = plan.count(tokens)
    if outside:
        # The text holds one placeholder, and none of the words that a scheme puts between tiles.
        beside, total = {"looked at beside the text": -sum(counts), "placeholder": 1}, 1
    facts = zip(plan, _places(plan), plan.patches, counts, strict=True)
    tiles = tuple(
        Tile(number, place, *shown(tile), tile.canvas, patches, count)
        for number, (tile, place, patches, count) in enumerate(facts, 1)
    )
    return Inspection(scheme, plan, tiles, beside, total, prompt, no_prompt)


def _places(plan: Plan) -> Iterator[str]:
    cell = 0
    for index in range(len(plan)):
        if index == plan.overview and len(plan) > 1:
            yield "overview"
            continue
        yield f"row {cell // plan.grid[1] + 1}, column {cell % plan.grid[1] + 1}" if len(plan) > 1 else "all"
        cell += 1


def shown(tile: Placement) -> tuple[Region | None, Size]:
    """(left, top, right, bottom) in the picture's pixels of what a tile shows, and its size on the tile.

    A tile that shows filling only has no region and the size (0, 0). A region reaches beyond the picture where that was
    filled before it was scaled.
    """
    (x, y), (width, height) = tile.offset, tile.scaled
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(width, tile.canvas[0] - x), min(height, tile.canvas[1] - y)
    if right <= left or bottom <= top:
        return None, (0, 0)
    across, down = (tile.crop[2] - tile.crop[0]) / width, (tile.crop[3] - tile.crop[1]) / height
    region = [tile.crop[0] + left * across, tile.crop[1] + top * down]
    region += [tile.crop[0] + right * across, tile.crop[1] + bottom * down]
    first, second, third, fourth = (round(value, 2) for value in region)
    return (first, second, third, fourth), (right - left, bottom - top)


def token_counts(plan: Plan, tokens: Callable[[int, int], int]) -> tuple[tuple[int, ...], dict[str, int]]:
    """Visual tokens of each tile, and those that belong to none, by what they are; their sum is the plan's count.

    Raises:
        UserError: a grid that the connector cannot take.
        ValueError: the parts do not add up to the plan's count.
    """
    total = plan.count(tokens)
    counts = [tokens(*grid) for grid in plan.patches]
    beside: dict[str, int] = {}
    if isinstance(plan, Unpadded):
        side = round(counts[0] ** 0.5)
        top, bottom, left, right = plan.kept((side, side))
        for index in range(1, len(plan)):
            row, column = divmod(index - 1, plan.grid[1])
            rows = min(bottom, (row + 1) * side) - max(top, row * side)
            columns = min(right, (column + 1) * side) - max(left, column * side)
            counts[index] = max(0, rows) * max(0, columns)
        rows, columns = plan.field((side, side))
        if rows * columns != sum(counts[1:]):
            beside["taken away where the field is shrunk"] = rows * columns - sum(counts[1:])
        beside["learned ends of rows"] = rows
    words = sum(map(len, plan.between))
    if words:
        beside["marks around the tiles"] = words
    if sum(counts) + sum(beside.values()) != total:
        raise ValueError(f"tiles and what is beside them make {sum(counts)} + {beside}, but the plan counts {total}")
    return tuple(counts), beside


def prompt_pieces(processor: VisionLanguageProcessor, picture: Picture, text: str) -> tuple[Piece, ...]:
    """The prompt of a question about a picture: control tokens by name, and the text between them as one piece."""
    ids = processor.encode(question(text, picture), prompt_only=True).input_ids
    names = {
        int(processor.tokenizer.convert_tokens_to_ids(token)): token
        for token in (*TEMPLATES.get(processor.template).control, *processor.image_processor.marks)
    }
    return tuple(_pieces(processor, ids, names))


def _pieces(processor: VisionLanguageProcessor, ids: Sequence[int], names: Mapping[int, str]) -> Iterator[Piece]:
    # Neighbouring text has one key, so that it is one piece; a control token has its own.
    for name, group in groupby(ids, key=lambda token: names.get(token)):
        same = tuple(group)
        if name is not None:
            yield Piece(name, same, True, len(same))
        else:
            text = str(
                processor.tokenizer.decode(
                    list(same), skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            )
            yield Piece(text, same, False, spelt=processor.plain(text) == same)
