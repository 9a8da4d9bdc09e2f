"""OpenAI-style ``messages``: with image parts, or with ``<image>`` marks and an ``images`` column.

Parts: ``{"type": "text", "text": ...}``, ``{"type": "image_url", "image_url": {"url": PATH or data: URI}}``,
``{"type": "image", "image": PATH}``, and ``{"type": "image"}`` alone for the next of ``images``. JSON array, JSONL, or
parquet with the columns ``messages`` and perhaps ``images`` (paths, bytes, or ``{"bytes", "path"}`` as the Hugging
Face hub keeps them).
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from sightling.data.formats.base import (
    FORMATS,
    Format,
    Gallery,
    Look,
    Record,
    RecordError,
    json_records,
    kind_of,
    mapping,
    plain_meta,
)
from sightling.data.formats.conversation import check_turns, place_pictures, role_of, text_of
from sightling.data.formats.llava import listed_turns
from sightling.data.formats.parquet import RecordTable
from sightling.data.sample import Part as SamplePart
from sightling.data.sample import Picture, Role, Sample, Turn
from sightling.parts import Part

TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "image", "input_image")
MEDIA = ("image", "images")


def data_uri(uri: str) -> bytes:
    """The bytes of a ``data:`` URI (RFC 2397), base64 or percent-encoded."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise RecordError("a data: URI has no comma before its data")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RecordError(f"the data: URI {uri[:30]}... is not valid base64") from None


def picture_of(source: Any, gallery: Gallery) -> Picture:
    """A picture from a path, a ``data:`` URI, bytes, or an object with ``bytes``, ``path`` or ``url``."""
    if isinstance(source, dict):
        given = [source[key] for key in ("bytes", "path", "url") if source.get(key)]
        if not given:
            raise RecordError(f"an image object has none of 'bytes', 'path', 'url'; it has {sorted(source)}")
        return picture_of(given[0], gallery)
    if isinstance(source, bytes):
        return Picture(data=source)
    if isinstance(source, str) and source.startswith("data:"):
        return Picture(data=data_uri(source))
    return gallery.picture(source)


def _part(part: Any, turn: int, column: Iterator[Picture], gallery: Gallery) -> SamplePart:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RecordError(f"turn {turn} holds {kind_of(part)} where a part should be")
    kind = part.get("type")
    if kind in TEXT_TYPES:
        return text_of(part.get("text"), turn)
    if kind not in IMAGE_TYPES:
        raise RecordError(f"turn {turn} has a part of type {kind!r}; known are {', '.join(TEXT_TYPES + IMAGE_TYPES)}")
    sources = [part[key] for key in ("image_url", "image", "url", "path") if part.get(key)]
    if sources:
        return picture_of(sources[0], gallery)
    picture = next(column, None)
    if picture is None:
        raise RecordError(f"turn {turn} has an image part without a source, and no picture is left in 'images'")
    return picture


def _turns(record: dict[str, Any], gallery: Gallery) -> tuple[Turn, ...]:
    messages = listed_turns(record.get("messages"), "messages")
    listed: Any = next((record[key] for key in MEDIA if record.get(key)), [])
    column = [picture_of(source, gallery) for source in (listed if isinstance(listed, list) else [listed])]
    roles: list[Role] = [role_of(message.get("role"), number) for number, message in enumerate(messages)]
    contents = [message.get("content") for message in messages]
    if not any(isinstance(content, list) for content in contents):
        texts = [text_of(content, number) for number, content in enumerate(contents)]
        return place_pictures(list(zip(roles, texts)), column)
    upcoming = iter(column)
    turns = []
    for number, (role, content) in enumerate(zip(roles, contents)):
        # Where a record names its pictures by parts, its texts are texts: a mark in one stands for nothing.
        parts = content if isinstance(content, list) else [text_of(content, number)]
        made = tuple(part for part in (_part(part, number, upcoming, gallery) for part in parts) if part != "")
        if role != "user" and any(isinstance(part, Picture) for part in made):
            raise RecordError(f"turn {number} ({role}) holds a picture; pictures stand in user turns only")
        turns.append(Turn(role, made))
    left = len(list(upcoming))
    if left:
        raise RecordError(f"{len(column)} pictures in 'images', but {len(column) - left} image parts without a source")
    return tuple(turns)


def _sample(value: Any, gallery: Gallery) -> Sample:
    record = mapping(value)
    turns = check_turns(_turns(record, gallery))
    return Sample(turns, {"source": "openai", **plain_meta(record, ("messages", *MEDIA))})


def _from_table(row: dict[str, Any], gallery: Gallery) -> Sample:
    """Parquet gives every part every key that any part has; those without a value were not written."""
    messages = [
        {**message, "content": [_written(part) for part in message["content"]]}
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        else message
        for message in row["messages"] or ()
    ]
    return _sample({**row, "messages": messages}, gallery)


def _written(part: Any) -> Any:
    return {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part


def _value(value: Any, gallery: Gallery, options: Part) -> Sample:
    return _sample(value, gallery)


def _row(row: dict[str, Any], gallery: Gallery, options: Part) -> Sample:
    return _from_table(row, gallery)


def _table(path: Path, images_root: Path | None, options: Part) -> RecordTable | None:
    if Look(path).kind != "parquet":
        return None
    build = functools.partial(_from_table, gallery=Gallery(images_root or path.parent))
    return RecordTable(path, ("messages",), build)


def _read(path: Path, images_root: Path | None, options: Part) -> Iterator[Record]:
    table = _table(path, images_root, options)
    return iter(table) if table is not None else json_records(path, _sample, Gallery(images_root or path.parent))


def _sniff(look: Look) -> bool:
    if "messages" in look.columns:
        return True
    return any(isinstance(record.get("messages"), list) for record in look.records)


FORMATS.register("openai")(
    Format(
        "openai",
        "OpenAI-style messages with image parts, or <image> marks and images",
        _sniff,
        _read,
        table=_table,
        value=_value,
        row=_row,
    )
)
