"""The one record that everything speaks: turns of text and pictures.

Pictures are parts of their own, never marks inside a text, so no text that a user writes can
become a picture or a control token. A reader turns a foreign layout into samples; the processor
turns samples into tokens.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from sightling.data.pictures import WHITE, open_picture, picture_size, to_rgb, upright
from sightling.errors import UserError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Notes:
    """What other models say of a picture, in words, where its data bring that along; ``""`` is "nothing found".

    ``tags`` and ``boxes`` are listed with commas; a box as :mod:`sightling.world.grounding` writes it.
    """

    caption: str = ""
    tags: str = ""
    boxes: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture by path, by encoded bytes, or already decoded; exactly one of the three is set.

    ``box`` optionally names a crop ``(left, top, right, bottom)`` in pixels, as NLVR's three boxes are.
    ``tiles`` optionally bounds what it may cost: a tiling scheme cuts it into so many tiles at most.
    ``label`` says where bytes are from, for error messages.
    ``notes`` are what other models say of it, for a model that is handed such words; None where nobody was asked.
    Compared by identity: samples that share one ``Picture`` object share its tokens in a packed row.
    """

    path: Path | None = None
    data: bytes | None = None
    image: Image.Image | None = None
    box: tuple[int, int, int, int] | None = None
    tiles: int | None = None
    notes: Notes | None = None
    label: str = ""

    def __post_init__(self) -> None:
        given = sum(part is not None for part in (self.path, self.data, self.image))
        if given != 1:
            raise ValueError(f"a picture needs exactly one of path, data, image; {given} were given")
        if self.image is not None:
            object.__setattr__(self, "image", upright(self.image))

    @property
    def name(self) -> str:
        """The path, or where it is from, or what the picture is: for error messages."""
        if self.path is not None or self.label:
            return self.label or str(self.path)
        return f"<{len(self.data)} bytes>" if self.data is not None else "<image in memory>"

    def load(self, ground: tuple[int, int, int] = WHITE) -> Image.Image:
        """Decode to an RGB image (alpha over ``ground``, EXIF rotation applied).

        Raises:
            UserError: missing, corrupt, not a picture, larger than the pixel limit, or smaller than the box.
        """
        if self.image is not None:
            # A picture in memory is treated as a file is: alpha lies over the ground.
            plain = self.image.mode == "RGB" and "transparency" not in self.image.info
            image = self.image if plain else to_rgb(self.image, ground)
        else:
            source = self.path if self.path is not None else io.BytesIO(self.data or b"")
            image = open_picture(source, self.name, ground)
        if self.box is None:
            return image
        left, top, right, bottom = self.box
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            # Pillow would fill what lies outside with black, in silence.
            whole = f"{image.width} x {image.height}"
            raise UserError(f"the box {self.box} does not lie within picture {self.name} of {whole}")
        return image.crop(self.box)

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, read from the header without decoding."""
        if self.box is not None:
            return self.box[2] - self.box[0], self.box[3] - self.box[1]
        if self.image is not None:
            return self.image.size
        return picture_size(self.path if self.path is not None else io.BytesIO(self.data or b""), self.name)

    def key(self) -> str:
        """A SHA-256 of the content, the crop and the budget: pictures of equal keys have equal tokens.

        Raises:
            UserError: the file cannot be read.
        """
        digest = hashlib.sha256()
        if self.image is not None:
            # As RGB: the bytes of a picture with a palette do not tell its colours.
            shown = self.load() if self.box is None else replace(self, box=None).load()
            digest.update(f"{shown.size}".encode() + shown.tobytes())
        else:
            digest.update(self._encoded())
        digest.update(repr((self.box, self.tiles)).encode())
        return digest.hexdigest()

    def _encoded(self) -> bytes:
        if self.path is None:
            return self.data or b""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(f"picture {self.name} cannot be read: {error.strerror}") from None


Part = str | Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: a role and its parts in order, texts and pictures.

    ``supervised`` is read for assistant turns only: whether the loss counts this turn.
    """

    role: Role
    parts: tuple[Part, ...]
    supervised: bool = True

    @property
    def text(self) -> str:
        """The turn's text parts joined; pictures leave nothing behind."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The turn's picture parts, in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation with its pictures and whatever is known about it.

    ``meta`` carries what evaluation groups by (``family``, ``language``, ``source``, ``id`` ...)
    and, for the small world, the exact ``scene``. The model never sees it.
    """

    turns: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def pictures(self) -> Iterator[Picture]:
        """Every picture of the conversation, in order (one that stands twice comes twice)."""
        for turn in self.turns:
            yield from turn.pictures

    @property
    def answer(self) -> str:
        """The text of the last assistant turn; empty when there is none."""
        for turn in reversed(self.turns):
            if turn.role == "assistant":
                return turn.text
        return ""


def question(text: str, *pictures: Picture, answer: str | None = None, **meta: Any) -> Sample:
    """The commonest sample: pictures, one question, perhaps its answer.

    Example: ``question("what colour is it?", picture, answer="red", family="color")``.
    """
    turns = [Turn("user", (*pictures, text))]
    if answer is not None:
        turns.append(Turn("assistant", (answer,)))
    return Sample(tuple(turns), meta)
