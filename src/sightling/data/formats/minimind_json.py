"""MiniMind-V's JSON of 2024 (and its JSONL of 2025): LLaVA-like, with two habits of its own.

``image`` may name several pictures in one string, ``"a.jpg, b.jpg"``, and roles follow from the position: turns 0,
2, 4 ... are the user's whatever ``from`` or ``role`` says. Source: https://github.com/jingyaogong/minimind-v.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightling.data.formats.base import (
    FORMATS,
    PICTURE_SUFFIXES,
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
from sightling.data.formats.conversation import check_turns, place_pictures, text_of
from sightling.data.formats.llava import listed_turns
from sightling.data.sample import Role, Sample
from sightling.parts import Part


class Options(Part):
    """``prefix`` stands before every picture's name: MiniMind-V's instruct pictures are ``COCO_train2014_<name>``."""

    prefix: str = ""


def split_names(names: str) -> list[str]:
    """``"a.jpg, b.jpg"`` as its names."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _sample(value: Any, gallery: Gallery, options: Options) -> Sample:
    record = mapping(value)
    names = record.get("image") or ""
    if not isinstance(names, str):
        raise RecordError(f"'image' is {kind_of(names)}; expected names in one string, parted by commas")
    turns: list[tuple[Role, str]] = []
    for number, turn in enumerate(listed_turns(record.get("conversations"), "conversations")):
        text = text_of(turn["value"] if "value" in turn else turn.get("content"), number)
        turns.append(("assistant" if number % 2 else "user", text))
    pictures = [gallery.picture(options.prefix + name) for name in split_names(names)]
    placed = check_turns(place_pictures(turns, pictures))
    return Sample(placed, {"source": "minimind", **plain_meta(record, ("image", "conversations"))})


def _read(path: Path, images_root: Path | None, options: Options) -> Iterator[Record]:
    return json_records(path, _sample, Gallery(images_root or path.parent), options)


def _sniff(look: Look) -> bool:
    for record in look.records:
        turns = record.get("conversations")
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
            continue
        if "content" in turns[0] and "image" in record:
            return True
        image = record.get("image")
        if isinstance(image, str) and "value" in turns[0]:
            names = split_names(image)
            # A comma may stand in a file's name; only where every piece looks like a picture is it a list.
            if len(names) > 1 and all(name.lower().endswith(PICTURE_SUFFIXES) for name in names):
                return True
    return False


FORMATS.register("minimind_json")(
    Format(
        "minimind_json",
        "MiniMind-V JSON of 2024: 'a.jpg, b.jpg', roles by position",
        _sniff,
        _read,
        Options,
        value=_sample,
    )
)
