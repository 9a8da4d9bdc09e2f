"""A CSV (or TSV) of pictures and names: one row a thing, columns found by their header.

Picture columns hold paths, name columns hold answers: ``en_name`` and ``zh_name`` are names in English and Chinese.
A row gives one sample for each of its pictures and each of its names. A table with a ``question`` and an ``answer``
column is read as questions instead.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from sightling.data.formats.base import (
    FORMATS,
    PICTURE_SUFFIXES,
    Format,
    Gallery,
    Look,
    Record,
    RecordError,
    delimiter,
    make_record,
)
from sightling.data.sample import Sample, question
from sightling.errors import UserError, nearest
from sightling.parts import Part

NAME_WORDS = ("name", "answer", "label", "caption", "title", "class")
LANGUAGES = ("en", "zh")
LENGTH = re.compile(r"length\((.+)\)")
PROBE = 50
"""How many filled cells of a column decide whether it holds pictures."""


class Options(Part):
    """Which columns and rows become samples.

    Attributes:
        pictures: the picture columns; by default every column whose cells are picture paths.
        names: language -> name column; by default columns such as ``name``, ``en_name``, ``name_zh``, ``label``.
        questions: language -> the user's words.
        where: column -> value, or list of values, that a row must have to be read.
        filled: columns that must not be empty for a row to be read.
        sort_by: columns to order rows by before ``limit``; ``"length(column)"`` orders by the cell's length. Cells
            compare as text, by code point.
        limit: how many rows to read at most, after the other options.
    """

    pictures: tuple[str, ...] = ()
    names: dict[str, str] = Field(default_factory=dict)
    questions: dict[str, str] = Field(default_factory=lambda: {"en": "what is this?", "zh": "这是什么?"})
    where: dict[str, str | int | tuple[str | int, ...]] = Field(default_factory=dict)
    filled: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: dict[str, str]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns a table is read by."""

    pictures: tuple[str, ...]
    every_picture: tuple[str, ...]
    names: Mapping[str, str]
    question: str = ""


def name_language(column: str) -> str | None:
    """The language of a name column (``"en"`` for a bare ``name``), or ``None`` when it is no name column."""
    words = re.split(r"[_\s\-]+", column.strip().lower())
    if len(words) == 1:
        return "en" if words[0] in NAME_WORDS else None
    rest = [word for word in words if word not in NAME_WORDS]
    return rest[0] if len(words) == 2 and len(rest) == 1 and rest[0] in LANGUAGES else None


def picture_columns(header: list[str], rows: list[list[str]]) -> tuple[str, ...]:
    """The columns whose first filled cells all end like picture files."""
    found = []
    for number, column in enumerate(header):
        cells = [row[number] for row in rows if len(row) > number and row[number].strip()][:PROBE]
        if cells and all(cell.strip().lower().endswith(PICTURE_SUFFIXES) for cell in cells):
            found.append(column)
    return tuple(found)


