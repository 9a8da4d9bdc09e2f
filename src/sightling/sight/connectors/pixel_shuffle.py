"""``pixel_shuffle``: squares of neighbouring features become one token (InternVL, Idefics3, SmolVLM).

Source of the method: InternVL 1.5 (Chen et al. 2024); Idefics3 (Laurençon et al. 2024), where one matrix without
norm and bias follows. Two channel orders exist in the wild, named
``ps_version``: ``v2`` keeps the output grid in (row, column) order, ``v1`` leaves it transposed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.mlp import mlp


@CONNECTORS.register("pixel_shuffle")
class PixelShuffleOptions(ConnectorOptions):
    """``factor`` x ``factor`` features become one token; then LayerNorm and an MLP of ``depth``.

    Idefics3 and SmolVLM: ``depth`` 1, without ``norm`` and ``bias``.
    """

    factor: int = Field(default=2, ge=1)
    depth: int = Field(default=2, ge=1)
    norm: bool = True
    bias: bool = True
    version: Literal["v1", "v2"] = "v2"

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """A quarter of the features for factor 2.

        Raises:
            UserError: a grid that the factor does not divide, or a kept CLS token, which has no place in it.
        """
        return squares("pixel_shuffle", rows, columns, extra, self.factor)

    def field(self, rows: int, columns: int) -> tuple[int, int] | None:
        """Squares of the grid; version v1 lays them down by columns."""
        return (rows // self.factor, columns // self.factor) if self.version == "v2" else None

    def build(self, in_width: int, out_width: int) -> PixelShuffle:
        """See :class:`PixelShuffle`."""
        return PixelShuffle(in_width, out_width, self)


class PixelShuffle(Connector):
    """Join neighbours along the channels, then [LayerNorm,] Linear, (GELU, Linear)."""

    def __init__(self, in_width: int, out_width: int, options: PixelShuffleOptions) -> None:
        super().__init__()
        self.options = options
        self.layers = mlp(in_width * options.factor**2, out_width, options.depth, options.norm, options.bias)

    def forward(self, features_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shapes: features_NPD with P = rows x columns to tokens_NQD with Q = P / factor^2."""
        return self.layers(shuffle(features_NPD, grid, self.options.factor, self.options.version))


def squares(name: str, rows: int, columns: int, extra: int, factor: int) -> int:
    """How many squares of ``factor`` x ``factor`` features a grid has, for the connector of that name.

    Raises:
        UserError: a grid that the factor does not divide, or a kept CLS token, which has no place in it.
    """
    if rows % factor or columns % factor:
        raise UserError(
            f"connector {name}: a grid of {rows} x {columns} features is not divisible by factor {factor}"
        )
    refuse_cls(name, extra)
    return (rows // factor) * (columns // factor)


def refuse_cls(name: str, extra: int) -> None:
    """Refuse features before the grid.

    Raises:
        UserError: there are some.
    """
    if extra:
        raise UserError(f"connector {name} cannot place a CLS token in its grid; set encoder.keep_cls to false")


def shuffle(features_NPD: Tensor, grid: tuple[int, int], factor: int, version: str) -> Tensor:
    """Join each ``factor`` x ``factor`` square of features along the channels.

    The channels of a token are (row in the square, column in the square, D), row-major. Raises
    ``ValueError`` when P is not rows x columns.
    """
    count, patches, width = features_NPD.shape
    rows, columns = grid
    if patches != rows * columns:
        raise ValueError(f"{patches} features do not fill a grid of {rows} x {columns} = {rows * columns}")
    squares = features_NPD.view(count, rows // factor, factor, columns // factor, factor, width)
    # v1 leaves the grid transposed: tokens run down the columns first.
    order = (0, 1, 3, 2, 4, 5) if version == "v2" else (0, 3, 1, 2, 4, 5)
    joined = squares.permute(*order)
    return joined.reshape(count, patches // factor**2, width * factor**2)
