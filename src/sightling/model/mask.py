"""Attention masks for packed rows: documents apart, and branches that share a picture.

Legend: ``B`` rows, ``T`` tokens.

A row holds documents one after another. A document is a tree of two levels: a shared trunk (the
picture and what stands before it), then branches (the questions about it). A token sees the tokens
before it in its own document that belong to the trunk or to its own branch; never another branch,
never another document. So each sample in a row gets exactly the numbers it gets alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRUNK = 0
"""The branch number of a document's shared tokens."""


def tree_mask(
    document_ids_BT: Tensor,
    branch_ids_BT: Tensor,
    dtype: torch.dtype,
    *,
    position_ids_BT: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """The additive mask_B1TT: 0 where attention is allowed, the dtype's minimum where it is not.

    ``document_ids_BT`` is negative on padding, which sees only itself and is seen by nobody. With a ``window``
    a token sees itself and the ``window - 1`` tokens before it on its own path, by ``position_ids_BT``.
    """
    document_q, document_k = document_ids_BT[:, :, None], document_ids_BT[:, None, :]
    branch_q, branch_k = branch_ids_BT[:, :, None], branch_ids_BT[:, None, :]
    length = document_ids_BT.shape[1]
    before_TT = torch.ones(length, length, dtype=torch.bool, device=document_ids_BT.device).tril()
    allowed_BTT = (document_q == document_k) & ((branch_k == TRUNK) | (branch_q == branch_k)) & before_TT
    if window is not None:
        if position_ids_BT is None:
            raise ValueError("a window needs position_ids_BT: distance is counted along a token's own path")
        allowed_BTT &= position_ids_BT[:, :, None] - position_ids_BT[:, None, :] < window
    itself_TT = torch.eye(length, dtype=torch.bool, device=document_ids_BT.device)
    allowed_BTT = torch.where(document_q < 0, itself_TT, allowed_BTT)
    mask_BTT = torch.zeros(allowed_BTT.shape, dtype=dtype, device=allowed_BTT.device)
    return mask_BTT.masked_fill_(~allowed_BTT, torch.finfo(dtype).min)[:, None]
