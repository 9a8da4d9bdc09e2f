"""Tar shards in the manner of WebDataset: a record is the members ``key.ext`` that share a key.

Pictures (``.jpg``, ``.jpeg``, ``.png``, ``.webp``, ``.gif``) stand in the order of the tar. ``.json`` is a record of
LLaVA's or of OpenAI's conversations; without one, ``.txt`` is the pictures' caption, and what a ``.json`` of another
kind says, such as img2dataset's, goes to ``meta``. Other members are left alone.
Source of the layout: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sightling.data.formats.base import FORMATS, Build, Format, Gallery, Look, Record, RecordError, kind_of, plain_meta
from sightling.data.formats.conversation import MARK, check_turns
from sightling.data.places import File, read_range
from sightling.data.sample import Picture, Sample, Turn
from sightling.data.tars import members, record_starts
from sightling.parts import Part

KEY = "__key__"
PICTURES = ("jpg", "jpeg", "png", "webp", "gif")
Member = tuple[str, str, bytes]
"""(name, extension, content)."""


class Options(Part):
    """``question``: the user's words beside the pictures of a caption; by default none."""

    question: str = ""


class _Members(Gallery):
    """The pictures of one record, which its JSON may call by their names or by their extensions."""

    def __init__(self, pictures: Sequence[tuple[Member, Picture]], where: str) -> None:
        self.where = where
        self.names = [name for (name, _, _), _ in pictures]
        self._by_name: dict[str, Picture] = {}
        for (name, extension, _), picture in pictures:
            for called in (name, name.rpartition("/")[2], extension):
                self._by_name.setdefault(called, picture)

    def picture(self, name: Any, box: tuple[int, int, int, int] | None = None) -> Picture:
        if not isinstance(name, str):
            raise RecordError(f"a picture's name is {kind_of(name)}, not a string")
        found = self._by_name.get(name)
        if found is None:
            raise RecordError(f"no picture {name!r} stands under this key; there are {', '.join(self.names) or 'none'}")
        return found if box is None else replace(found, box=box)


def member_sample(key: str, found: Sequence[Member], shard: str, options: Options) -> Sample:
    """The sample of the members of one key.

    Raises:
        RecordError: two members of one extension, no words, a JSON that is none, or what its format finds wrong.
    """
    extensions = [extension for _, extension, _ in found]
    twice = sorted({extension for extension in extensions if extensions.count(extension) > 1})
    if twice:
        raise RecordError(f"two members of one key end in .{twice[0]}")
    contents = {extension: content for _, extension, content in found}
    shown = [
        (member, Picture(data=member[2], label=f"{shard}, member {member[0]}"))
        for member in found
        if member[1].rpartition(".")[2] in PICTURES
    ]
    told = _json(contents["json"]) if "json" in contents else {}
    build = _conversation(told)
    if build is not None:
        if _asks_in_order(told):
            told = {**told, "images": [name for (name, _, _), _ in shown]}
        sample = build(told, _Members(shown, shard), Part())
        return replace(sample, meta={**sample.meta, KEY: key})
    if "txt" not in contents:
        raise RecordError("there is no .txt and no .json with 'conversations' or 'messages'")
    if not shown:
        raise RecordError("there is a .txt and no picture that it could be the caption of")
    words = [options.question] if options.question else []
    turns = [Turn("user", (*(picture for _, picture in shown), *words)), Turn("assistant", (_text(contents["txt"]),))]
    return Sample(check_turns(turns), {"source": "webdataset", **plain_meta(told, ()), KEY: key})


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise RecordError("the .txt is not UTF-8") from None


def _json(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecordError("the .json is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"the .json is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RecordError(f"the .json is {kind_of(value)}, not an object")
    return value


def _conversation(told: dict[str, Any]) -> Build | None:
    """What reads such a JSON; ``None`` where it holds no conversation."""
    if "messages" in told:
        return FORMATS.get("openai").value
    return FORMATS.get("llava").value if "conversations" in told else None


def _asks_in_order(told: dict[str, Any]) -> bool:
    """Whether a conversation has places for pictures and does not say which: then they come in the tar's order."""
    if told.get("image") or told.get("images"):
        return False
    turns = told.get("messages", told.get("conversations"))
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if isinstance(content, str) and MARK in content:
            return True
        if isinstance(content, list) and any(part == {"type": "image"} for part in content):
            return True
    return False


def tar_record(file: File, number: int, content: bytes, options: Options) -> Record:
    """The record of these bytes of a tar, which the messages call by shard and key."""
    key, found = members(content)
    where = f"{file}, key {key!r}"
    try:
        return Record(number, where, member_sample(key, found, str(file), options))
    except RecordError as error:
        return Record(number, where, None, error.problems)


def _read(path: Path, images_root: Path | None, options: Options) -> Iterator[Record]:
    for number, (start, stop) in enumerate(pairwise(record_starts(path))):
        yield tar_record(path, number, read_range(path, start, stop), options)


def _sniff(look: Look) -> bool:
    return look.kind == "tar"


FORMATS.register("webdataset")(
    Format(
        "webdataset", "tar shards: pictures with .txt captions or .json conversations by key", _sniff, _read, Options
    )
)
