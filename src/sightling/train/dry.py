"""A training step on tensors that have shapes and no memory: what it computes, keeps and holds at once.

Weights lie on the meta device. What is counted in whole numbers (token ids, documents, places, masks of true and false)
keeps its values, because shapes follow from them; every other tensor is a shape alone. So the model's and the
objective's own code runs, forward and backward, whatever a model is made of, and a model of any size needs no memory.
Products are counted by the formulas of ``torch.utils.flop_counter``.

Legend: ``B`` rows, ``H`` heads, ``T`` tokens, ``D`` width, ``E`` experts, ``R`` rows an expert.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry

from sightling.model.recomputing import again_within

aten = torch.ops.aten

ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
"""The CPU's fused attention, which torch does not count; its form is that of the other devices'."""

FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, **ATTENTION}

KNOWN = 2**20
"""Whole numbers keep their values in tensors of up to so many; larger ones are masks, which only have shapes."""

CHOOSING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
"""Operations whose result has as many rows as their masks have trues."""

PRODUCTS: frozenset[Any] = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
})  # fmt: skip
"""What computes in bfloat16 under autocast."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor of an operation: all of it but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of the values that it shows; what is repeated by a stride of 0 counts once."""
        count = 1
        for size, step in zip(self.shape, self.stride, strict=True):
            count *= size if step or not size else 1
        return count * self.dtype.itemsize


@dataclass(slots=True)
class Operation:
    """One operation on tensors of certain shapes, and how often it came.

    Attributes:
        name: torch's operation.
        arguments: flat arguments; a :class:`Shape` stands for a tensor without values.
        form: how the flat arguments make (args, kwargs).
        flops: floating-point operations of one call.
        bytes: what one call reads and writes.
        count: calls.
    """

    name: Any
    arguments: list[Any]
    form: Any
    flops: int
    bytes: int
    count: int = 0


class _Known(TorchFunctionMode):
    """Attention that a CPU computes in one piece stays one operation, and products are cast as autocast casts them.

    torch takes the pieces apart, and casts nothing, on a device that has no memory.
    """

    def __init__(self, device_type: str, dry: Dry, gathered: Set[int]) -> None:
        super().__init__()
        self.device_type, self.dry, self.gathered = device_type, dry, gathered
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy:
            # torch refuses under a mode, though what has values is a plain tensor.
            with _disable_current_modes():
                return func(*args, **kwargs)
        whole = func is F.scaled_dot_product_attention
        if (whole or func in PRODUCTS) and torch.is_autocast_enabled(self.device_type):
            dtype = torch.get_autocast_dtype(self.device_type)
            args, kwargs = tree_map(lambda value: self._as(value, dtype), (args, kwargs))
        if whole:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _as(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        # A weight is cast once a step, and its cast is kept for the way back.
        if id(value) not in self._cast:
            self._cast[id(value)] = value.to(dtype)
            if id(value) in self.gathered:
                self.dry.let_be(self._cast[id(value)])
        return self._cast[id(value)]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """``scaled_dot_product_attention``: in one piece where a CPU computes it so."""
    if dropout_p or query.ndim != 4 or not query.is_meta:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
    told = {"attn_mask": attn_mask, "scale": scale}
    return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal, **told)[0]


