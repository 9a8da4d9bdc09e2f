"""easy-VQA: a JSON array of ``[question, answer, image id]`` with ``images/<id>.png`` beside it.

Hold out by picture: a picture's questions answer one another. Source: https://github.com/vzhou842/easy-VQA.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightling.data.formats.base import FORMATS, Format, Gallery, Look, Record, RecordError, json_records, kind_of
from sightling.data.jsonrows import json_rows
from sightling.data.sample import Sample, question
from sightling.parts import Part

ANSWERS_FILE = "answers.txt"


def answer_set(path: Path) -> tuple[str, ...]:
    """Every answer: those of ``answers.txt`` beside the file or one folder up, else those that occur in the file."""
    for folder in (path.parent, path.parent.parent):
        listed = folder / ANSWERS_FILE
        if listed.is_file():
            return tuple(sorted({line.strip() for line in listed.read_text(encoding="utf-8").splitlines()} - {""}))
    return tuple(sorted({str(row.value[1]) for row in json_rows(path) if _is_triple(row.value)}))


def family_of(text: str) -> str:
    """The question's family from its words: ``"existence"`` (yes or no), ``"color"`` or ``"shape"``."""
    words = text.lower().split()
    if words[:1] != ["what"]:
        return "existence"
    return "color" if words[1:2] in (["color"], ["colour"]) or "the color of" in text.lower() else "shape"


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], str)


def _sample(value: Any, gallery: Gallery, choices: tuple[str, ...]) -> Sample:
    if not _is_triple(value) or isinstance(value[2], bool) or not isinstance(value[2], (int, str)):
        what = f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
        raise RecordError(f"is {what}; expected [question, answer, image id]")
    text, answer, image = value[0].strip(), value[1].strip(), value[2]
    problems = ["the question is empty"] if not text else []
    if not answer:
        problems.append("empty answer")
    elif answer not in choices:
        problems.append(f"the answer {answer!r} is not in {ANSWERS_FILE}")
    if problems:
        raise RecordError(*problems)
    return question(
        text,
        gallery.picture(f"{image}.png"),
        answer=answer,
        source="easy_vqa",
        family=family_of(text),
        language="en",
        choices=choices,
        id=image,
    )


def _read(path: Path, images_root: Path | None, options: Part) -> Iterator[Record]:
    return json_records(path, _sample, Gallery(images_root or path.parent / "images"), answer_set(path))


def _sniff(look: Look) -> bool:
    return bool(look.rows) and _is_triple(look.rows[0])


FORMATS.register("easy_vqa")(Format("easy_vqa", "easy-VQA: [question, answer, image id] triples", _sniff, _read))
