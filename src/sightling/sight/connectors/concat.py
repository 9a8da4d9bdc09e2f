"""``concat``: neighbours in a row are joined along the channels, then one linear layer.

Source of the method: MiniGPT-v2 (Chen et al. 2023, arXiv:2310.09478), which joins four.
"""

from __future__ import annotations

import torch.nn as nn
from pydantic import Field
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.pixel_shuffle import refuse_cls


@CONNECTORS.register("concat")
class ConcatOptions(ConnectorOptions):
    """``count`` features of a row become one token."""

    count: int = Field(default=4, ge=1)
    bias: bool = True

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """A quarter of the features for a count of 4.

        Raises:
            UserError: columns that the count does not divide, so that a token would join the ends of two rows, or a
                kept CLS token, which has no neighbours.
        """
        if columns % self.count:
            raise UserError(
                f"connector concat: the {columns} columns of a grid of {rows} x {columns} features are not divisible "
                f"by count {self.count}"
            )
        refuse_cls("concat", extra)
        return rows * columns // self.count

    def field(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows are shorter."""
        return rows, columns // self.count

    def build(self, in_width: int, out_width: int) -> Concat:
        """See :class:`Concat`."""
        return Concat(in_width, out_width, self)


class Concat(Connector):
    """Join ``count`` features that follow each other, then Linear."""

    def __init__(self, in_width: int, out_width: int, options: ConcatOptions) -> None:
        super().__init__()
        self.count = options.count
        self.projection = nn.Linear(in_width * options.count, out_width, bias=options.bias)

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD with P = rows x columns to tokens_NQD with Q = P / count.

        Raises:
            ValueError: another P.
        """
        inputs, patches, width = features_NPD.shape
        rows, columns = grid
        if patches != rows * columns:
            raise ValueError(f"{patches} features do not fill a grid of {rows} x {columns} = {rows * columns}")
        return self.projection(features_NPD.reshape(inputs, patches // self.count, width * self.count))
