"""Tiny Qwen-VL models: sizes, and the forms in which transformers' own take pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PATCH, MERGE = 4, 2

_SIZES = {"num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_SIZES, "type": "qwen2_vl", "embed_dim": 32},
    "qwen2_5_vl": {**_SIZES, "type": "qwen2_5_vl", "hidden_size": 32, "intermediate_size": 40, "window_size": 16,
                   "fullatt_block_indexes": [2]},
    "qwen3_vl": {**_SIZES, "type": "qwen3_vl", "hidden_size": 32, "intermediate_size": 40,
                 "num_position_embeddings": 25},
}  # fmt: skip
"""Windows of 4 x 4 patches; a table of 5 x 5 places."""

GRIDS = [(4, 6), (2, 2), (10, 6), (4, 6), (2, 14), (8, 8)]
"""(rows, columns) of patches; not all of them whole windows."""


def flat(pixels_CHW: Tensor, merge: int = MERGE) -> Tensor:
    """One normalised picture as Qwen's towers take it: patches in blocks that are merged, each twice in time."""
    height, width = pixels_CHW.shape[1:]
    cells = pixels_CHW.view(3, height // PATCH // merge, merge, PATCH, width // PATCH // merge, merge, PATCH)
    patches = cells.permute(1, 4, 2, 5, 0, 3, 6)[..., None, :, :].expand(*[-1] * 5, 2, -1, -1)
    return patches.reshape(-1, 3 * 2 * PATCH * PATCH)


def thw(grids: Sequence[tuple[int, int]]) -> Tensor:
    """Grids of still pictures."""
    return torch.tensor([[1, *grid] for grid in grids])
