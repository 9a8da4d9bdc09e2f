"""What a reader made of a file, in a form that a test can compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import makers

from sightling.data.formats import Record, read_records
from sightling.data.sample import Picture, Sample


def shape(sample: Sample) -> list[tuple[str, list[str]]]:
    """Roles and parts; a picture as ``@`` and its file's name."""
    return [
        (
            turn.role,
            [
                f"@{part.path.name if part.path else 'data'}" if isinstance(part, Picture) else part
                for part in turn.parts
            ],
        )
        for turn in sample.turns
    ]


def records(path: Path, **more: Any) -> list[Record]:
    return list(read_records(path, **more))


def problems(path: Path, **more: Any) -> list[str]:
    return [problem for record in read_records(path, **more) for problem in record.problems]


def image_url(url: str) -> list[dict[str, Any]]:
    """A turn's content that is one picture."""
    return [{"type": "image_url", "image_url": {"url": url}}]


def one_problem(folder: Path, record: dict[str, Any], **more: Any) -> str:
    (record_read,) = records(makers.write_json(folder / "it.json", [record]), **more)
    assert record_read.sample is None
    return "; ".join(record_read.problems)
