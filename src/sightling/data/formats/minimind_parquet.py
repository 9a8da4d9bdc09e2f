"""MiniMind-V's parquet: ``conversations`` (a JSON string or a native list) and ``image_bytes`` (one or several).

Text-only rows carry a black picture of 8 x 8 pixels and no mark: that picture is a stand-in and is left out.
Read by windows of bounded size, see :mod:`sightling.data.tables`. Source: https://github.com/jingyaogong/minimind-v.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightling.data.formats.base import (
    FORMATS,
    Format,
    Gallery,
    Look,
    Record,
    RecordError,
    kind_of,
    plain_meta,
)
from sightling.data.formats.conversation import MARK, check_turns, place_pictures, role_of, text_of
from sightling.data.formats.llava import listed_turns
from sightling.data.formats.parquet import RecordTable
from sightling.data.pictures import picture_size
from sightling.data.sample import Picture, Role, Sample
from sightling.errors import UserError
from sightling.parts import Part

STAND_IN = (8, 8)
COLUMNS = ("conversations", "image_bytes")


def pictures_of(value: Any) -> list[Picture]:
    """The pictures of an ``image_bytes`` cell: binary, a list of binaries, or nothing."""
    pieces = value if isinstance(value, list) else [] if value is None else [value]
    for piece in pieces:
        if not isinstance(piece, bytes):
            raise RecordError(f"'image_bytes' holds {kind_of(piece)}; expected the bytes of a picture")
    return [Picture(data=piece) for piece in pieces if piece]


def _is_stand_in(picture: Picture) -> bool:
    try:
        return picture_size(io.BytesIO(picture.data or b""), picture.name) == STAND_IN
    except UserError:
        return False


def _sample(row: dict[str, Any]) -> Sample:
    value = row["conversations"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            reason = f"{error.msg.lower()} at character {error.pos + 1}"
            raise RecordError(f"'conversations' is not JSON: {reason}") from None
    turns: list[tuple[Role, str]] = []
    for number, turn in enumerate(listed_turns(value, "conversations")):
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        turns.append((role_of(role, number), text_of(text, number)))
    pictures = pictures_of(row["image_bytes"])
    if len(pictures) == 1 and not any(MARK in text for _, text in turns) and _is_stand_in(pictures[0]):
        pictures = []
    placed = check_turns(place_pictures(turns, pictures))
    return Sample(placed, {"source": "minimind", **plain_meta(row, COLUMNS)})


def _row(row: dict[str, Any], gallery: Gallery, options: Part) -> Sample:
    return _sample(row)


def _table(path: Path, images_root: Path | None, options: Part) -> RecordTable:
    return RecordTable(path, COLUMNS, _sample)


def _read(path: Path, images_root: Path | None, options: Part) -> Iterator[Record]:
    return iter(_table(path, images_root, options))


def _sniff(look: Look) -> bool:
    return set(COLUMNS) <= set(look.columns)


FORMATS.register("minimind_parquet")(
    Format(
        "minimind_parquet",
        "MiniMind-V parquet: conversations and image_bytes, read by windows",
        _sniff,
        _read,
        table=_table,
        row=_row,
    )
)
