"""Samples into packed rows: documents with boundaries, and one picture's tokens shared by its samples.

Legend: ``B`` rows, ``T`` tokens.

A document is a group of samples about the same picture: the tokens up to the picture stand once (the
trunk), each sample's own tokens are a branch. Positions continue from the trunk for each branch, and
:mod:`sightling.model.mask` keeps branches and documents apart, so a sample in a row has the numbers it
has alone. Rows are made equally long (:func:`fill_rows`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.model.mask import TRUNK
from sightling.model.modeling import IGNORED
from sightling.model.processor import Encoded, VisionLanguageProcessor
from sightling.model.room import pictures_told
from sightling.model.spatial import Position, position_ids

NEARBY = 4
"""How many more rows than first-fit-decreasing needs are tried."""


@dataclass(frozen=True, slots=True)
class Document:
    """Samples that share a trunk, as flat lists over tokens; ``words`` are those that each picture is read with."""

    input_ids: list[int]
    labels: list[int]
    positions: list[Position]
    branches: list[int]
    pictures: tuple[Picture, ...]
    samples: int
    words: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def without_pictures(self) -> Document:
        """The same tokens; the pictures, once their pixels are cut, need not travel between processes."""
        return Document(self.input_ids, self.labels, self.positions, self.branches, (), self.samples)


def can_share(encoded: Encoded) -> bool:
    """Whether a sample has a trunk that holds all its pictures."""
    return encoded.trunk > 0 and len(encoded.pictures) == encoded.trunk_pictures


def document(group: Sequence[Encoded]) -> Document:
    """One document of a group that shares its pictures (a group of one is a plain document).

    Raises:
        ValueError: the samples do not share trunk and pictures, or one has a picture after its trunk.
    """
    first = group[0]
    if len(group) == 1:
        length = len(first.input_ids)
        return Document(
            list(first.input_ids), list(first.labels), list(first.positions), [TRUNK] * length, first.pictures, 1,
            first.words,
        )  # fmt: skip
    trunk = first.input_ids[: first.trunk]
    ids, labels = list(trunk), [IGNORED] * len(trunk)
    positions, branches = list(first.positions[: first.trunk]), [TRUNK] * len(trunk)
    for number, encoded in enumerate(group, start=1):
        same = encoded.input_ids[: encoded.trunk] == trunk
        same = same and [id(p) for p in encoded.pictures] == [id(p) for p in first.pictures]
        same = same and encoded.words == first.words
        if not same:
            raise ValueError(
                f"sample {number} of a group of {len(group)} does not share the first one's trunk and pictures"
            )
        if len(encoded.pictures) != encoded.trunk_pictures:
            raise ValueError(
                f"sample {number} of a group of {len(group)} has {len(encoded.pictures)} pictures, "
                f"but {encoded.trunk_pictures} in its trunk"
            )
        own = encoded.input_ids[encoded.trunk :]
        ids += own
        labels += encoded.labels[encoded.trunk :]
        positions += encoded.positions[encoded.trunk :]
        branches += [number] * len(own)
    return Document(ids, labels, positions, branches, first.pictures, len(group), first.words)


def fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the documents in each row of at most ``capacity`` tokens, so that padding is least.

    A batch is as wide as its longest row, so rows should be equally long rather than full. First-fit-decreasing says
    how many rows suffice. For that number and those near it, each document, longest first, goes into the shortest row
    (longest processing time first; Graham, 1969), and the division with the fewest tokens, padding included, is taken:
    of equal ones that with the fewest rows. Nothing is carried over to the next batch, which stays a function of its
    number alone.

    A document that is itself longer than the capacity has a row of its own: truncation is the caller's
    decision, not the packer's. Deterministic: ties keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    best = _first_fit(lengths, capacity, order)
    if not best:
        return best
    width = max(capacity, lengths[order[0]])
    least = _padded(best, lengths)
    fewest = max(-(-sum(lengths) // width), 1)
    for number in range(fewest, min(len(best) + NEARBY, len(lengths)) + 1):
        rows = _balanced(lengths, number, order)
        tokens = _padded(rows, lengths)
        if tokens < least and tokens <= number * capacity:
            best, least = rows, tokens
    return best


def _first_fit(lengths: Sequence[int], capacity: int, order: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = lengths[index]
        for row, free in enumerate(room):
            if length <= free:
                rows[row].append(index)
                room[row] -= length
                break
        else:
            rows.append([index])
            room.append(capacity - length)
    return rows


def _balanced(lengths: Sequence[int], number: int, order: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(number)]
    shortest = [(0, row) for row in range(number)]
    for index in order:
        filled, row = shortest[0]
        rows[row].append(index)
        heapq.heapreplace(shortest, (filled + lengths[index], row))
    return rows


def _padded(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Tokens of a batch of such rows, padding included."""
    return len(rows) * max(sum(lengths[index] for index in row) for row in rows)


def collate_rows(documents: Sequence[Document], rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Padded tensors_BT of packed rows: input_ids, labels, position_ids, document_ids (-1 on padding), branch_ids.

    Where tokens have places (:mod:`sightling.model.spatial`), position_ids are places_3BT.
    """
    width = max(sum(len(documents[index]) for index in row) for row in rows)
    shape = (len(rows), width)
    spatial = any(isinstance(part.positions[0], tuple) for part in documents if part.positions)
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "labels": torch.full(shape, IGNORED),
        "position_ids": torch.zeros((3, *shape) if spatial else shape, dtype=torch.long),
        "document_ids": torch.full(shape, -1),
        "branch_ids": torch.zeros(shape, dtype=torch.long),
    }
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members):
            part = documents[index]
            here = slice(start, start + len(part))
            batch["input_ids"][row, here] = torch.tensor(part.input_ids)
            batch["labels"][row, here] = torch.tensor(part.labels)
            batch["position_ids"][..., row, here] = position_ids([part.positions])[..., 0, :]
            batch["document_ids"][row, here] = number
            batch["branch_ids"][row, here] = torch.tensor(part.branches)
            start += len(part)
    return batch


def check_length(whole: Document, limit: int, where: str, processor: VisionLanguageProcessor) -> None:
    """Refuse a document that no row can hold; cutting it could cut inside a picture.

    Raises:
        UserError: with both numbers, what each picture needs, and what there is room for.
    """
    length = len(whole)
    if length > limit:
        pictures = pictures_told(processor, whole.pictures, length, limit)
        raise UserError(
            f"{where} needs {length} tokens, but max_length is {limit}{pictures}; raise max_length or shorten it"
        )
