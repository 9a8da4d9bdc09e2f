"""What a chat template can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sightling.registry import Registry

END = "<|endoftext|>"
IMAGE = "<|image_pad|>"
PICTURE_KINDS = ("image", "image_url")
"""The types of a message's parts that are pictures."""


@dataclass(frozen=True, slots=True)
class Template:
    """A chat format: strings around turns and pictures, and what of them are control tokens.

    Attributes:
        name: as it is registered.
        control: every control token; text that a user writes never becomes one of them.
        opens: what stands before a turn of each role. The assistant's is the generation prompt.
        closes: what stands after a turn of each role.
        opening: what opens the assistant's last turn instead, and is the generation prompt.
        stop: what ends an answer: a control token, or text that the vocabulary has as one token. Where it stands in
            the assistant's close, the model writes what is before it and itself; both are supervised.
        before_image: what stands before a picture's placeholders; ``{n}`` becomes the picture's number.
        after_image: what stands behind them.
        uncut: what stands directly before the placeholders where the tiling puts no words of its own there.
        image: the placeholder, one for every visual token.
        pad: what fills a row.
        begin: what stands before the first turn.
        begin_behind: the beginning stands behind the pictures that the first turn opens with.
        system: the system's message where none is given; a system turn that comes first replaces it.
        system_unseen: that message is for conversations without pictures only.
        system_inside: the system's words, with what opens and closes them, stand inside the first user turn.
        leads: what stands before the words that a turn of a role begins with, and not before a picture. The model
            writes the assistant's itself: it is supervised, and no part of the generation prompt.
        asks: what stands before the first words of a user turn, wherever they stand in it.
        last: what closes the last turn of a role, where that differs.
        after_words: what stands between words and a picture behind them in a turn, unless the words end with it.
        after_picture: what stands between a picture and what follows it in its turn, unless words begin with it.
        apart: what stands between a picture and words behind it that begin with neither a blank nor ``<``.
        picture_first: the only picture of a turn is moved before its words.
        merged: of two pictures that touch, the second has no ``before_image``: the first one's close serves both.
        wordless: of user turns only the pictures are shown.
        first_number: the first picture's number.
        spelling: how the original writes a picture's placeholders, in equal parts; left out, as ``image``.
        stop_as_text: a language model from elsewhere may spell the stop in letters; an answer is cut there too.
    """

    name: str
    control: tuple[str, ...]
    opens: Mapping[str, str]
    closes: Mapping[str, str]
    stop: str
    opening: str = ""
    before_image: str = ""
    after_image: str = ""
    uncut: str = ""
    image: str = IMAGE
    pad: str = END
    begin: str = ""
    begin_behind: bool = False
    system: str | None = None
    system_unseen: bool = False
    system_inside: bool = False
    leads: Mapping[str, str] = field(default_factory=dict)
    asks: str = ""
    last: Mapping[str, str] = field(default_factory=dict)
    after_words: str = ""
    after_picture: str = ""
    apart: str = ""
    picture_first: bool = False
    merged: bool = False
    wordless: bool = False
    first_number: int = 1
    spelling: tuple[str, ...] = ()
    stop_as_text: bool = False

    @property
    def eos(self) -> str:
        """The end token that a tokenizer is given: the stop where it is a control token, what fills a row elsewhere."""
        return self.stop if self.stop in self.control else self.pad

    def open(self, role: str, last: bool) -> str:
        """What stands before a turn; before the last turn of an assistant, the generation prompt."""
        return self.opening if self.opening and last and role == "assistant" else self.opens[role]

    def close(self, role: str, last: bool) -> str:
        """What stands after a turn."""
        return self.last.get(role, self.closes[role]) if last else self.closes[role]

    def ending(self, last: bool = True) -> tuple[str, bool, str]:
        """An assistant's close: what the model writes before the stop, whether the stop is there, and the rest."""
        head, found, rest = self.close("assistant", last).partition(self.stop)
        return (head, True, rest) if found else ("", False, head)

    def before(self, number: int) -> str:
        """What stands before the picture that is ``number`` pictures behind the first."""
        return self.before_image.replace("{n}", str(self.first_number + number))

    def placeholders(self, count: int) -> str:
        """How ``count`` placeholders are written."""
        spelling = self.spelling or (self.image,)
        edges = [count * part // len(spelling) for part in range(len(spelling) + 1)]
        return "".join(one * (end - start) for one, start, end in zip(spelling, edges[:-1], edges[1:], strict=True))

    def jinja(self) -> str:
        """The same format in the Jinja form that transformers and serving engines read.

        Contents are a string or a list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}``
        parts; a picture becomes ONE placeholder there, which the processor expands.
        """
        from sightling.model.templates.jinja import jinja

        return jinja(self)


TEMPLATES: Registry[Template] = Registry("chat template")


def register(template: Template) -> Template:
    """Make a template known by its name."""
    return TEMPLATES.register(template.name)(template)


def roles(text: str) -> dict[str, str]:
    """The same string for each role; ``{role}`` in it becomes the role."""
    return {role: text.replace("{role}", role) for role in ("system", "user", "assistant")}
