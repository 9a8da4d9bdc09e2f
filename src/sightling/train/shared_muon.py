"""Muon's orthogonal matrices where each process holds the whole model: every matrix is computed by one process alone.

Gradients are the same everywhere, so that all processes would do the same iterations. Instead each does its share and
sends what it found to the others. Source of the method: Keller Jordan et al. 2024, modded-nanogpt, which spreads Muon
over GPUs in this way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Orthogonal = Callable[[list[Tensor]], list[Tensor]]
"""Matrices that are alike but for lying or standing to orthogonal ones."""


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def owners(shapes: Sequence[Sequence[int]], count: int) -> list[int]:
    """Which of ``count`` processes computes each matrix: the dearest first, each to whoever has least to do."""
    # What the iteration costs, up to a factor: products of the short side's square with both sides.
    costs = [min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes]
    loads = [0] * count
    found = [0] * len(shapes)
    for number in sorted(range(len(shapes)), key=lambda one: (-costs[one], one)):
        found[number] = loads.index(min(loads))
        loads[found[number]] += costs[number]
    return found


def in_shares(updates: Sequence[Tensor], orthogonal: Orthogonal, dtype: torch.dtype) -> list[Tensor]:
    """The orthogonal matrices of all updates, on every process.

    Args:
        updates: matrices of any shapes, the same in the same order on every process.
        orthogonal: what is done to those of one shape.
        dtype: what it computes with, in which results travel.
    """
    count, rank = ranks(), dist.get_rank()
    owner = owners([update.shape for update in updates], count)
    # Each sends as much as the one who has most.
    sizes = [sum(update.numel() for update, one in zip(updates, owner) if one == each) for each in range(count)]
    mine = updates[0].new_zeros(max(sizes), dtype=dtype)
    places: dict[int, Tensor] = {}
    start = 0
    for number, update in enumerate(updates):
        if owner[number] == rank:
            places[number] = mine[start : start + update.numel()].view(update.shape)
            start += update.numel()
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number in places:
        alike[tuple(sorted(updates[number].shape))].append(number)
    for numbers in alike.values():
        for number, done in zip(numbers, orthogonal([updates[number] for number in numbers]), strict=True):
            places[number].copy_(done)
    from_all = [torch.empty_like(mine) for _ in range(count)]
    dist.all_gather(from_all, mine)
    starts = [0] * count
    found = []
    for update, one in zip(updates, owner, strict=True):
        found.append(from_all[one][starts[one] : starts[one] + update.numel()].view(update.shape))
        starts[one] += update.numel()
    return found
