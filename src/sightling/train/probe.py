"""How long this machine takes for a step that was run dry: its operations, one by one, on tensors of their shapes.

The dearest operations are timed first, as often as the given seconds allow; what is left is told by its products and
bytes and the rates that were found. An operation larger than :data:`LARGEST` is timed on fewer rows. Optimizers are
timed on parameters of the same shapes. On a CPU the clock is that of the computing thread; how much longer a step takes
because others use the processor is measured apart (:attr:`Probe.waiting`).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from sightling.train.dry import Operation, Shape, aten
from sightling.train.muon import Muon, iteration_dtype, iteration_flops
from sightling.train.optimizers import Optimizers

LARGEST = 2_000_000_000
"""Floating-point operations of a product that is timed whole."""

ROOM = 2**26
"""Bytes that a timed operation may read and write."""

ELEMENTS = 2**21
"""Parameters that an optimizer is timed on."""

REPEATS = 3

FACTORS = {aten.mm: (0, 1), aten.addmm: (1, 2), aten.bmm: (0, 1), aten.baddbmm: (1, 2)}
"""Which arguments of a product are its factors."""


class Probe:
    """Times operations on a device.

    Args:
        device: where the stage would compute.
        seconds: how long it may take in all.

    Attributes:
        rate: floating-point operations a second of a product of large square matrices, by dtype.
        bandwidth: bytes a second that an addition reads and writes, of tensors larger than caches.
        waiting: how many times longer than the computing thread's own time things took.
        measured: operations that were timed.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.rate: dict[torch.dtype, float] = {}
        self.measured = 0
        self._took: dict[Any, float] = {}
        self._wall, self._own = time.perf_counter(), time.thread_time()
        self._until = self._wall + seconds
        # The rest is for the optimizers.
        self._for_operations = self._wall + 0.8 * seconds
        small = self._full((8,))
        self._least = self._time(lambda: torch.add(small, small), 20)
        large = self._full((2**23,))
        self.bandwidth = 3 * large.nbytes / self._time(lambda: torch.add(large, large))

    @property
    def waiting(self) -> float:
        """At least 1; exactly 1 on an accelerator."""
        if self.device.type != "cpu":
            return 1.0
        wall, own = time.perf_counter() - self._wall, time.thread_time() - self._own
        return max(1.0, wall / max(own, 1e-9))

    def product_rate(self, dtype: torch.dtype) -> float:
        """Floating-point operations a second of a large product in ``dtype``."""
        if dtype not in self.rate:
            # Where bfloat16 is slow it is very slow; a processor is busy with less than an accelerator.
            side = 512 if self.device.type == "cpu" else 4096
            square = self._full((side, side), dtype)
            self.rate[dtype] = 2 * side**3 / self._time(lambda: square @ square)
        return self.rate[dtype]

    def time(self, stages: Sequence[dict[Any, Operation]]) -> None:
        """Time the operations of several stages, the largest shares of a stage's guessed time first."""
        shares: dict[Any, float] = defaultdict(float)
        known: dict[Any, Operation] = {}
        for stage in stages:
            guesses = {key: self._guess(operation) * operation.count for key, operation in stage.items()}
            whole = sum(guesses.values())
            for key, guess in guesses.items():
                shares[key] += guess / whole
                known[key] = stage[key]
        for key in sorted(shares, key=lambda key: -shares[key]):
            if time.perf_counter() > self._for_operations:
                return
            took = self._replay(known[key])
            if took is not None:
                self._took[key] = took
                self.measured += 1

    def seconds(self, operations: dict[Any, Operation]) -> float:
        """What a step's operations take together, the computing thread's waiting included."""
        timed = [(self._took[key], self._guess(one)) for key, one in operations.items() if key in self._took]
        # What was not timed is as far from its guess as what was.
        off = sum(took for took, _ in timed) / sum(guess for _, guess in timed) if timed else 1.0
        whole = sum(
            self._took.get(key, off * self._guess(operation)) * operation.count for key, operation in operations.items()
        )
        return whole * self.waiting

    def _guess(self, operation: Operation) -> float:
        if operation.name.is_view:
            return self._least
        dtype = next((one.dtype for one in operation.arguments if isinstance(one, Shape)), torch.float32)
        products = operation.flops / self.product_rate(dtype) if operation.flops else 0.0
        return self._least + products + operation.bytes / self.bandwidth

    def _replay(self, operation: Operation) -> float | None:
        """Seconds of one call; None where it is too large to be timed or cannot be called by itself."""
        told, times = smaller(operation)
        if told is None:
            return None
        try:
            args, kwargs = tree_unflatten([self._real(one) for one in told], operation.form)
            with torch.no_grad():
                return times * self._time(lambda: operation.name(*args, **kwargs))
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
            # Some need values, or a device of their own kind; they are guessed, as what the time did not suffice for.
            return None

    def _real(self, one: Any) -> Any:
        """An argument with values."""
        if isinstance(one, torch.device):
            return self.device
        if isinstance(one, Tensor):
            return one.to(self.device)
        if not isinstance(one, Shape):
            return one
        reach = 1 + sum((size - 1) * step for size, step in zip(one.shape, one.stride, strict=True))
        if 0 in one.shape:
            return torch.zeros(one.shape, dtype=one.dtype, device=self.device)
        return self._full((reach,), one.dtype).as_strided(one.shape, one.stride)

    def _full(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        return torch.full(shape, 0.5, dtype=dtype, device=self.device)

    def _time(self, call: Callable[[], Any], repeats: int = REPEATS) -> float:
        """Seconds of a call, the median of several after a first that does not count."""
        took = []
        for number in range(repeats + 1):
            self._wait()
            start = self._clock()
            call()
            self._wait()
            took.append(self._clock() - start)
            if number and time.perf_counter() > self._until:
                break
        counted = sorted(took[1:])
        return max(counted[len(counted) // 2], 1e-9)

    def _clock(self) -> float:
        return time.thread_time() if self.device.type == "cpu" else time.perf_counter()

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    # ---- optimizers

    def optimizer_seconds(self, optimizers: Optimizers, share: int = 1, shards: int = 1) -> float:
        """One update: the gradients' norm, clipping, and the optimizers, on fewer parameters of the same shapes.

        ``share`` processes divide Muon's matrices among them, and ``shards`` processes all that AdamW updates.
        """
        groups = optimizers.inner
        adam = [p for group in groups["adamw"].param_groups for p in group["params"]] if "adamw" in groups else []
        muon = [p for group in groups["muon"].param_groups for p in group["params"]] if "muon" in groups else []
        fused = bool(adam) and groups["adamw"].defaults["fused"] is not False
        whole = self._adamw_seconds(adam, fused) / shards if adam else 0.0
        by_shape: dict[tuple[int, int], int] = defaultdict(int)
        for parameter in muon:
            by_shape[min(parameter.shape), max(parameter.shape)] += 1
        for (rows, columns), count in by_shape.items():
            whole += self._muon_seconds(rows, columns, count) / share
        return whole * self.waiting

    def _parameters(self, shapes: Iterable[tuple[int, ...]]) -> list[nn.Parameter]:
        made = [nn.Parameter(self._full(shape)) for shape in shapes]
        for parameter in made:
            parameter.grad = self._full(tuple(parameter.shape))
        return made

    def _adamw_seconds(self, parameters: Sequence[Tensor], fused: bool) -> float:
        shapes: list[tuple[int, ...]] = []
        taken, whole = 0, sum(parameter.numel() for parameter in parameters)
        for parameter in sorted(parameters, key=lambda one: one.numel()):
            shape = tuple(parameter.shape)
            if parameter.numel() > ELEMENTS:
                shape = (ELEMENTS,)
            shapes.append(shape)
            taken += min(parameter.numel(), ELEMENTS)
            if taken >= ELEMENTS:
                break
        mine = self._parameters(shapes)
        told = (self.device.type in ("cpu", "cuda") or None) if fused else False
        optimizer = torch.optim.AdamW(mine, lr=1e-6, fused=told)
        return self._time(lambda: _update(mine, optimizer)) * whole / taken

    def _muon_seconds(self, rows: int, columns: int, count: int) -> float:
        shrunk = max(1.0, (rows * columns / ELEMENTS) ** 0.5)
        shape = (max(1, int(rows / shrunk)), max(1, int(columns / shrunk)))
        together = max(1, min(count, ELEMENTS // (shape[0] * shape[1])))
        mine = self._parameters([shape] * together)
        optimizer = Muon(mine, lr=1e-6)
        return self._time(lambda: _update(mine, optimizer)) * count / together * shrunk**3


def smaller(operation: Operation) -> tuple[list[Any] | None, float]:
    """Arguments that are small enough, and how many of such calls make the whole one."""
    if operation.flops <= LARGEST and operation.bytes <= ROOM:
        return operation.arguments, 1.0
    numbers = FACTORS.get(operation.name.overloadpacket)
    if numbers is None:
        return None, 0.0
    told = list(operation.arguments)
    one, other = (told[number] for number in numbers)
    sizes = [*one.shape, other.shape[-1]]
    while 2 * math.prod(sizes) > LARGEST or 4 * sizes[-2] * max(sizes[-3], sizes[-1]) > ROOM:
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    lead, (rows, middle, columns) = tuple(sizes[:-3]), sizes[-3:]
    told[numbers[0]] = _like(one, (*lead, rows, middle))
    told[numbers[1]] = _like(other, (*lead, middle, columns))
    if numbers[0] == 1:
        told[0] = _like(told[0], ((*lead, rows, columns))[-len(told[0].shape) :])
    return told, operation.flops / (2 * math.prod(sizes))


def _like(shape: Shape, sizes: tuple[int, ...]) -> Shape:
    """A tensor of other sizes whose last two axes lie in memory in the same order."""
    order = list(range(len(sizes)))
    if len(sizes) > 1 and shape.stride[-1] > shape.stride[-2]:
        order[-2:] = reversed(order[-2:])
    stride, step = [0] * len(sizes), 1
    for axis in reversed(order):
        stride[axis], step = step, step * sizes[axis]
    return Shape(sizes, tuple(stride), shape.dtype)


def _update(parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    nn.utils.clip_grads_with_norm_(parameters, 1e9, norm)
    optimizer.step()


def muon_flops(optimizers: Optimizers, device: torch.device) -> int:
    """Floating-point operations of Muon's iterations in one update, of one process that does them all."""
    muon = optimizers.inner.get("muon")
    if not isinstance(muon, Muon):
        return 0
    dtype = iteration_dtype(device)
    return sum(
        iteration_flops(one.shape, group["ns_steps"], dtype, muon.short_side)
        for group in muon.param_groups for one in group["params"]
    )  # fmt: skip
