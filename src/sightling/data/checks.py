"""Looking a data set through before it is trained on: what it is, how much there is, and every bad record."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sightling.data.formats import checked_root, open_data
from sightling.data.pictures import open_picture, picture_size
from sightling.data.sample import Picture, Sample
from sightling.data.splits import picture_identity
from sightling.errors import UserError


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one record; ``index`` is ``None`` for what is wrong with the file as a whole."""

    index: int | None
    line: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the median (the lower of two middle values) and the most of some numbers."""

    least: int
    median: int
    most: int

    @classmethod
    def of(cls, counts: Counter[int]) -> Spread | None:
        """The spread of numbers with their multiplicities; ``None`` of none."""
        if not counts:
            return None
        middle = (sum(counts.values()) - 1) // 2
        for value in sorted(counts):
            middle -= counts[value]
            if middle < 0:
                break
        return cls(min(counts), value, max(counts))


@dataclass(slots=True)
class CheckReport:
    """What :func:`check` found.

    Attributes:
        path, format, description: the file and what it was recognised as.
        records: records read, good and bad.
        samples: good ones.
        text_only: good ones without a picture.
        turns, pictures: in good records; a picture that stands twice counts twice.
        unique_pictures: different files or bytes among all pictures looked at.
        question_chars, answer_chars: characters of a user's and of an assistant's turn.
        width, height: pixels of unique pictures.
        problems: every bad record's problems, and a last one with no index when the file breaks off.
    """

    path: str
    format: str
    description: str
    records: int = 0
    samples: int = 0
    text_only: int = 0
    turns: int = 0
    pictures: int = 0
    unique_pictures: int = 0
    question_chars: Spread | None = None
    answer_chars: Spread | None = None
    width: Spread | None = None
    height: Spread | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """How many records are bad."""
        return self.records - self.samples

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong and there is something."""
        return not self.problems and self.samples > 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "bad": self.bad, "clean": self.clean}


def check(
    path: str | Path,
    format: str | None = None,
    *,
    images_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    decode: bool = True,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Read every record and open every picture once.

    Args:
        path, format, images_root, options: as :func:`sightling.data.formats.read_records`.
        decode: decode pictures wholly; ``False`` reads their headers only, which finds missing files and files that
            are no pictures, but not those whose pixels are corrupt.
        progress: called with the number of records read so far.

    Raises:
        UserError: the path does not exist or is in no known format, or an option is wrong. What is wrong inside the
            data is reported, not raised.
    """
    file, chosen, checked = open_data(path, format, options)
    root = checked_root(images_root)
    report = CheckReport(str(file), chosen.name, chosen.description)
    pictures = _Pictures(decode)
    questions: Counter[int] = Counter()
    answers: Counter[int] = Counter()
    records = iter(chosen.read(file, root, checked))
    while True:
        try:
            record = next(records, None)
        except UserError as error:
            report.problems.append(Problem(None, None, str(error)))
            break
        if record is None:
            break
        report.records += 1
        problems = list(record.problems)
        if record.sample is not None:
            problems += pictures.problems(record.sample.pictures())
        if record.sample is not None and not problems:
            _count(record.sample, report, questions, answers)
        report.problems += [Problem(record.index, record.line, problem) for problem in problems]
        if progress is not None:
            progress(report.records)
    if not report.records and not report.problems:
        report.problems.append(Problem(None, None, f"{file} holds no records"))
    report.unique_pictures = len(pictures.known)
    report.question_chars, report.answer_chars = Spread.of(questions), Spread.of(answers)
    report.width, report.height = Spread.of(pictures.widths), Spread.of(pictures.heights)
    return report


def _count(sample: Sample, report: CheckReport, questions: Counter[int], answers: Counter[int]) -> None:
    shown = len(list(sample.pictures()))
    report.samples += 1
    report.text_only += not shown
    report.turns += len(sample.turns)
    report.pictures += shown
    for turn in sample.turns:
        if turn.role == "user":
            questions[len(turn.text)] += 1
        elif turn.role == "assistant":
            answers[len(turn.text)] += 1


class _Pictures:
    """Pictures looked at, each file once: its size, or what is wrong with it."""

    def __init__(self, decode: bool) -> None:
        self.decode = decode
        self.known: dict[Path | str, tuple[int, int] | str] = {}
        self.widths: Counter[int] = Counter()
        self.heights: Counter[int] = Counter()

    def problems(self, pictures: Iterable[Picture]) -> list[str]:
        """What is wrong with these pictures, each told once."""
        found: dict[str, None] = {}
        for picture in pictures:
            known = self._look(picture)
            if isinstance(known, str):
                found[known] = None
            elif picture.box is not None and not _within(picture.box, known):
                found[
                    f"the box {picture.box} does not lie within picture {picture.name} of {known[0]} x {known[1]}"
                ] = None
        return list(found)

    def _look(self, picture: Picture) -> tuple[int, int] | str:
        identity = picture_identity(picture)
        if identity not in self.known:
            self.known[identity] = seen = self._open(picture)
            if not isinstance(seen, str):
                self.widths[seen[0]] += 1
                self.heights[seen[1]] += 1
        return self.known[identity]

    def _open(self, picture: Picture) -> tuple[int, int] | str:
        if picture.image is not None:
            return picture.image.size
        source = picture.path if picture.path is not None else io.BytesIO(picture.data or b"")
        try:
            return open_picture(source, picture.name).size if self.decode else picture_size(source, picture.name)
        except UserError as error:
            return str(error)


def _within(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    return 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
