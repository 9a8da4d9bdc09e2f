"""Where each record of a shard begins: found once by reading it through, kept in a file, never held in memory.

With it any record is read by its number, so that order, shares of ranks and workers, and the place at which a stopped
run goes on are arithmetic on numbers, and nothing is read again to get there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from sightling.data.places import File, digest, identity, told
from sightling.data.tars import record_starts
from sightling.errors import UserError

VERSION = 1
"""Changes when an index would be written otherwise, so that older ones are not read."""

CACHE = "SIGHTLING_CACHE"
"""The environment variable that names the folder of indexes."""

CHUNK = 1 << 17
"""Bytes that are looked at together. Every thread that looks holds a few times as many, for as long as the process."""

WRITTEN_AT_ONCE = 1 << 12
"""Places of records that are found before they are written, as above in each thread; as objects, 40 bytes each."""
SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\r\n", np.uint8))
BOM = b"\xef\xbb\xbf"


class ShardIndex:
    """The offsets of one shard's records, in a file of 8 bytes a record.

    Attributes:
        key: a name that changes with the shard's content.
        count: how many records it has.
        size: its bytes.
    """

    def __init__(self, path: Path, key: str, size: int) -> None:
        self.path, self.key, self.size = path, key, size
        self.count = path.stat().st_size // 8 - 1

    def offsets(self, first: int, count: int) -> np.ndarray:
        """Where records ``first`` to ``first + count - 1`` begin, and where the last of them ends."""
        return np.fromfile(self.path, "<i8", count + 1, offset=8 * first)


def cache_folder() -> Path:
    """Where indexes are kept: ``$SIGHTLING_CACHE``, else the user's own folder for such things."""
    told_folder = os.environ.get(CACHE)
    if told_folder:
        return Path(told_folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sightling"


def remembered(name: str, write: Callable[[Path], None]) -> Path:
    """The file of that name among the indexes, which ``write`` makes where it is not there yet.

    Processes that want the same one wait for the first of them.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder = cache_folder() / "shards"
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                partial = path.with_suffix(".partial")
                write(partial)
                os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{folder}, where it is kept where the records of shards begin, cannot be written to: {error.strerror}; "
            f"set {CACHE} to another folder"
        ) from None
    return path


def index_of(file: File, kind: str) -> ShardIndex:
    """The index of a shard of that kind, ``"lines"`` or ``"tar"``, made where there is none yet.

    Raises:
        UserError: the shard cannot be read, is cut off or is of another kind; the index cannot be written.
    """
    name, size = identity(file)
    key = digest(VERSION, kind, name, size)

    def write(path: Path) -> None:
        with path.open("wb") as handle:
            for piece in starts[kind](file):
                handle.write(piece.astype("<i8").tobytes())

    starts = {"lines": line_starts, "tar": tar_starts}
    return ShardIndex(remembered(f"{key}.idx", write), key, size)


def tar_starts(file: File) -> Iterator[np.ndarray]:
    """As :func:`sightling.data.tars.record_starts`, many at once."""
    waiting: list[int] = []
    for start in record_starts(file):
        waiting.append(start)
        if len(waiting) == WRITTEN_AT_ONCE:
            yield np.array(waiting, dtype=np.int64)
            waiting.clear()
    yield np.array(waiting, dtype=np.int64)


def line_starts(file: File) -> Iterator[np.ndarray]:
    """Where each line of a text file that holds anything begins, many at once; at last, where the file ends.

    Raises:
        UserError: the file cannot be read, is a JSON array, or its last line is not complete.
    """
    base, rest, begun = 0, b"", False
    last = b""
    with told(file), file.open("rb") as handle:
        while True:
            piece = handle.read(max(CHUNK, len(rest)))
            data = rest + piece
            if not base and data.startswith(BOM):
                base, data = len(BOM), data[len(BOM) :]
            # A line that goes on is looked at with what follows.
            end = data.rfind(b"\n") + 1 if piece else len(data)
            if end:
                found = _filled(data, end)
                if len(found):
                    if not begun and b"\0" in data[: found[0] + 4096]:
                        raise UserError(
                            f"{file} is not a text file; expected one record a line (JSONL), as in the first shard"
                        )
                    if not begun and data[found[0] : end].lstrip()[:1] == b"[":
                        raise UserError(f"{file} holds one JSON array, of which no part can be read alone; "
                                        "expected one record a line (JSONL)")  # fmt: skip
                    begun = True
                    last = data[found[-1] : end]
                    yield found + base
            rest, base = data[end:], base + end
            if not piece:
                break
    if not last.endswith(b"\n") and last.strip():
        try:
            json.loads(last)
        except ValueError:
            raise UserError(f"{file} is cut off: its last line is not complete") from None
    yield np.array([base], dtype=np.int64)


def _filled(data: bytes, end: int) -> np.ndarray:
    """Where the lines of ``data[:end]`` begin that hold more than white space."""
    whole = np.frombuffer(data, np.uint8, end)
    starts = np.concatenate([[0], np.flatnonzero(whole == ord("\n")) + 1])
    starts = starts[starts < end]
    stops = np.append(starts[1:], end)
    keep = np.ones(len(starts), dtype=bool)
    # Only what begins with white space can be nothing but that.
    for number in np.flatnonzero(SPACE[whole[starts]]):
        keep[number] = bool(data[starts[number] : stops[number]].strip())
    return starts[keep]