class Dry(TorchDispatchMode):
    """Context in which operations compute shapes. It counts, by operation and shapes, and adds up what is held.

    Args:
        held: tensors that are there before, such as the weights; they do not count as held by the step.

    Attributes:
        operations: everything that was computed, by operation and shapes.
        held: bytes of tensors that are held now.
        peak: the most that were held at once.
        gathered: storages of weights that arrive in the type that they are computed with.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations: dict[Any, Operation] = {}
        self.held = 0
        self.peak = 0
        self.gathered: set[int] = set()
        self._before = [tensor.untyped_storage() for tensor in held]
        self._kept: set[int] = {storage._cdata for storage in self._before}
        self._seen: set[int] = set(self._kept)

    @property
    def flops(self) -> int:
        """Floating-point operations of all products so far, a multiplication and an addition being two."""
        return sum(operation.flops * operation.count for operation in self.operations.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, form = tree_flatten((args, kwargs or {}))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        if not tensors:
            return self._made(func, args, dict(kwargs or {}))
        if not any(tensor.is_meta for tensor in tensors):
            return self._whole_numbers(func, args, dict(kwargs or {}))
        if func.overloadpacket.__name__ in CHOOSING:
            flat, form = tree_flatten(_chosen(args, kwargs or {}))
        moved = [value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value for value in flat]
        out = _call(func, moved, form)
        self._note(func, flat, form, out)
        return out

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What is made from nothing: shapes, but whole numbers have values."""
        if "device" not in kwargs:
            return func(*args, **kwargs)
        out = func(*args, **{**kwargs, "device": torch.device("meta")})
        if not _valued(out):
            flat, form = tree_flatten((args, kwargs))
            self._note(func, flat, form, out)
            return out
        return func(*args, **{**kwargs, "device": torch.device("cpu")})

    def _whole_numbers(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Computed with their values, if what comes of them is whole numbers and not too many."""
        flat, form = tree_flatten((args, kwargs))
        if not func._schema.is_mutable:
            try:
                out = _call(func, [one.to("meta") if isinstance(one, Tensor) else one for one in flat], form)
            except (NotImplementedError, RuntimeError):
                # Shapes that follow from values: how many are not 0, for one.
                out = None
            made = [one for one in tree_flatten(out)[0] if isinstance(one, Tensor)]
            if made and not all(_valued(one) and one.numel() <= KNOWN for one in made):
                self._note(func, flat, form, out)
                return out
        if kwargs.get("device") is not None:
            # What is moved to where the weights are keeps its values.
            kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)

    def _note(self, func: Any, flat: list[Any], form: Any, out: Any) -> None:
        shapes = [_shape(value) if isinstance(value, Tensor) else value for value in flat]
        key = (func, str(form), tuple(map(_hashable, shapes)))
        made = [value for value in tree_flatten(out)[0] if isinstance(value, Tensor)]
        if key not in self.operations:
            told = [value if isinstance(value, Tensor) and not value.is_meta else shape
                    for value, shape in zip(flat, shapes, strict=True)]  # fmt: skip
            formula = FORMULAS.get(func.overloadpacket)
            args, kwargs = tree_unflatten(flat, form)
            flops = formula(*args, **kwargs, out_val=out) if formula is not None else 0
            moved = sum(shape.bytes for shape in shapes if isinstance(shape, Shape))
            moved += sum(_shape(tensor).bytes for tensor in made)
            self.operations[key] = Operation(func, told, form, int(flops), moved)
        self.operations[key].count += 1
        for tensor in made:
            self._hold(tensor)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        if name in self._seen:
            return
        self._seen.add(name)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, name, size).atexit = False

    def _release(self, name: int, size: int) -> None:
        if name not in self._kept:
            self._seen.discard(name)
            self.held -= size

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor no longer: it is told apart, as gradients are, which stay after the step."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen and storage._cdata not in self._kept:
            self._kept.add(storage._cdata)
            self.held -= storage.nbytes()

    def let_be(self, tensor: Tensor) -> None:
        """Count a cast of a weight no longer, which processes that hold a part each gather as it is."""
        self.keep(tensor)
        self.gathered.add(tensor.untyped_storage()._cdata)


def _call(func: Any, flat: list[Any], form: Any) -> Any:
    args, kwargs = tree_unflatten(flat, form)
    if isinstance(kwargs.get("device"), torch.device):
        kwargs["device"] = torch.device("meta")
    return func(*args, **kwargs)


def _valued(value: Any) -> bool:
    """Whether it is a tensor of whole numbers, or of true and false."""
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def _shape(tensor: Tensor) -> Shape:
    return Shape(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _hashable(value: Any) -> Any:
    return value if value.__hash__ is not None else repr(value)


def _chosen(args: Any, kwargs: Any) -> Any:
    """The arguments of an indexing operation, masks of true and false with values turned into the numbers they choose.

    Raises:
        NotImplementedError: a mask that depends on what has no values.
    """
    numbers: list[Any] = []
    for one in args[1]:
        if one is None or one.dtype not in (torch.bool, torch.uint8):
            numbers.append(one)
        elif one.is_meta:
            raise NotImplementedError("a choice of rows that depends on what the model computes")
        else:
            numbers += one.nonzero().unbind(1)
    return (args[0], numbers, *args[2:]), kwargs


@contextmanager
def dry_run(held: Iterable[Tensor], device_type: str, bf16: bool, gathered: Set[int] = frozenset()) -> Iterator[Dry]:
    """In the body, nothing is computed and everything is counted, as on a device of that type in that precision.

    ``gathered``: the ids of weights that are gathered, and let go, in the type that they are computed with.
    """
    dry = Dry(held)
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, dtype=torch.bfloat16, enabled=bf16))
        known = stack.enter_context(_Known(device_type, dry, gathered))
        # torch leaves the mode on the way back, and what is computed once more there must be computed alike.
        stack.enter_context(again_within(known))
        yield stack.enter_context(dry)


def share_evenly(model: nn.Module) -> None:
    """Mixtures of experts take as many tokens each, because which expert takes which depends on values."""
    for module in model.modules():
        up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
        if isinstance(up, nn.Parameter) and isinstance(down, nn.Parameter) and up.ndim == down.ndim == 3:
            module.forward = _Even(module)


class _Even:
    """The way through experts that share the tokens evenly."""

    def __init__(self, experts: Any) -> None:
        self.experts = experts

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Sums_TD over the experts of each token."""
        up_EFD, down_EDF = self.experts.gate_up_proj, self.experts.down_proj
        count, tokens = len(up_EFD), len(hidden_states)
        places = torch.arange(-(-top_k_index.numel() // count) * count) % tokens
        rows_ERD = hidden_states[places].view(count, -1, hidden_states.shape[-1])
        gate_ERF, value_ERF = torch.bmm(rows_ERD, up_EFD.mT).chunk(2, dim=-1)
        out_ERD = torch.bmm(self.experts.act_fn(gate_ERF) * value_ERF, down_EDF.mT)
        weights_R1 = top_k_weights.reshape(-1)[places, None].to(out_ERD.dtype)
        summed_TD = torch.zeros_like(hidden_states)
        return summed_TD.index_add(0, places, (out_ERD.flatten(0, 1) * weights_R1).to(summed_TD.dtype))