def _rows(path: Path) -> tuple[list[str], list[_Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, delimiter=delimiter(handle.readline()))
            handle.seek(0)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: it holds the byte 0x{error.object[error.start]:02x}") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        raise UserError(f"{path} is empty; expected a header line and rows")
    header = [cell.strip() for cell in lines[0][1]]
    rows = []
    for line, cells in lines[1:]:
        problem = "" if len(cells) == len(header) else f"has {len(cells)} cells; the header has {len(header)} columns"
        rows.append(_Row(line, {name: cell.strip() for name, cell in zip(header, cells)}, problem))
    return header, rows


def _columns(path: Path, header: list[str], rows: list[_Row], options: Options) -> Columns:
    def known(column: str, key: str) -> str:
        if column not in header:
            raise UserError(f"{path} has no column {column!r}, which {key!r} names; {nearest(column, header)}")
        return column

    for column in options.where:
        known(column, "where")
    for column in options.filled:
        known(column, "filled")
    for column in options.sort_by:
        known(LENGTH.sub(r"\1", column), "sort_by")
    found = picture_columns(header, [list(row.cells.values()) for row in rows if not row.problem])
    pictures = tuple(known(column, "pictures") for column in options.pictures) or found
    if not pictures:
        raise UserError(f"{path} has no column of picture paths among {', '.join(header)}; name one with 'pictures'")
    every = tuple(dict.fromkeys((*found, *pictures)))
    if not options.names and {"question", "answer"} <= set(header):
        return Columns(pictures, every, {"en": "answer"}, "question")
    names = {language: known(column, "names") for language, column in options.names.items()}
    if not names:
        for column in header:
            language = name_language(column)
            if language is not None and column not in every:
                names.setdefault(language, column)
    if not names:
        raise UserError(f"{path} has no column of names among {', '.join(header)}; name one with 'names'")
    for language in names:
        if language not in options.questions:
            raise UserError(f"{path}: there is no question for names in {language!r}; give one with 'questions'")
    return Columns(pictures, every, names)


def _chosen(rows: list[_Row], options: Options) -> list[_Row]:
    def wanted(row: _Row) -> bool:
        for column, value in options.where.items():
            values = value if isinstance(value, tuple) else (value,)
            if row.cells.get(column) not in {str(one) for one in values}:
                return False
        return all(row.cells.get(column) for column in options.filled)

    def order(row: _Row) -> tuple[tuple[int, str], ...]:
        keys = []
        for column in options.sort_by:
            length = LENGTH.fullmatch(column)
            cell = row.cells.get(length[1] if length else column, "")
            keys.append((len(cell), "") if length else (0, cell))
        return tuple(keys)

    # A row that cannot be read is not filtered away in silence: it stays to be told.
    kept = [row for row in rows if row.problem or wanted(row)]
    if options.sort_by:
        kept.sort(key=order)
    if options.limit is None:
        return kept
    good = 0
    for number, row in enumerate(kept):
        good += not row.problem
        if good == options.limit:
            return kept[: number + 1]
    return kept


def _sample(row: _Row, picture: str, language: str, columns: Columns, gallery: Gallery, options: Options) -> Sample:
    if row.problem:
        raise RecordError(row.problem)
    column = columns.names[language]
    answer = row.cells[column]
    text = row.cells[columns.question] if columns.question else options.questions[language]
    problems = [] if answer else [f"empty answer: column {column!r} is empty"]
    if not text:
        problems.append("the question is empty")
    if not row.cells[picture]:
        problems.append(f"there is no picture: {', '.join(columns.every_picture)} are empty")
    if problems:
        raise RecordError(*problems)
    turns = question(text, gallery.picture(row.cells[picture]), answer=answer).turns
    # The row's other cells are there to group and split by; a column called "family" says it better than we can.
    meta = {"source": "picture_table", "family": "question" if columns.question else "name"}
    meta |= {key: cell for key, cell in row.cells.items() if key not in columns.every_picture}
    return Sample(turns, meta | {"language": language, "picture": picture})


def _read(path: Path, images_root: Path | None, options: Options) -> Iterator[Record]:
    header, rows = _rows(path)
    columns = _columns(path, header, rows, options)
    gallery = Gallery(images_root or path.parent)
    index = 0
    for row in _chosen(rows, options):
        filled = tuple(column for column in columns.pictures if row.cells.get(column))
        if not filled and any(row.cells.get(column) for column in columns.every_picture) and not row.problem:
            # The thing is drawn in another style only (another column); there is nothing to be read here.
            continue
        # A row that is wrong as a whole is told once.
        pictures = filled or columns.pictures[:1]
        pairs = [(picture, language) for picture in pictures for language in columns.names]
        for picture, language in pairs[:1] if row.problem or not filled else pairs:
            yield make_record(path, index, row.line, _sample, row, picture, language, columns, gallery, options)
            index += 1


def _sniff(look: Look) -> bool:
    return bool(look.table) and bool(picture_columns(look.table[0], look.table[1:]))


FORMATS.register("picture_table")(
    Format("picture_table", "a CSV of pictures and names, columns found by header", _sniff, _read, Options)
)
