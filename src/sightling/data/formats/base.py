"""What a format is, what reading one gives, and the first look by which a format is recognised."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sightling.data.jsonrows import Row, json_rows
from sightling.data.places import File, told
from sightling.data.sample import Picture, Sample
from sightling.errors import UserError
from sightling.parts import Part
from sightling.registry import Registry

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
TAR_MAGIC = slice(257, 263)
LOOK_ROWS = 200
"""How many records the first look reads."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: its sample, or what is wrong with it.

    Attributes:
        index: its number in reading order, from 0.
        where: file, record and line, for messages.
        sample: the sample; ``None`` when there are problems.
        problems: what is wrong, a clause each; empty for a good record.
        line: the line it starts on, from 1, where the file has lines.
    """

    index: int
    where: str
    sample: Sample | None
    problems: tuple[str, ...] = ()
    line: int | None = None


class RecordError(Exception):
    """A record cannot become a sample; never leaves a reader, which turns it into the record's problems."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def make_record(path: File, index: int, line: int | None, build: Callable[..., Sample], *given: Any) -> Record:
    """The record of ``build(*given)``; a :class:`RecordError` it raises becomes the record's problems."""
    where = f"{path}, record {index}" + (f" (line {line})" if line is not None else "")
    try:
        return Record(index, where, build(*given), (), line)
    except RecordError as error:
        return Record(index, where, None, error.problems, line)


def json_records(path: Path, build: Callable[..., Sample], *given: Any) -> Iterator[Record]:
    """The records of a JSON file: ``build(value, *given)`` for each of its values."""
    for row in json_rows(path):
        yield make_record(path, row.index, row.line, row_sample, row, build, *given)


def row_sample(row: Row, build: Callable[..., Sample], *given: Any) -> Sample:
    """``build(row.value, *given)``; a row that is not JSON is a :class:`RecordError`."""
    if row.problem is not None:
        raise RecordError(row.problem)
    return build(row.value, *given)


def mapping(value: Any) -> dict[str, Any]:
    """``value`` when it is a JSON object; else a :class:`RecordError`."""
    if not isinstance(value, dict):
        raise RecordError(f"is {kind_of(value)}, not an object")
    return value


def kind_of(value: Any) -> str:
    """What JSON calls a value's type."""
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


class Gallery:
    """The pictures of one reading: equal paths (and boxes) give the same ``Picture`` object.

    Args:
        root: what relative paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[tuple[str, tuple[int, int, int, int] | None], Picture] = {}

    def picture(self, name: Any, box: tuple[int, int, int, int] | None = None) -> Picture:
        """The picture of that path; nothing is opened.

        Raises:
            RecordError: not a string, empty, or a web address.
        """
        if not isinstance(name, str):
            raise RecordError(f"a picture's path is {kind_of(name)}, not a string")
        if not name.strip():
            raise RecordError("a picture's path is empty")
        if name.startswith(("http://", "https://")):
            raise RecordError(f"picture {name} is a web address; download it and write its path")
        known = self._known.get((name, box))
        if known is None:
            # Path("/root") / "/elsewhere" is "/elsewhere": an absolute path stays what it is.
            known = self._known[name, box] = Picture(path=self.root / name.removeprefix("file://"), box=box)
        return known


class Table(Protocol):
    """Random access to records too many to hold: what a format over parquet offers."""

    def __len__(self) -> int: ...
    def record(self, index: int) -> Record:
        """The record of that number."""
        ...

    def __iter__(self) -> Iterator[Record]: ...
    def permutation(self, rng: Any) -> Any:
        """All record numbers in a random order that is cheap to read (a NumPy array)."""
        ...


def read_whole(path: Path, images_root: Path | None, options: Any) -> Table | None:
    """What a format without random access offers: none; its files are read whole."""
    return None


Reader = Callable[[Path, Path | None, Any], Iterator[Record]]
Build = Callable[[Any, Gallery, Any], Sample]
"""A record's sample, from (what the file holds of it, its pictures, options); raises :class:`RecordError`."""


