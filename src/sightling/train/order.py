"""Which item comes when: a pure function of seed and position, the same for any number of workers.

A stage consumes positions 0, 1, 2, ... An endless dataset is asked for item ``position``; a finite one is
walked through in a new order each epoch, one of its own where it has any (as shards do). Micro-batch ``n``
holds positions ``n * size`` to ``(n + 1) * size - 1``; ranks take turns at micro-batches. So a resumed stage
starts at its next micro-batch without touching what came before.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sightling.data.source import content, own_order
from sightling.errors import UserError
from sightling.train.stopping import leave_to_parent


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from several, the same on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Where all generators stand, as tensors and plain values that can be stored without pickling objects."""
    version, numbers, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put all generators back where :func:`random_state` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def check_content(dataset: Dataset[Any], state: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint whose next position would be another item's now.

    Raises:
        UserError: the dataset reads other shards than that of the checkpoint did.
    """
    if state.get("data", content(dataset)) != content(dataset):
        raise UserError(f"{where} was made with other shards than there are now; put them back, or start a new run")


def length(dataset: Dataset[Any]) -> int | None:
    """Items of a finite dataset; ``None`` for an endless one."""
    return len(dataset) if hasattr(dataset, "__len__") else None


class Batches(Dataset[Any]):
    """A dataset's micro-batches by number, each with its own random state.

    ``shuffle`` False walks a finite dataset once, in order, and the last batch may be short.
    """

    def __init__(
        self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], size: int, seed: int, shuffle: bool = True
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.length = length(dataset)
        self._epoch: tuple[int, Sequence[int] | np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def index(self, position: int) -> int:
        """The dataset's index of the item at a position of the stage."""
        if self.length is None or not self.shuffle:
            return position
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch[0]:
            seed = derive_seed(self.seed, "epoch", epoch)
            own = own_order(self.dataset, seed)
            generator = np.random.Generator(np.random.PCG64(seed))
            self._epoch = (epoch, generator.permutation(self.length) if own is None else own)
        return int(self._epoch[1][place])

    def positions(self, number: int) -> range:
        """The positions of a micro-batch."""
        last = (number + 1) * self.size
        if not self.shuffle and self.length is not None:
            last = min(last, self.length)
        return range(number * self.size, last)

    def __getitem__(self, number: int) -> Any:
        # The caller's random state is put back, so that fetching in the training process and in a worker
        # leave the same trace in the training process: none.
        before = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        try:
            items = []
            for position in self.positions(number):
                self._seed(derive_seed(self.seed, position))
                items.append(self.dataset[self.index(position)])
            return self.collate(items)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])

    @staticmethod
    def _seed(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # Only the processor's generator: torch.manual_seed would reset the accelerator's too.
        torch.default_generator.manual_seed(seed)


def batch_numbers(
    first_step: int, last_step: int, accumulation: int, rank: int, ranks: int, shift: int = 0
) -> Sequence[int]:
    """The micro-batches of one rank for updates ``first_step`` to ``last_step - 1``, in order.

    ``shift``: how many more (or, below 0, fewer) were taken before by another number of ranks.
    """
    first = (first_step * accumulation) * ranks + shift
    return range(first + rank, last_step * accumulation * ranks + shift, ranks)


def _as_it_is(batch: Any) -> Any:
    return batch


def loader(batches: Batches, numbers: Sequence[int], workers: int, pin_memory: bool) -> Iterator[Any]:
    """The micro-batches of those numbers, in order, made by worker processes (0: by this one)."""
    # A generator of its own: the loader draws a seed for its workers, which must not come from ours.
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=leave_to_parent,
            generator=torch.Generator(),
        )
    )
