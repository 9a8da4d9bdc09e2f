"""Key names of two layouts, as a table that is read both ways.

A :class:`Rule` says which of our tensors are which of theirs. In a template ``*`` stands for any rest and ``#`` for
a number; both sides have the same ones in the same order. ``@`` on their side counts tensors that are one of ours,
stacked along its first axis (experts).

What a file must hold follows from the table and the model's own keys and shapes: :meth:`Table.write` on tensors
without memory gives the names and shapes to expect, on real ones the file to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sightling.errors import UserError

Change = Callable[[list[Tensor]], list[Tensor]]
"""Tensors of one side, in the order of its templates, to those of the other side."""


def _unchanged(tensors: list[Tensor]) -> list[Tensor]:
    return tensors


@dataclass(frozen=True)
class Rule:
    """Some of our tensors and what they are called elsewhere.

    Attributes:
        ours: templates of our keys.
        theirs: one or several ways to name them; a file uses one way throughout, the first is written by default.
        read: their tensors to ours; ``write`` the other way. Without them tensors pass as they are.
    """

    ours: tuple[str, ...]
    theirs: tuple[tuple[str, ...], ...]
    read: Change = _unchanged
    write: Change = _unchanged

    @property
    def name(self) -> str:
        """What a saved choice of names is filed under."""
        return self.ours[0]


def same(ours: str, *theirs: str) -> Rule:
    """The same tensor under another name; several names where several are in use, the usual one first."""
    return Rule((ours,), tuple((one,) for one in theirs))


def changed(ours: str, theirs: str, read: Callable[[Tensor], Tensor], write: Callable[[Tensor], Tensor]) -> Rule:
    """One tensor whose numbers lie in another order there."""
    return Rule((ours,), ((theirs,),), lambda one: [read(one[0])], lambda one: [write(one[0])])


def joined(ours: Sequence[str], theirs: str, axis: int = 0) -> Rule:
    """Several tensors of ours, of equal shape, that are one of theirs, one behind the other along ``axis``."""
    return Rule(
        tuple(ours), ((theirs,),),
        read=lambda one: list(one[0].chunk(len(ours), axis)), write=lambda several: [torch.cat(several, axis)],
    )  # fmt: skip


def split(ours: str, *theirs: Sequence[str], axis: int = 0) -> Rule:
    """One tensor of ours that is several of theirs, of equal shape, along ``axis``; each way to name them a list."""
    count = len(theirs[0])
    return Rule(
        (ours,), tuple(map(tuple, theirs)),
        read=lambda several: [torch.cat(several, axis)], write=lambda one: list(one[0].chunk(count, axis)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Step:
    """One use of a rule: keys on both sides; a key of theirs with ``@`` is a stack."""

    rule: Rule
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


class Table:
    """The rules of a layout; of several rules that fit a key, the first counts.

    Args:
        layout: the layout's name, for messages.
        rules: what is called how.
    """

    def __init__(self, layout: str, rules: Sequence[Rule]) -> None:
        self.layout = layout
        self.rules = tuple(rules)

    def _steps(self, ours: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> Iterator[_Step]:
        """The rules as they apply to these keys of ours, every key once.

        Raises:
            UserError: a key for which the layout has no name.
        """
        rest = dict.fromkeys(ours)
        for rule in self.rules:
            chosen = names.get(rule.name)
            theirs = tuple(chosen) if chosen is not None else rule.theirs[0]
            for key in list(rest):
                found = _pattern(rule.ours[0]).fullmatch(key)
                if found is None:
                    continue
                filled = tuple(_fill(template, found.groups()) for template in rule.ours)
                if all(one in rest for one in filled):
                    for one in filled:
                        del rest[one]
                    yield _Step(rule, filled, tuple(_fill(template, found.groups()) for template in theirs))
        if rest:
            key = next(iter(rest))
            more = f" (and {len(rest) - 1} more)" if len(rest) > 1 else ""
            raise UserError(f"the layout {self.layout!r} has no name for the model's weights {key}{more}")

    def names(self, ours: Mapping[str, Tensor], theirs: Sequence[str]) -> dict[str, list[str]]:
        """Which of its ways to name things a file uses: the templates by the rule, where a rule offers several."""
        there = set(theirs)
        chosen = {}
        for rule in self.rules:
            if len(rule.theirs) > 1:
                alone = Table(self.layout, [rule])
                kept = {key: one for key, one in ours.items() if _pattern(rule.ours[0]).fullmatch(key)}
                # Of a stack the first stands for all.
                hits = [
                    sum(name.replace("@", "0") in there for step in alone._steps(kept, way) for name in step.theirs)
                    for way in ({rule.name: one} for one in rule.theirs)
                ]
                chosen[rule.name] = list(rule.theirs[hits.index(max(hits))])
        return chosen

    def write(self, ours: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """Our tensors under their names.

        Raises:
            UserError: a key for which the layout has no name.
        """
        made: dict[str, Tensor] = {}
        for step in self._steps(ours, names):
            tensors = step.rule.write([ours[key] for key in step.ours])
            for name, tensor in zip(step.theirs, tensors, strict=True):
                if "@" in name:
                    made.update((name.replace("@", str(index)), one) for index, one in enumerate(tensor))
                else:
                    made[name] = tensor
        return made

    def read(
        self, ours: Mapping[str, Tensor], theirs: Callable[[str], Tensor], names: Mapping[str, Sequence[str]]
    ) -> dict[str, Tensor]:
        """Their tensors under our names; ``ours`` says which, with shapes, ``theirs`` fetches one by its name.

        The file was compared with what :meth:`write` expects before.
        """
        made: dict[str, Tensor] = {}
        for step in self._steps(ours, names):
            expected = step.rule.write([ours[key] for key in step.ours])
            tensors = []
            for name, like in zip(step.theirs, expected, strict=True):
                if "@" in name:
                    tensors.append(torch.stack([theirs(name.replace("@", str(index))) for index in range(len(like))]))
                else:
                    tensors.append(theirs(name))
            made.update(zip(step.ours, step.rule.read(tensors), strict=True))
        return made


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\*", "(.+)").replace(r"\#", r"(\d+)")
    return re.compile(escaped)


def _fill(template: str, values: Sequence[str | None]) -> str:
    """A template with what its wildcards stood for."""
    upcoming = iter(values)
    return re.sub(r"[*#]", lambda _: str(next(upcoming)), template)
