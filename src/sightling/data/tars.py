"""Tar shards in the manner of WebDataset: members ``key.ext`` that stand together and share their key are a record.

Source of the layout: https://github.com/webdataset/webdataset. The key is the member's path up to the first dot of its
file's name. Members without a dot, and those that begin with one, belong to no record.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator

from sightling.data.places import File, identity, told
from sightling.errors import UserError

NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.S)
BLOCK = 512
"""Bytes that headers and members of a tar are counted in."""


def key_of(name: str) -> tuple[str, str] | None:
    """(key, extension in small letters) of a member; ``None`` for one that belongs to no record."""
    match = NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match is not None else None


def record_starts(file: File) -> Iterator[int]:
    """Where each record of a tar begins, in bytes; after them, where the last one ends.

    Only headers are looked at; no member is held.

    Raises:
        UserError: the file is not a tar, is compressed as a whole, or is cut off.
    """
    size = identity(file)[1]
    before, end = None, 0
    with told(file), file.open("rb") as handle:
        for member, after in _members(file, handle):
            end = after
            named = key_of(member.name) if member.isreg() else None
            if named is not None and named[0] != before:
                before = named[0]
                yield member.offset
        # A tar ends with empty blocks. Where they lack, or something else stands there, members may be lost.
        handle.seek(end)
        closing = handle.read(BLOCK)
    if end and (len(closing) < BLOCK or any(closing)):
        what = "its closing blocks are missing" if len(closing) < BLOCK else "what follows is no member"
        raise UserError(f"{file} is cut off or damaged: {what} (at byte {end} of {size})")
    yield end


def _members(file: File, handle: object) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The members of a tar, each with the byte that follows it."""
    try:
        # "r:" takes a plain tar only: in a compressed one no record is found again without reading from its start.
        with tarfile.open(fileobj=handle, mode="r:") as tar:  # type: ignore[call-overload]
            while True:
                member = tar.next()
                # tarfile would keep every member that it has seen.
                tar.members.clear()
                if member is None:
                    return
                yield member, tar.offset
    except tarfile.ReadError as error:
        if "unexpected end" in str(error) or "truncated" in str(error):
            raise UserError(f"{file} is cut off: it ends within a member") from None
        raise UserError(f"{file} is not a plain tar file (a compressed one must be unpacked first): {error}") from None


def members(record: bytes) -> tuple[str, list[tuple[str, str, bytes]]]:
    """(key, [(name, extension, content) of each member]) of the bytes of one record."""
    key, found = "", []
    with tarfile.open(fileobj=io.BytesIO(record), mode="r:") as tar:
        for member in tar:
            named = key_of(member.name) if member.isreg() else None
            content = tar.extractfile(member) if named is not None else None
            if named is not None and content is not None:
                key = named[0]
                found.append((member.name, named[1], content.read()))
    return key, found
