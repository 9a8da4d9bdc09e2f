from __future__ import annotations

from pathlib import Path

import pytest
import torch
from growing import assert_differ, assert_same, weights_after
from toy import FiniteItems, ToyItems

from sightling.train.order import Batches, batch_numbers, loader
from sightling.train.trackers import read_metrics


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    stage = {"objective": {"type": "toy", "noise": True}, "data": {"type": "finite", "size": 9}}
    alone = weights_after(tmp_path / "0", one=stage)
    assert_same(alone, weights_after(tmp_path / "n", one=stage | {"dataloader_num_workers": workers}))


def test_seeds_matter(tmp_path: Path) -> None:
    assert_differ(weights_after(tmp_path / "a", one={}), weights_after(tmp_path / "b", one={"seed": 5}))


def test_each_epoch_holds_every_item_once_in_a_new_order() -> None:
    batches = Batches(FiniteItems(10), lambda items: [item[0] for item in items], 4, seed=3)
    order = [index for number in range(5) for index in batches[number]]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    again = Batches(FiniteItems(10), lambda items: [item[0] for item in items], 4, seed=3)
    # Out of order and from the middle: a batch is a function of its number.
    assert [again[number] for number in (4, 0, 2)] == [batches[number] for number in (4, 0, 2)]


def test_endless_items_come_once_in_order() -> None:
    batches = Batches(ToyItems(), lambda items: [item[0] for item in items], 3, seed=3)
    assert [batches[number] for number in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_ranks_share_the_micro_batches_without_overlap() -> None:
    of_ranks = [list(batch_numbers(2, 5, 3, rank, 4)) for rank in range(4)]
    assert sorted(number for numbers in of_ranks for number in numbers) == list(range(2 * 3 * 4, 5 * 3 * 4))
    assert of_ranks[1] == [25, 29, 33, 37, 41, 45, 49, 53, 57]


def test_fetching_leaves_the_random_generators_alone() -> None:
    import random

    import numpy as np

    batches = Batches(ToyItems(), lambda items: torch.rand(2), 2, seed=0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    first = (random.random(), float(np.random.rand()))
    batches[0]
    random.seed(0)
    np.random.seed(0)
    source = loader(batches, range(2), 0, False)
    next(source)
    assert (random.random(), float(np.random.rand())) == first
    assert torch.equal(torch.rand(3), expected)


def test_epochs_become_steps(tmp_path: Path) -> None:
    weights_after(tmp_path, one={"data": {"type": "finite", "size": 10}, "max_steps": None, "num_train_epochs": 2})
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert lines[-1]["step"] == 5 and lines[-1]["epoch"] == 2.0
