"""What every connector offers. The number of tokens is derived from the grid, never configured.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` visual tokens an input, ``D`` width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn as nn
from torch import Tensor

from sightling.parts import Part
from sightling.registry import Registry


class ConnectorOptions(Part, ABC):
    """A connector's options: they count its tokens, and build it."""

    @property
    def reads_text(self) -> bool:
        """Whether a picture's tokens depend on the words beside it."""
        return False

    @abstractmethod
    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """Visual tokens for a grid of features; ``extra`` features (a kept CLS token) come before it.

        Raises:
            UserError: a grid that this connector cannot take.
        """

    @abstractmethod
    def build(self, in_width: int, out_width: int) -> Connector:
        """The module, with new weights."""


class Connector(nn.Module, ABC):
    """features_NPD on a grid of (rows, columns) to tokens_NQD in the language model's width."""

    @abstractmethod
    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """See the class."""


CONNECTORS: Registry[type[ConnectorOptions]] = Registry("connector")
