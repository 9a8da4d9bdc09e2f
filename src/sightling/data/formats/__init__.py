"""The on-disk layouts that are understood, one file each: recognising them and reading them.

A new format is one new file that registers a :class:`Format`, imported here, and its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sightling.data.formats import (  # noqa: F401  (importing a format registers it)
    class_folders,
    easy_vqa,
    llava,
    minimind_json,
    minimind_parquet,
    nlvr,
    openai,
    picture_table,
    webdataset,
)
from sightling.data.formats.base import FORMATS, Format, Look, Record, RecordError, data_files
from sightling.data.formats.base import class_folders as subfolders
from sightling.data.jsonrows import json_rows
from sightling.data.places import File
from sightling.data.sample import Sample
from sightling.errors import UserError
from sightling.parts import validate

__all__ = [
    "FORMATS",
    "Format",
    "Record",
    "RecordError",
    "open_data",
    "read_records",
    "read_samples",
    "recognise",
    "recognise_file",
    "resolve",
]

# MiniMind-V's JSON looks like LLaVA's but for its habits, so it is asked first.
ORDER = (
    "minimind_parquet",
    "nlvr",
    "easy_vqa",
    "minimind_json",
    "llava",
    "openai",
    "picture_table",
    "class_folders",
    "webdataset",
)


def resolve(path: str | Path) -> Path:
    """The file that holds the records: ``path`` itself, or the one data file of that folder.

    A folder without a data file of its own is searched one level down, unless it is a folder of class folders; a
    folder that holds nothing but one folder stands for that folder.

    Raises:
        UserError: the path does not exist, or the folder holds several data files; they are listed.
    """
    path = Path(path)
    if Look(path).kind != "folder":
        return path
    found = data_files(path)
    if not found and not FORMATS.get("class_folders").sniff(Look(path)):
        inner = subfolders(path)
        if len(inner) == 1:
            return resolve(inner[0])
        found = [file for folder in inner for file in data_files(folder)]
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found[:10]) + (", ..." if len(found) > 10 else "")
        raise UserError(f"{path} holds {len(found)} data files; name one of them: {names}")
    return found[0] if found else path


def recognise(path: str | Path) -> Format:
    """The format of a file or folder, from its content.

    Raises:
        UserError: the path does not exist, is a JSON file cut off in its first record, or is in no known format.
    """
    return recognise_file(resolve(path))


def recognise_file(file: File) -> Format:
    """As :func:`recognise`, of the very file that holds the records, which may lie elsewhere."""
    look = Look(file)
    for name in ORDER:
        if FORMATS.get(name).sniff(look):
            return FORMATS.get(name)
    if look.kind == "json" and not look.rows:
        for row in json_rows(file):
            raise UserError(f"{file}, line {row.line}: {row.problem}")
        raise UserError(f"{file} holds no records: its JSON array is empty")
    what = "a folder" if look.kind == "folder" else f"a {look.kind} file"
    if look.records:
        what += f" of records with the keys {', '.join(map(str, look.records[0]))}"
    elif look.columns:
        what += f" with the columns {', '.join(look.columns)}"
    raise UserError(f"{file} is {what}, which is no known data format; known are {', '.join(ORDER)}")


def open_data(
    path: str | Path, format: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Path, Format, Any]:
    """The file, its format (recognised unless given) and the format's options, validated.

    Raises:
        UserError: as :func:`recognise`; an unknown format or option; a wrong value.
    """
    file = resolve(path)
    chosen = FORMATS.get(format, where=str(path)) if format is not None else recognise(path)
    return file, chosen, validate(chosen.options, options or {}, f"data format {chosen.name!r}")


def read_records(
    path: str | Path,
    format: str | None = None,
    *,
    images_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Every record of a data set in order, the bad ones with their problems. Pictures are not opened.

    Args:
        path: a file, or a folder as :func:`resolve` takes it.
        format: a name in ``FORMATS``; recognised from the content when ``None``.
        images_root: what relative picture paths are relative to; by default the file's folder.
        options: the format's own options.

    Raises:
        UserError: as :func:`open_data`; a JSON file that is cut off raises where it ends.
    """
    file, chosen, checked = open_data(path, format, options)
    return chosen.read(file, checked_root(images_root), checked)


def checked_root(images_root: str | Path | None) -> Path | None:
    """The folder that pictures are in, when one is given.

    Raises:
        UserError: it is not a folder.
    """
    if images_root is None:
        return None
    root = Path(images_root)
    if not root.is_dir():
        raise UserError(f"the images root {root} is not a folder")
    return root


def read_samples(
    path: str | Path,
    format: str | None = None,
    *,
    images_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Iterator[Sample]:
    """The samples of a data set in order; arguments as :func:`read_records`.

    Raises:
        UserError: as :func:`read_records`; and, unless ``on_error`` is ``"skip"``, at the first bad record.
    """
    for record in read_records(path, format, images_root=images_root, options=options):
        if record.sample is not None:
            yield record.sample
        elif on_error == "raise":
            raise UserError(f"{record.where}: {'; '.join(record.problems)}")
