"""Keys and values of rows of unequal length: slot ``t`` of a row holds its ``t``-th token.

Buffers are as long as the longest row and some room; a further token is written in place. Rows come, leave and are
repeated on their own: a row that leaves gives its place to the last one, so only that one is copied.

Legend: ``B`` rows, ``T`` tokens a row that are fed at once, ``S`` slots, ``G`` key-value heads, ``W`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROOM = 64
"""Slots are made in multiples of this many."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where tokens that are being fed lie.

    Attributes:
        starts: each row's slots that were filled before.
        sizes: how many tokens of each row are fed; shorter rows are padded behind.
        width: the largest of them.
        level: what was filled before where all rows agree on it, else None.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    width: int
    level: int | None

    @property
    def upto(self) -> int:
        """How many slots, from the first on, hold anything of any row."""
        return max(self.starts) + self.width

    @property
    def even(self) -> bool:
        """Whether every row begins and ends at the same slots."""
        return self.level is not None and min(self.sizes) == self.width


class Rows:
    """A batch's keys and values, layer by layer.

    Args:
        layers: how many.
        kv_heads: heads that have keys and values.
        head_width: their width.
        like: a tensor of their type on their device.

    Attributes:
        lengths: how many tokens each row holds.
        following: the position of each row's next word where none is told.
    """

    def __init__(self, layers: int, kv_heads: int, head_width: int, like: Tensor) -> None:
        self.lengths: list[int] = []
        self.following: list[int] = []
        self._layers, self._heads, self._width, self._like = layers, kv_heads, head_width, like
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._slots_BT: Tensor | None = None
        self._rows_B1: Tensor | None = None

    def __len__(self) -> int:
        """How many rows."""
        return len(self.lengths)

    def begin(self, rows: int) -> None:
        """Further empty rows behind those that are there."""
        self._make_room(len(self) + rows, 1)
        self.lengths += [0] * rows
        self.following += [0] * rows

    def open(self, sizes: Sequence[int]) -> Span:
        """Room for tokens behind each row's; until :meth:`close` the rows are as they were."""
        width = max(sizes)
        self._make_room(len(self), max(self.lengths) + width)
        level = self.lengths[0] if min(self.lengths) == max(self.lengths) else None
        if level is None:
            device = self._like.device
            starts_B1 = torch.tensor(self.lengths, device=device)[:, None]
            self._slots_BT = starts_B1 + torch.arange(width, device=device)
            self._rows_B1 = torch.arange(len(self), device=device)[:, None]
        return Span(tuple(self.lengths), tuple(sizes), width, level)

    def write(self, span: Span, layer: int, keys_BTGW: Tensor, values_BTGW: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values; all (keys_BGSW, values_BGSW) up to the span's end, not copied."""
        count = len(self)
        found = []
        for buffer, new_BTGW in ((self._keys[layer], keys_BTGW), (self._values[layer], values_BTGW)):
            held = buffer[:count]
            if span.level is not None:
                held[:, :, span.level : span.level + span.width] = new_BTGW.transpose(1, 2)
            else:
                held[self._rows_B1, :, self._slots_BT] = new_BTGW
            found.append(held[:, :, : span.upto])
        return found[0], found[1]

    def close(self, span: Span, following: Sequence[int]) -> None:
        """The tokens of a span belong to the rows from now on."""
        self.lengths = [start + size for start, size in zip(span.starts, span.sizes)]
        self.following = list(following)

    def drop(self, places: Sequence[int]) -> list[int]:
        """Let rows leave; which former row stands at each place now."""
        order = list(range(len(self)))
        for place in sorted(places, reverse=True):
            last = order.pop()
            if place < len(order):
                order[place] = last
        for place, former in enumerate(order):
            if former != place:
                for buffer in (*self._keys, *self._values):
                    buffer[place, :, : self.lengths[former]] = buffer[former, :, : self.lengths[former]]
        self._reorder(order)
        return order

    def repeat(self, order: Sequence[int]) -> None:
        """These rows, in this order, some of them perhaps several times."""
        if list(order) == list(range(len(self))):
            return
        index_B = torch.tensor(list(order), device=self._like.device)
        self._keys = [buffer[index_B] for buffer in self._keys]
        self._values = [buffer[index_B] for buffer in self._values]
        self._reorder(order)

    def join(self, other: Rows) -> None:
        """Take another batch's rows in, behind those that are there."""
        count = len(self)
        self._make_room(count + len(other), max(other.lengths, default=1))
        for ours, theirs in zip((*self._keys, *self._values), (*other._keys, *other._values)):
            for row, length in enumerate(other.lengths):
                ours[count + row, :, :length] = theirs[row, :, :length]
        self.lengths += other.lengths
        self.following += other.following

    def take_back(self, tokens: int) -> None:
        """Forget the last tokens of every row; where its next word stands has to be told."""
        self.lengths = [length - tokens for length in self.lengths]
        self.following = [position - tokens for position in self.following]

    def _reorder(self, order: Sequence[int]) -> None:
        self.lengths = [self.lengths[former] for former in order]
        self.following = [self.following[former] for former in order]

    def _make_room(self, rows: int, slots: int) -> None:
        held = self._keys[0].shape if self._keys else (0, 0, 0)
        if held[0] >= rows and held[2] >= slots:
            return
        # Half as much again: copying stays a constant share of writing.
        if held[2] < slots:
            slots = -(-max(slots, held[2] + held[2] // 2) // ROOM) * ROOM
        if held[0] < rows:
            rows = max(rows, held[0] + held[0] // 2)
        shape = max(rows, held[0]), self._heads, max(slots, held[2]), self._width
        nothing: list[Tensor | None] = [None] * self._layers
        self._keys = [self._grown(shape, old) for old in self._keys or nothing]
        self._values = [self._grown(shape, old) for old in self._values or nothing]

    def _grown(self, shape: tuple[int, ...], old: Tensor | None) -> Tensor:
        # Zeros: what no token has filled is hidden by a mask, and must be a number for that.
        new = self._like.new_zeros(shape)
        if old is not None and len(self):
            new[: len(self), :, : old.shape[2]] = old[: len(self)]
        return new
