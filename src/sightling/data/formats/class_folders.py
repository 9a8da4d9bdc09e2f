"""A folder of class folders: ``<folder>/<class>/*.jpg``; the class's name is the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from sightling.data.formats.base import (
    FORMATS,
    Format,
    Gallery,
    Look,
    Record,
    RecordError,
    class_folders,
    make_record,
    picture_files,
)
from sightling.data.sample import Sample, question
from sightling.errors import UserError, nearest
from sightling.parts import Part


class Options(Part):
    """How classes become questions and answers.

    Attributes:
        question: the user's words.
        names: folder name -> answer, where the prettified folder name will not do; other folders keep theirs.
        language: of question and answers, for the report.
    """

    question: str = "what is it?"
    names: dict[str, str] = Field(default_factory=dict)
    language: str = "en"


def pretty(folder: str) -> str:
    """A folder's name as words: ``"AnnualCrop"`` -> ``"annual crop"``, ``"sea_lake-2"`` -> ``"sea lake 2"``.

    A word all in capitals (``"TV"``) stays as it is.
    """
    words = re.sub(r"[_\-\s]+", " ", folder)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", words)
    kept = (word if len(word) > 1 and word.isupper() else word.lower() for word in words.split())
    return " ".join(kept)


def _sample(picture: Path, label: str, gallery: Gallery, options: Options, choices: tuple[str, ...]) -> Sample:
    return question(
        options.question,
        gallery.picture(f"{picture.parent.name}/{picture.name}"),
        answer=options.names.get(label, pretty(label)),
        source="class_folders",
        family="class",
        language=options.language,
        choices=choices,
        label=label,
        id=f"{label}/{picture.name}",
    )


def _empty(label: str) -> Sample:
    raise RecordError(f"class folder {label!r} holds no pictures")


def _read(path: Path, images_root: Path | None, options: Options) -> Iterator[Record]:
    if not path.is_dir():
        raise UserError(f"{path} is not a folder of class folders")
    if images_root is not None:
        raise UserError(f"class_folders finds pictures in {path} itself and takes no images root ({images_root})")
    folders = class_folders(path)
    labels = [folder.name for folder in folders]
    for name in options.names:
        if name not in labels:
            raise UserError(f"{path} has no class folder {name!r}, which 'names' renames; {nearest(name, labels)}")
    choices = tuple(options.names.get(label, pretty(label)) for label in labels)
    if len(set(choices)) < len(choices):
        twice = sorted({name for name in choices if choices.count(name) > 1})
        raise UserError(f"two class folders of {path} have the name {twice[0]!r}; tell them apart with 'names'")
    gallery = Gallery(path)
    index = 0
    for folder in folders:
        pictures = picture_files(folder)
        if not pictures:
            yield make_record(path, index, None, _empty, folder.name)
            index += 1
        for picture in pictures:
            yield make_record(path, index, None, _sample, picture, folder.name, gallery, options, choices)
            index += 1


def _sniff(look: Look) -> bool:
    path = look.path
    return isinstance(path, Path) and path.is_dir() and any(picture_files(folder) for folder in class_folders(path))


FORMATS.register("class_folders")(
    Format("class_folders", "a folder of class folders: pictures, and what they show", _sniff, _read, Options)
)
