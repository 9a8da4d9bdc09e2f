"""What the conversation formats share: ``<image>`` marks, roles, and the rules that turns obey.

Several pictures, several marks: the first mark stands for the first picture. The line break that LLaVA's data puts
between a mark and the text is part of the mark, so ``"<image>\\nWhat is it?"`` is a picture and ``"What is it?"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sightling.data.formats.base import RecordError, kind_of
from sightling.data.sample import Part, Picture, Role, Turn

MARK = "<image>"

ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


def role_of(name: Any, turn: int) -> Role:
    """The role a foreign name stands for.

    Raises:
        RecordError: an unknown one; the message names the turn.
    """
    if not isinstance(name, str) or name not in ROLES:
        raise RecordError(f"turn {turn} has the role {name!r}; known are {', '.join(sorted(ROLES))}")
    return ROLES[name]


def text_of(value: Any, turn: int) -> str:
    """``value`` when it is a string; else a :class:`RecordError` that names the turn."""
    if not isinstance(value, str):
        raise RecordError(f"turn {turn} holds {kind_of(value)} where its text should be")
    return value


def place_pictures(turns: Sequence[tuple[Role, str]], pictures: Sequence[Picture]) -> tuple[Turn, ...]:
    """Turns with each ``<image>`` mark replaced by the next picture.

    Raises:
        RecordError: marks and pictures differ in number (both are told), or a mark stands outside a user turn.
    """
    marks = sum(text.count(MARK) for _, text in turns)
    if marks != len(pictures):
        raise RecordError(f"{_count(marks, f'{MARK} mark')}, but {_count(len(pictures), 'picture')}")
    upcoming = iter(pictures)
    placed = []
    for number, (role, text) in enumerate(turns):
        if MARK in text and role != "user":
            raise RecordError(f"turn {number} ({role}) holds {MARK}; pictures stand in user turns only")
        placed.append(Turn(role, tuple(_parts(text, upcoming))))
    return tuple(placed)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _parts(text: str, pictures: Iterable[Picture]) -> Iterable[Part]:
    upcoming = iter(pictures)
    pieces = text.split(MARK)
    for number, piece in enumerate(pieces):
        if number:
            yield next(upcoming)
            piece = piece.removeprefix("\n")
        if number < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece:
            yield piece


def check_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns, when they can teach: a system turn first if any, then user and assistant in turns, nothing empty.

    Raises:
        RecordError: with everything that is wrong.
    """
    problems = []
    talk = [(number, turn) for number, turn in enumerate(turns) if turn.role != "system"]
    for number, turn in enumerate(turns):
        if turn.role == "system" and number > 0:
            problems.append(f"turn {number} has the role 'system'; only the first turn may")
    for position, (number, turn) in enumerate(talk):
        expected = "user" if position % 2 == 0 else "assistant"
        if turn.role != expected:
            problems.append(f"turn {number} has the role {turn.role!r}; expected {expected!r}")
            break
    if not any(turn.role == "assistant" for turn in turns):
        problems.append("no answer: there is no assistant turn")
    elif talk[-1][1].role != "assistant":
        problems.append(f"no answer: the last turn, {talk[-1][0]}, is the user's")
    for number, turn in talk:
        if turn.role == "assistant" and not turn.text.strip():
            problems.append(f"empty answer: turn {number} (assistant) has no text")
        elif turn.role == "user" and not turn.text.strip() and not turn.pictures:
            problems.append(f"turn {number} (user) is empty")
    if problems:
        raise RecordError(*problems)
    return tuple(turns)
