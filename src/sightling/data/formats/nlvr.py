"""NLVR v1: a statement about a picture of three boxes, and whether it is true.

One JSON object a line; pictures in ``images/<directory>/<split>-<identifier>-<k>.png`` beside the file, ``k`` one of
the six orders of the boxes. Pictures are 400 x 100: three boxes of 100 x 100 at x = 0, 150 and 300.
Split by ``directory``, never at random: many pictures differ only in the order of the boxes.
Source: Suhr et al., A Corpus of Natural Language for Visual Reasoning, ACL 2017; https://github.com/lil-lab/nlvr.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sightling.data.formats.base import (
    FORMATS,
    Format,
    Gallery,
    Look,
    Record,
    RecordError,
    kind_of,
    make_record,
    mapping,
    row_sample,
)
from sightling.data.jsonrows import json_rows
from sightling.data.sample import Sample, question
from sightling.errors import UserError
from sightling.parts import Part

BOXES = ((0, 0, 100, 100), (150, 0, 250, 100), (300, 0, 400, 100))
ORDERS = 6
ANSWERS = ("true", "false")
KEYS = ("sentence", "label", "identifier", "directory")


class Options(Part):
    """How NLVR's records become samples.

    Attributes:
        three: the three boxes as three pictures, left to right, instead of one wide picture.
        orders: ``"first"`` for k = 0 only; ``"all"`` for all six (the published accuracies of dev count all six).
        question: the user's words; ``{sentence}`` stands for the statement.
        drop_ambiguous: leave out rows marked ``neg_ambiguous`` (reconstructed sentences that may lack a "not").
    """

    three: bool = False
    orders: Literal["first", "all"] = "first"
    question: str = "{sentence}"
    drop_ambiguous: bool = False


def _split(path: Path, images: Path, record: dict[str, Any]) -> str:
    """The first word of the pictures' names: the file's (``dev.json``) or its folder's (``train/...jsonl``)."""
    candidates = dict.fromkeys((path.stem.split("_")[0], path.parent.name, path.stem))
    for name in candidates:
        if (images / str(record["directory"]) / f"{name}-{record['identifier']}-0.png").exists():
            return name
    return path.stem.split("_")[0]


def _sample(value: Any, split: str, order: int, gallery: Gallery, options: Options) -> Sample:
    record = mapping(value)
    for key in KEYS:
        if key not in record:
            raise RecordError(f"there is no {key!r}")
    label = str(record["label"]).lower()
    if label not in ANSWERS:
        raise RecordError(f"the label is {record['label']!r}; known are {', '.join(ANSWERS)}")
    sentence = record["sentence"]
    if not isinstance(sentence, str) or not sentence.strip():
        raise RecordError(f"the sentence is {'empty' if isinstance(sentence, str) else kind_of(sentence)}")
    name = f"{record['directory']}/{split}-{record['identifier']}-{order}.png"
    pictures = [gallery.picture(name, box) for box in (BOXES if options.three else (None,))]
    return question(
        options.question.replace("{sentence}", sentence.strip()),
        *pictures,
        answer=label,
        source="nlvr",
        family="statement",
        language="en",
        choices=ANSWERS,
        id=str(record["identifier"]),
        directory=str(record["directory"]),
        order=order,
    )


def _read(path: Path, images_root: Path | None, options: Options) -> Iterator[Record]:
    if "{sentence}" not in options.question:
        raise UserError(f"the question {options.question!r} does not hold {{sentence}}")
    images = images_root or path.parent / "images"
    gallery = Gallery(images)
    split = ""
    index = 0
    for row in json_rows(path):
        record = row.value if isinstance(row.value, dict) else {}
        if not split and {"directory", "identifier"} <= record.keys():
            split = _split(path, images, record)
        if options.drop_ambiguous and record.get("neg_ambiguous"):
            continue
        for order in range(ORDERS if options.orders == "all" else 1):
            yield make_record(path, index, row.line, row_sample, row, _sample, split, order, gallery, options)
            index += 1


def _sniff(look: Look) -> bool:
    return any(set(KEYS) <= record.keys() for record in look.records)


FORMATS.register("nlvr")(Format("nlvr", "NLVR v1: statements about three boxes, true or false", _sniff, _read, Options))