@dataclass(frozen=True, slots=True)
class Format:
    """One on-disk layout.

    Attributes:
        name: what ``--format`` and recipes call it.
        description: one line.
        sniff: whether what the first look saw is this format.
        read: records in order, from (path, images root or ``None``, options).
        options: the format's options, a closed pydantic model.
        table: for files that do not fit in memory: random access, or ``None`` for a file that is read whole.
        value: for shards: how one JSON value becomes a sample, where a record needs nothing but itself.
        row: the same of one row of a parquet file, a dictionary of its columns.
    """

    name: str
    description: str
    sniff: Callable[[Look], bool]
    read: Reader
    options: type[Part] = Part
    table: Callable[[Path, Path | None, Any], Table | None] = read_whole
    value: Build | None = None
    row: Build | None = None


FORMATS: Registry[Format] = Registry("data format")


class Look:
    """A first look at a path: whether it is a folder, and how its content starts.

    Everything is read when first asked for; names and suffixes are not trusted.

    Raises:
        UserError: the path does not exist, or is a JSON file that is empty or cut off within its first record.
    """

    def __init__(self, path: File) -> None:
        self.path = path
        if not path.exists():
            raise UserError(f"{path} does not exist")

    @cached_property
    def kind(self) -> str:
        """``"folder"``, ``"parquet"``, ``"tar"``, ``"json"``, ``"text"`` or ``"binary"``."""
        if self.path.is_dir():
            return "folder"
        with told(self.path), self.path.open("rb") as handle:
            start = handle.read(4096)
        if not start.strip():
            raise UserError(f"{self.path} is empty")
        if start.startswith(b"PAR1"):
            return "parquet"
        if start[TAR_MAGIC].startswith(b"ustar"):
            return "tar"
        if b"\0" in start:
            return "binary"
        stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        return "json" if stripped[:1] in (b"[", b"{") else "text"

    @cached_property
    def rows(self) -> list[Any]:
        """The first JSON values; a JSON file without a single whole one raises."""
        if self.kind != "json":
            return []
        values: list[Any] = []
        rows = json_rows(self.path)
        try:
            for row in rows:
                if row.problem is None:
                    values.append(row.value)
                if row.index + 1 >= LOOK_ROWS:
                    break
        except UserError:
            # A file that breaks off later is still recognised; whoever reads it to there is told.
            if not values:
                raise
        return values

    @property
    def records(self) -> list[dict[str, Any]]:
        """Those of ``rows`` that are objects."""
        return [row for row in self.rows if isinstance(row, dict)]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of a parquet file."""
        if self.kind != "parquet":
            return ()
        from sightling.data.tables import ParquetRows

        return tuple(ParquetRows(self.path).names)

    @cached_property
    def table(self) -> list[list[str]]:
        """The first rows of a delimited text file, header first; empty when it does not look like one."""
        if self.kind != "text":
            return []
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as handle:
                reader = csv.reader(handle, delimiter=delimiter(handle.readline()))
                handle.seek(0)
                head = [row for _, row in zip(range(LOOK_ROWS), reader)]
        except (UnicodeDecodeError, csv.Error):
            return []
        return head if head and len(head[0]) > 1 else []


def delimiter(header: str) -> str:
    """What parts the cells of a header line: tab, comma or semicolon, whichever it holds most of."""
    return max("\t,;", key=header.count)


def data_files(folder: Path) -> list[Path]:
    """Files of a folder that may hold records, sorted; not hidden ones."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.suffix.lower() in DATA_SUFFIXES and not entry.name.startswith(".")
    )


def picture_files(folder: Path) -> list[Path]:
    """Files of a folder named like pictures, sorted; not hidden ones."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in PICTURE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def class_folders(folder: Path) -> list[Path]:
    """Subfolders of a folder, sorted; not hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def plain_meta(row: dict[str, Any], used: Sequence[str]) -> dict[str, Any]:
    """What else a record says about itself in single values, to group and split by, and its lists of texts."""
    told: dict[str, Any] = {}
    for key, value in row.items():
        texts = isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value)
        if key not in used and (texts or isinstance(value, (str, int, float, bool))):
            told[key] = tuple(value) if texts else value
    return told
