"""What every connector offers. The number of tokens is derived from the grid, never configured.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` visual tokens an input, ``D`` width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from sightling.parts import Part
from sightling.registry import Registry
from sightling.sight.encoders.tower import Grid
from sightling.sight.tiling import Plan


class ConnectorOptions(Part, ABC):
    """A connector's options: they count its tokens, and build it."""

    @property
    def reads_text(self) -> bool:
        """Whether a picture's tokens depend on the words beside it."""
        return False

    @property
    def beside(self) -> bool:
        """Whether a picture's tokens stand beside the text: in it, one placeholder says where the picture belongs."""
        return False

    @property
    def ahead(self) -> bool:
        """Whether words look at pictures behind them, so that a prompt's beginning depends on the pictures to come."""
        return False

    @property
    def added(self) -> int:
        """Behind how many of the language model's first layers something is added to a picture's tokens.

        Tokens are then so many times wider: what stands in the text, and what is added behind each of those layers.
        """
        return 0

    def field(self, rows: int, columns: int) -> Grid | None:
        """(rows, columns) of the tokens that a grid of features makes, row by row; None where they have no places."""
        return None

    @abstractmethod
    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """Visual tokens for a grid of features; ``extra`` features (a kept CLS token) come before it.

        Raises:
            UserError: a grid that this connector cannot take.
        """

    def pieces(self, plan: Plan, extra: int = 0) -> tuple[int | str, ...]:
        """A picture in the sequence: numbers of placeholders, and the words around them, in order.

        Raises:
            UserError: a grid that this connector cannot take.
        """
        return (1,) if self.beside else plan.pieces(lambda rows, columns: self.tokens(rows, columns, extra))

    @abstractmethod
    def build(self, in_width: int, out_width: int) -> Connector:
        """The module, with new weights."""


class Connector(nn.Module, ABC):
    """features_NPD on a grid of (rows, columns) to tokens_NQD in the language model's width.

    Attributes:
        pads: whether ``forward`` also takes one grid for each input, and looks at no padding.
        added: see :attr:`ConnectorOptions.added`.
        reads_text: see :attr:`ConnectorOptions.reads_text`.
    """

    pads: ClassVar[bool] = False
    added: int = 0
    reads_text: bool = False

    @abstractmethod
    def forward(self, features_NPD: Tensor, grid: Grid) -> Tensor:
        """See the class."""

    def each(self, features_NPD: Tensor, grids: Sequence[Grid], extra: int = 0, **words_NT: Tensor) -> list[Tensor]:
        """Tokens_QD of each input, whose features stand first; ``extra`` of them (a kept CLS token) before its grid's.

        ``words_NT`` are what a connector that reads text takes besides, by its own names.

        Raises:
            ValueError: another number of grids than inputs.
        """
        if len(grids) != len(features_NPD):
            raise ValueError(f"{len(grids)} grids for {len(features_NPD)} encoder inputs")
        if len(set(grids)) == 1:
            return list(self(features_NPD, grids[0], **words_NT))
        if self.pads and not extra:
            return list(self(features_NPD, grids, **words_NT))
        members: dict[Grid, list[int]] = {}
        for place, grid in enumerate(grids):
            members.setdefault(grid, []).append(place)
        found: dict[int, Tensor] = {}
        for grid, places in members.items():
            real_NPD = features_NPD[places, : extra + grid[0] * grid[1]]
            own = {name: rows_NT[places] for name, rows_NT in words_NT.items()}
            found |= dict(zip(places, self(real_NPD, grid, **own)))
        return [found[place] for place in range(len(grids))]


CONNECTORS: Registry[type[ConnectorOptions]] = Registry("connector")
