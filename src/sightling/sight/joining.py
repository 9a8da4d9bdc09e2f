"""From each tile's visual tokens to a picture's: one after another, or one field with ends of rows.

Legend: ``Q`` visual tokens of a tile, ``V`` of a picture, ``D`` width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sightling.sight.tiling import Plan, Unpadded


def join(plan: Plan, tiles: Sequence[Tensor], row_end_D: Tensor | None) -> Tensor:
    """A picture's tokens_VD in the order of its placeholders.

    Args:
        plan: how the picture was cut.
        tiles: tokens_QD of each of its tiles.
        row_end_D: what ends a row of a field; only plans that make fields need it.

    Raises:
        ValueError: another number of tiles than the plan has, tiles that are no square fields, or no end of rows
            for a plan that needs one.
    """
    if len(tiles) != len(plan):
        raise ValueError(f"the tokens of {len(tiles)} tiles for a plan of {len(plan)}")
    if not isinstance(plan, Unpadded):
        return torch.cat(list(tiles))
    if row_end_D is None:
        raise ValueError("a field of tokens was asked for, but there is no token to end its rows")
    if len(tiles) == 1:
        return torch.cat([tiles[0], row_end_D.to(tiles[0].dtype)[None]])
    return torch.cat([tiles[0], _field(plan, tiles[1:], row_end_D)])


def _field(plan: Unpadded, tiles: Sequence[Tensor], row_end_D: Tensor) -> Tensor:
    """The grid's tokens as one field: bars cut off, shrunk past the limit, each row ended.

    Source of the method: LLaVA-NeXT; the limit, LLaVA-OneVision (Li et al. 2024), bilinear.
    """
    count, width = tiles[0].shape
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} tokens of a tile make no square field")
    rows, columns = plan.grid
    laid = torch.stack(list(tiles)).view(rows, columns, side, side, width)
    field_HWD = laid.transpose(1, 2).reshape(rows * side, columns * side, width)
    top, bottom, left, right = plan.kept((side, side))
    field_HWD = field_HWD[top:bottom, left:right]
    wanted = plan.field((side, side))
    if 0 in wanted:
        # So thin a picture has no whole row or column of tokens on it.
        field_HWD = field_HWD[: wanted[0], : wanted[1]]
    elif wanted != tuple(field_HWD.shape[:2]):
        field_1DHW = F.interpolate(field_HWD.permute(2, 0, 1)[None], size=wanted, mode="bilinear")
        field_HWD = field_1DHW[0].permute(1, 2, 0)
    ends_H1D = row_end_D.to(field_HWD.dtype).expand(field_HWD.shape[0], 1, width)
    return torch.cat([field_HWD, ends_H1D], dim=1).reshape(-1, width)
