"""Plain text as a source: files, and the words of the small world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from pydantic import Field, field_validator

from sightling.data.source import own_order
from sightling.data.sources import SOURCES, Source
from sightling.data.world import WorldOptions, WorldSource
from sightling.errors import UserError
from sightling.parts import Part, make
from sightling.registry import Registry
from sightling.world.questions import FAMILIES


class TextSource(Protocol):
    """Texts by index."""

    def __len__(self) -> int:
        """How many texts there are; 0 says endless."""
        ...

    def text(self, index: int) -> str:
        """One text; the same index gives the same text."""
        ...


class TextOptions(Part, ABC):
    """The ``data`` section of what learns from text alone; each type registers in :data:`TEXTS`."""

    @abstractmethod
    def open(self, seed: int) -> TextSource:
        """The source itself."""


TEXTS: Registry[type[TextOptions]] = Registry("text source")


class WorldText:
    """What could be said about the small world: one question with its answer a text. No picture is drawn."""

    def __init__(self, source: WorldSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.length

    def text(self, index: int) -> str:
        """A question and its answer, or a caption alone, about scene ``index``."""
        samples = self.source.words(index)
        sample = samples[Random(index).randrange(len(samples))]
        question, answer = (turn.text for turn in sample.turns)
        caption = FAMILIES[sample.meta["family"]].judged == "things"
        return answer if caption else f"{question}\n{answer}"


@TEXTS.register("world")
class WorldTextOptions(TextOptions, WorldOptions):
    """The same keys as the ``world`` data source; ``image_size`` is not used."""

    questions_per_picture: int = Field(default=1, ge=1)

    def open(self, seed: int) -> WorldText:  # type: ignore[override]
        """Texts of this section's scenes."""
        return WorldText(WorldOptions.open(self, seed))


class SampleText:
    """The words of any source of samples, questions and answers alike, one text a group."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def order(self, seed: int) -> Sequence[int] | None:
        """The source's own order."""
        return own_order(self.source, seed)

    def text(self, index: int) -> str:
        """What is said in group ``index``, a turn a line."""
        return "\n".join(turn.text for sample in self.source.group(index) for turn in sample.turns)


@TEXTS.register("samples")
class SampleTextOptions(TextOptions):
    """The words of a data source: ``data`` is a ``data`` section of its own."""

    data: dict[str, Any]

    @field_validator("data")
    @classmethod
    def _data(cls, value: dict[str, Any]) -> dict[str, Any]:
        make(SOURCES, value, "data")
        return value

    def check(self) -> None:
        """Look for what the data section names.

        Raises:
            UserError: it does not exist, or is in no known format.
        """
        make(SOURCES, self.data, "data").check()

    def open(self, seed: int) -> SampleText:
        """Texts of that source."""
        return SampleText(make(SOURCES, self.data, "data").open(seed))


class Lines:
    """The lines of a text file that hold anything, in memory."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def text(self, index: int) -> str:
        """One line."""
        return self.lines[index]


@TEXTS.register("file")
class FileTextOptions(TextOptions):
    """A UTF-8 text file, one text a line."""

    path: str

    def check(self) -> None:
        """Look for the file.

        Raises:
            UserError: no such file.
        """
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError(f"text file {path} does not exist")

    def open(self, seed: int) -> Lines:
        """The file's lines.

        Raises:
            UserError: no such file, not readable, no UTF-8, or nothing in it.
        """
        self.check()
        path = Path(self.path).expanduser()
        try:
            # Only a line break ends a text: splitlines would cut at a dozen rarer characters too.
            lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except OSError as error:
            raise UserError(f"text file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"text file {path} is not UTF-8: {error.reason} at byte {error.start}") from None
        if not lines:
            raise UserError(f"text file {path} is empty")
        return Lines(lines)
