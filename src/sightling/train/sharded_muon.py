"""Muon's orthogonal matrices where each process holds some rows of every matrix.

An iteration needs a matrix whole. The processes take turns: each gets all rows of its share of the matrices, iterates,
and gives every process its rows back, so that no matrix is computed twice and a row travels twice.

Legend: ``K`` matrices, ``R`` rows of one process, ``N`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from sightling.train.shared_muon import Orthogonal


def shares(rows: int, ranks: int) -> list[int]:
    """How many rows each process holds: as many as the first, until none are left."""
    most = -(-rows // ranks)
    return [min(most, max(0, rows - most * rank)) for rank in range(ranks)]


def in_turns(updates: Sequence[Tensor], orthogonal: Orthogonal, dtype: torch.dtype) -> list[Tensor]:
    """The own rows_RN of each orthogonal matrix, from those of K matrices of one shape.

    Args:
        updates: cut matrices, the same in the same order on every process.
        orthogonal: what is done to whole matrices.
        dtype: what it computes with, in which they travel.

    Raises:
        ValueError: a matrix that is cut another way than by its rows.
    """
    first = updates[0]
    if not isinstance(first, DTensor) or first.placements[-1] != Shard(0):
        raise ValueError("Muon takes matrices that are cut by their rows")
    # The last axis of the mesh cuts; one before it holds copies, which all do the same.
    group = first.device_mesh.get_group(first.device_mesh.ndim - 1)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    rows, columns = first.shape
    held = shares(rows, ranks)
    mine_KRN = [update.to_local().to(dtype) for update in updates if isinstance(update, DTensor)]
    turns = [list(range(owner, len(updates), ranks)) for owner in range(ranks)]

    def exchange(parts: Sequence[Tensor], sent: list[int], received: list[int]) -> Tensor:
        flat = torch.cat([part.reshape(-1) for part in parts])
        out = flat.new_empty(sum(received))
        dist.all_to_all_single(out, flat, received, sent, group=group)
        return out

    to_owners = [len(turn) * held[rank] * columns for turn in turns]
    from_all = [len(turns[rank]) * count * columns for count in held]
    flat = exchange([mine_KRN[number] for turn in turns for number in turn], to_owners, from_all)
    pieces = [piece.view(len(turns[rank]), -1, columns) for piece in flat.split(from_all) if len(turns[rank])]
    whole = list(torch.cat(pieces, dim=1).unbind(0)) if pieces else []
    done = [one.to(dtype) for one in orthogonal(whole)] if whole else []
    cut = [list(one.split(held)) for one in done]
    flat = exchange([one[owner] for owner in range(ranks) for one in cut] or [flat[:0]], from_all, to_owners)
    found: dict[int, Tensor] = {}
    for turn, part in zip(turns, flat.split(to_owners), strict=True):
        for number, own_RN in zip(turn, part.view(len(turn), held[rank], columns), strict=True):
            found[number] = own_RN
    return [found[number] for number in range(len(updates))]
