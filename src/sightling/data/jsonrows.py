"""JSON records one after another, in bounded memory: an array in a file, or one value a line (JSONL).

What a file is follows from its first character, not from its name: NLVR's ``dev.json`` is JSONL. A file that
was cut in half (a download that broke off) is told from one with a mistake in it, and both are told by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sightling.data.places import File
from sightling.errors import UserError

CHUNK = 1 << 20
"""Characters read at once; a record longer than that makes the piece grow."""

SPACE = " \t\r\n"
LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
# What may stand at the edge of a window after the digits of a number that goes on.
NUMBER_TAILS = ("", ".", "e", "E", "e+", "E+", "e-", "E-")


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON value of a file: its number from 0, the line it starts on from 1, and the value or what is wrong."""

    index: int
    line: int
    value: Any = None
    problem: str | None = None


def json_rows(path: File) -> Iterator[Row]:
    """The records of a JSON array or of a JSONL file, in order, whatever the file's size.

    A line of JSONL that is not JSON comes as a row with ``problem``; the following lines are read on.

    Raises:
        UserError: the file does not exist, is empty, is not UTF-8, is cut off, or is an array that is not JSON
            (nothing after the mistake can be trusted); the message names the line.
    """
    with _opened(path) as handle:
        start = handle.read(CHUNK)
        while start and not start.strip(SPACE):
            start = handle.read(CHUNK)
    if not start:
        raise UserError(f"{path} is empty; expected JSON records")
    yield from _array(path) if start.lstrip(SPACE)[0] == "[" else _lines(path)


@contextmanager
def _opened(path: File) -> Iterator[IO[str]]:
    """The file as text; what reading it can raise becomes one sentence."""
    try:
        with path.open(encoding="utf-8-sig") as handle:
            yield handle
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise UserError(f"{path} is cut off: it ends in the middle of a character") from None
        raise UserError(f"{path} is not UTF-8 text: it holds the byte 0x{error.object[error.start]:02x}") from None
    except RecursionError:
        raise UserError(f"{path} nests JSON values too deeply to be a data set") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _unfinished(text: str, error: json.JSONDecodeError) -> bool:
    """Whether ``text`` may simply go on: the error is that it ended."""
    if error.pos >= len(text.rstrip(SPACE)) or error.msg.startswith("Unterminated string"):
        return True
    rest = text[error.pos :]
    if error.msg.startswith("Invalid \\"):
        return len(rest) <= len("\\uXXXX")
    if error.msg == "Expecting value":
        return any(literal.startswith(rest) for literal in LITERALS)
    return rest in NUMBER_TAILS and text[error.pos - 1].isdigit()


def _lines(path: File) -> Iterator[Row]:
    index = 0
    with _opened(path) as handle:
        waiting: Row | None = None
        for number, line in enumerate(handle, start=1):
            if not line.strip(SPACE):
                continue
            if waiting is not None:
                if waiting.index == 0 and waiting.problem == "":
                    raise UserError(
                        f"{path} holds one JSON value over several lines (line {waiting.line} is not a whole one); "
                        f"expected an array of records, or one record a line"
                    )
                yield _told(waiting)
            try:
                waiting = Row(index, number, json.loads(line))
            except json.JSONDecodeError as error:
                # An empty problem marks a line that may only be unfinished: the next line decides.
                waiting = Row(index, number, problem="" if _unfinished(line, error) else not_json(error))
            index += 1
        if waiting is None:
            return
        if waiting.problem == "" and not line.endswith("\n"):
            raise UserError(f"{path} is cut off: the record at line {waiting.line} is not complete ({index - 1} are)")
        yield _told(waiting)


def _told(row: Row) -> Row:
    return row if row.problem != "" else Row(row.index, row.line, problem="is not JSON: the line ends too early")


def not_json(error: json.JSONDecodeError) -> str:
    """What is wrong with a line, and at which of its characters."""
    return f"is not JSON: {error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}"


class _Text:
    """A window that moves over a text, with the line number of its start."""

    def __init__(self, handle: IO[str]) -> None:
        self.handle = handle
        self.text = ""
        self.at = 0
        self.line = 1

    def more(self) -> bool:
        """Read on (at least as much as is waiting, so that retries stay cheap); ``False`` at the end."""
        piece = self.handle.read(max(CHUNK, len(self.text) - self.at))
        self.text = self.text[self.at :] + piece
        self.at = 0
        return bool(piece)

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def next(self) -> str:
        """The next character that is not white space, not consumed; empty at the end."""
        while True:
            for position in range(self.at, len(self.text)):
                if self.text[position] not in SPACE:
                    self.move(position)
                    return self.text[position]
            self.move(len(self.text))
            if not self.more():
                return ""


def _array(path: File) -> Iterator[Row]:
    decode = json.JSONDecoder().raw_decode
    with _opened(path) as handle:
        text = _Text(handle)
        text.next()
        opened = text.line
        text.move(text.at + 1)
        index = 0
        while True:
            mark = text.next()
            if mark == "]" and index == 0:
                break
            value, end = None, -1
            while end < 0:
                try:
                    value, end = decode(text.text, text.at)
                except json.JSONDecodeError as error:
                    if not _unfinished(text.text, error):
                        line = text.line + text.text.count("\n", text.at, error.pos)
                        reason = error.msg[0].lower() + error.msg[1:]
                        raise UserError(f"{path} is not JSON: {reason} at line {line}, in record {index}") from None
                    if not text.more():
                        raise _cut_off(path, text, index, opened) from None
                if text.text[end:] in NUMBER_TAILS:
                    # At the edge of the window a number may go on.
                    if text.more():
                        end = -1
                    elif end < len(text.text):
                        raise _cut_off(path, text, index, opened)
            row = Row(index, text.line, value)
            text.move(end)
            index += 1
            mark = text.next()
            if not mark:
                yield row
                raise _cut_off(path, text, index, opened)
            if mark not in ",]":
                raise UserError(f"{path} is not JSON: expected ',' or ']' after record {row.index} at line {text.line}")
            yield row
            if mark == "]":
                break
            text.move(text.at + 1)
        text.move(text.at + 1)
        if text.next():
            raise UserError(f"{path} is not JSON: there is more after the array's end, at line {text.line}")


def _cut_off(path: File, text: _Text, complete: int, opened: int) -> UserError:
    start = text.line
    begun = bool(text.text[text.at :].strip(SPACE))
    last = start + text.text.count("\n", text.at)
    if begun:
        what = f"record {complete}, which starts at line {start}, is not complete"
    else:
        what = f"the array that starts at line {opened} is never closed"
    return UserError(f"{path} is cut off: {what} (the file ends at line {last} after {complete} complete records)")
