"""LLaVA's conversations, as a JSON array or JSONL: the layout most visual instruction data comes in.

``{"id": ..., "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nQ"}, {"from": "gpt", ...}]}``

``image`` may be a list or absent; the ShareGPT form with ``images`` (a list) and ``system`` is read too.
Source: https://github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.
"""

from __future__ import annotations

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
    json_records,
    kind_of,
    mapping,
    plain_meta,
)
from sightling.data.formats.conversation import MARK, check_turns, place_pictures, role_of, text_of
from sightling.data.sample import Picture, Role, Sample
from sightling.errors import UserError
from sightling.parts import Part

USED = ("image", "images", "conversations", "system")


def named_pictures(row: dict[str, Any], gallery: Gallery) -> list[Picture]:
    """The pictures of a record's ``image`` (a string, a list, absent) or ``images`` (a list, absent)."""
    given = [key for key in ("image", "images") if row.get(key) not in (None, "", [])]
    if len(given) == 2:
        raise RecordError("both 'image' and 'images' are given; one of them is enough")
    if not given:
        return []
    names = row[given[0]]
    if not isinstance(names, (str, list)):
        raise RecordError(f"{given[0]!r} is {kind_of(names)}; expected a path or a list of paths")
    return [gallery.picture(name) for name in ([names] if isinstance(names, str) else names)]


def listed_turns(value: Any, key: str) -> list[dict[str, Any]]:
    """``value`` when it is a list of objects with something in it; else a :class:`RecordError`."""
    if value is None:
        raise RecordError(f"there is no {key!r}")
    if not isinstance(value, list) or not value:
        raise RecordError(f"{key!r} is {'empty' if value == [] else kind_of(value)}; expected a list of turns")
    for number, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise RecordError(f"turn {number} is {kind_of(turn)}, not an object")
    return value


def _sample(value: Any, gallery: Gallery) -> Sample:
    record = mapping(value)
    turns: list[tuple[Role, str]] = []
    if record.get("system"):
        turns.append(("system", text_of(record["system"], 0)))
    for number, turn in enumerate(listed_turns(record.get("conversations"), "conversations")):
        turns.append((role_of(turn.get("from"), number), text_of(turn.get("value"), number)))
    placed = check_turns(place_pictures(turns, named_pictures(record, gallery)))
    return Sample(placed, {"source": "llava", **plain_meta(record, USED)})


def _value(value: Any, gallery: Gallery, options: Part) -> Sample:
    return _sample(value, gallery)


def _read(path: Path, images_root: Path | None, options: Part) -> Iterator[Record]:
    return json_records(path, _sample, Gallery(images_root or path.parent))


def _sniff(look: Look) -> bool:
    for record in look.records:
        turns = record.get("conversations")
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return "from" in turns[0] and "value" in turns[0]
    return False


def to_record(sample: Sample) -> dict[str, Any]:
    """The LLaVA record of a sample whose pictures are files: the way back from reading one.

    Raises:
        UserError: a text that holds the mark itself, or a picture that is not a whole file; LLaVA's layout cannot
            say either.
    """
    names = []
    turns = []
    for turn in sample.turns:
        value = ""
        for number, part in enumerate(turn.parts):
            if isinstance(part, str):
                if MARK in part:
                    raise UserError(f"a text holds {MARK!r}, which LLaVA's layout would take for a picture: {part!r}")
                value += part
                continue
            if part.path is None or part.box is not None:
                raise UserError(f"LLaVA's layout names whole picture files, and {part.name} is none")
            names.append(str(part.path))
            before = number > 0 and isinstance(turn.parts[number - 1], str)
            value += ("\n" if before else "") + MARK
            if number + 1 < len(turn.parts):
                value += "\n"
        turns.append({"from": {"user": "human", "assistant": "gpt", "system": "system"}[turn.role], "value": value})
    record = plain_meta(sample.meta, USED)
    if record.get("source") == "llava":
        del record["source"]
    if names:
        record["image"] = names[0] if len(names) == 1 else names
    record["conversations"] = turns
    return record


FORMATS.register("llava")(
    Format(
        "llava",
        "LLaVA conversations, JSON array or JSONL (from/value turns, <image> marks)",
        _sniff,
        _read,
        value=_value,
    )
)
