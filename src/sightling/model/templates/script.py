"""A conversation as a template writes it: an order of its own strings, words, pictures and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sightling.data.sample import Part, Picture, Turn
from sightling.errors import UserError
from sightling.model.templates.base import Template


@dataclass(frozen=True, slots=True)
class Said:
    """The template's own text; control tokens in it are control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """What a user or a system says; it holds no control token."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What an assistant says; ``counted`` where the loss counts it."""

    text: str
    counted: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """The token that ends an answer."""

    counted: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of the turn ``turn``, ``number`` pictures behind the first.

    ``joined`` where the close of the picture before it serves as its opening.
    """

    picture: Picture
    number: int
    turn: int
    joined: bool = False


Step = Said | Words | Answer | Stop | Shown


def script(form: Template, turns: Sequence[Turn], prompt_only: bool = False, finished: bool = True) -> Iterator[Step]:
    """The steps that write a conversation.

    Args:
        form: the template.
        turns: at least one.
        prompt_only: the assistant's opening follows the last turn.
        finished: whether the last turn, an assistant's, ends.

    Raises:
        UserError: a role that the template lacks, a user turn without a picture where only those are shown, or a
            system's turn that has no user turn to stand in.
    """
    yield from _Script(form, turns, prompt_only, finished).steps()


class _Script:
    def __init__(self, form: Template, turns: Sequence[Turn], prompt_only: bool, finished: bool) -> None:
        self.form, self.turns, self.prompt_only, self.finished = form, turns, prompt_only, finished
        self.number = 0
        self.held: list[Step] = []
        self.begin = form.begin

    def steps(self) -> Iterator[Step]:
        form, turns = self.form, self.turns
        if not form.begin_behind:
            yield from self._begin()
        seen = any(isinstance(part, Picture) for turn in turns for part in turn.parts)
        if form.system is not None and turns[0].role != "system" and not (form.system_unseen and seen):
            default = Said(form.opens["system"] + form.system + form.closes["system"])
            if form.system_inside:
                self.held.append(default)
            else:
                yield default
        for index, turn in enumerate(turns):
            if turn.role not in form.opens:
                raise UserError(f"turn {index} has the role {turn.role!r}; known are {sorted(form.opens)}")
            if turn.role == "system" and form.system_inside:
                self.held += self._turn(index, turn)
                continue
            yield from self._turn(index, turn)
        if self.held:
            raise UserError(
                f"the chat template {form.name!r} writes the system's words into a user turn; there is none"
            )
        if self.prompt_only:
            yield Said(form.open("assistant", last=True))

    def _begin(self) -> Iterator[Step]:
        if self.begin:
            yield Said(self.begin)
            self.begin = ""

    def _turn(self, index: int, turn: Turn) -> Iterator[Step]:
        form, last = self.form, index == len(self.turns) - 1
        yield Said(form.open(turn.role, last))
        if turn.role == "user":
            yield from self.held
            self.held = []
        head, stops, rest = form.ending(last) if turn.role == "assistant" else ("", False, form.close(turn.role, last))
        if last and not self.finished:
            head = rest = ""
            stops = False
        yield from self._body(index, turn, head)
        yield from self._begin()
        if stops:
            yield Stop(turn.supervised)
            if last:
                # What follows the stop token of the last turn teaches nothing; it is not spent on.
                return
        yield Said(rest)

    def _body(self, index: int, turn: Turn, tail: str) -> Iterator[Step]:
        form, answers = self.form, turn.role == "assistant"
        parts = self._parts(index, turn)
        words = form.leads.get(turn.role, "") if not parts or isinstance(parts[0], str) else ""
        asked, before = False, None
        for part in parts:
            if part == "":
                continue
            if isinstance(part, str):
                if isinstance(before, Picture) and not part.startswith(form.after_picture):
                    words += form.after_picture
                if isinstance(before, Picture) and part[0] != "<" and not part[0].isspace():
                    words += form.apart
                if not asked and turn.role == "user":
                    words += form.asks
                    asked = True
                words += part
            else:
                if isinstance(before, str) and not before.endswith(form.after_words):
                    words += form.after_words
                elif isinstance(before, Picture):
                    words += form.after_picture
                yield from self._say(words, turn, answers)
                words = ""
                yield Shown(part, self.number, index, form.merged and isinstance(before, Picture))
                self.number += 1
            before = part
        yield from self._say(words + tail, turn, answers)

    def _say(self, words: str, turn: Turn, answers: bool) -> Iterator[Step]:
        if answers:
            yield from self._begin()
            yield Answer(words, turn.supervised)
        elif words:
            yield from self._begin()
            yield Words(words)

    def _parts(self, index: int, turn: Turn) -> list[Part]:
        """A turn's parts in the template's order, words that touch joined."""
        form = self.form
        pictures: list[Part] = [part for part in turn.parts if isinstance(part, Picture)]
        if form.wordless and turn.role == "user":
            if not pictures:
                raise UserError(
                    f"the chat template {form.name!r} shows pictures only; turn {index} ({turn.role}) holds none"
                )
            return pictures
        ordered = list(turn.parts)
        if form.picture_first and len(pictures) == 1:
            ordered = pictures + [part for part in turn.parts if isinstance(part, str)]
        parts: list[Part] = []
        for part in ordered:
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return parts
