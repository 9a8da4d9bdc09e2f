"""Token sequences about the same pictures as one tree: what they share is computed once.

Legend: ``B`` rows, ``T`` nodes of a tree, ``S`` steps (a parent and the token after it).

A packed row of training has two levels, the picture and its questions (:mod:`sightling.model.mask`); here any
common beginning is shared: the picture, a question, the first tokens of two candidate answers. A node sees its
ancestors and itself and its position is that of its sequence, so each sequence gets the numbers it gets alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sightling.data.sample import Picture
from sightling.model.spatial import Position, position_ids

ROOT = -1


@dataclass(frozen=True, slots=True)
class Path:
    """The scored end of one sequence: the nodes its tokens are predicted from, and those tokens."""

    parents: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass
class TokenTree:
    """A tree of tokens and the paths whose ends are scored.

    ``owners`` holds for each path whatever its maker wants to find it by; ``words`` are those that each picture is
    read with.
    """

    pictures: tuple[Picture, ...]
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    words: tuple[tuple[int, ...], ...] = ()
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def missing(self, ids: Sequence[int]) -> int:
        """How many nodes ``ids`` would add."""
        node = ROOT
        for place, token in enumerate(ids[:-1]):
            found = self._children.get((node, token))
            if found is None:
                return len(ids) - 1 - place
            node = found
        return 0

    def add(self, ids: Sequence[int], start: int, owner: int, positions: Sequence[Position] | None = None) -> None:
        """Add a sequence whose tokens from ``start`` (1 or more) on are scored; the last one needs no node.

        ``positions`` are the tokens'; left out, they are numbered.
        """
        node = ROOT
        nodes = []
        for place, token in enumerate(ids[:-1]):
            found = self._children.get((node, token))
            if found is None:
                found = self._children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.positions.append(place if positions is None else positions[place])
            node = found
            nodes.append(node)
        self.paths.append(Path(tuple(nodes[start - 1 :]), tuple(ids[start:])))
        self.owners.append(owner)

    def ancestors(self) -> np.ndarray:
        """seen_TT: whether a node (row) sees another (column): itself and what stands before it on its path."""
        seen_TT = np.zeros((len(self), len(self)), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                seen_TT[node] = seen_TT[parent]
            seen_TT[node, node] = True
        return seen_TT

    def steps(self) -> list[tuple[int, int]]:
        """Every different (parent node, token) that some path scores."""
        return list(dict.fromkeys(pair for path in self.paths for pair in zip(path.parents, path.tokens)))


def collate(trees: Sequence[TokenTree], pad_id: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids_BT, position_ids_BT, additive mask_B1TT) of trees as padded rows; padding sees itself only.

    Where tokens have places, the second is places_3BT.
    """
    width = max(len(tree) for tree in trees)
    ids_BT = torch.full((len(trees), width), pad_id)
    seen_BTT = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        size = len(tree)
        ids_BT[row, :size] = torch.tensor(tree.tokens)
        seen_BTT[row, :size, :size] = torch.from_numpy(tree.ancestors())
    nowhere: Position = 0 if isinstance(trees[0].positions[0], int) else (0, 0, 0)
    positions_BT = position_ids([[*tree.positions, *[nowhere] * (width - len(tree))] for tree in trees])
    mask_BTT = torch.zeros(seen_BTT.shape, dtype=dtype).masked_fill_(~seen_BTT, torch.finfo(dtype).min)
    return ids_BT, positions_BT, mask_BTT[:, None]
