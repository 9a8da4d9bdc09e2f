"""Processes that share Muon's matrices: what each finds is what one finds alone, and all hold the same."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sightling.train.muon import Muon
from sightling.train.shared_muon import owners

SHAPES = [(4, 6), (6, 4), (8, 8), (3, 5), (4, 6), (2, 12)]


def learnt(shared: bool = True) -> list[Tensor]:
    """Matrices of several shapes after two updates; the last one has no gradient."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    muon = Muon(parameters, lr=0.1, shared=shared)
    for _ in range(2):
        for parameter in parameters[:-1]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        muon.step()
    return [parameter.detach() for parameter in parameters]


def _process(rank: int, ranks: int, limit: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks)
    import sightling.train.muon as muon

    muon.MAX_ELEMENTS = limit
    torch.save(learnt(), folder / f"{rank}.pt")
    muon.in_shares = None  # type: ignore[assignment]
    torch.save(learnt(shared=False), folder / f"{rank} alone.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks, limit", [(2, 2**26), (3, 50)])
def test_all_processes_find_what_one_finds(tmp_path: Path, ranks: int, limit: int) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_process, args=(rank, ranks, limit, tmp_path)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = learnt()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    for rank in range(ranks):
        assert all(map(torch.equal, torch.load(tmp_path / f"{rank} alone.pt"), alone))
    for number, expected in enumerate(alone):
        torch.testing.assert_close(found[0][number], expected, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(one[number], found[0][number]) for one in found)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=20), st.integers(1, 5))
def test_shares_are_even_as_far_as_matrices_can_be(shapes: list[tuple[int, int]], count: int) -> None:
    found = owners(shapes, count)
    assert len(found) == len(shapes) and set(found) <= set(range(count))
    costs = [min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes]
    loads = [sum(cost for cost, owner in zip(costs, found, strict=True) if owner == each) for each in range(count)]
    # Whoever has most had least before its last matrix came.
    assert max(loads) - max(costs) <= min(loads)
