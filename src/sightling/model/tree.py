"""Attention over packed rows that computes only the scores a tree needs.

Legend: ``B`` rows, ``T`` tokens, ``N`` = B x T, ``H`` heads, ``G`` key-value heads, ``D`` head width, ``S`` segments
of a bucket, ``L`` queries and ``K`` keys a segment.

The dense mask of :mod:`sightling.model.mask` forbids most of a row's T x T scores, and they are computed all the
same. Here each trunk and each branch is a segment: its queries meet its document's trunk and its own tokens alone. To
treat a shared prefix apart is known from decoding (Hydragen, Juravsky et al. 2024, arXiv:2402.05099; the tree
attention of SpecInfer, Miao et al. 2023, arXiv:2305.09781); here it serves training and has a backward pass.
Segments of like size share a bucket, so that a long one does not pad the short ones. Tokens go into buckets by a
gather and, as each has one place as a query, come back by a gather of the inverse; a trunk's key has a place in each
branch, and its gradients are summed by an embedding bag, which a CPU does far faster than ``index_add``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sightling.model.mask import TRUNK

NAME = "sightling_tree"
"""The attention implementation's name among those of transformers."""

FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"}
)
"""Language models whose attention is softmax(scaling q k) v, and whose decoder passes the layout on to it."""

NO_MASK = torch.empty(0, 0, 0, 0)
"""Stands for the mask beside a layout: other attention that met it without the layout would raise, not see all."""

WORTH = 2
"""The compact form is taken where it computes at most one part in so many of the dense form's scores."""

Index = NDArray[np.int64]
Cut = Callable[[Tensor], Tensor]


def grid(numbers: Index, least: int) -> Index:
    """Each number up to a multiple of an eighth to a sixteenth of itself, or of ``least``.

    That pads little and gives few sizes: for each that it meets the CPU's library prepares a matrix product anew.
    """
    steps = np.maximum(2 ** np.maximum(np.frexp(numbers)[1].astype(np.int64) - 4, 0), least)
    return -(-numbers // steps) * steps


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of like size: the token of each query_SL and key_SK (N where there is none), and what sees what_SLK."""

    queries: Index
    keys: Index
    allowed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout for one number of heads and one dtype. A row is one head of one token; row N x H holds zeros.

    ``masks``: each bucket's additive mask, (S G, H / G L, K). ``queries``: the row of each query's place, ``keys``
    that of each key's. ``back``: the place of each row as a query (the last place, of zeros, on padding).
    ``bag`` and ``offsets``: the places of each row as a key.
    """

    masks: list[Tensor]
    queries: Tensor
    keys: Tensor
    back: Tensor
    bag: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a batch of packed rows stand in buckets; made once a batch, used by every layer."""

    tokens: int
    buckets: list[Bucket]
    plans: dict[tuple[int, int, torch.dtype], Plan] = field(default_factory=dict)

    @property
    def scores(self) -> int:
        """How many scores a head computes, with padding."""
        return sum(bucket.allowed.size for bucket in self.buckets)

    def plan(self, heads: int, groups: int, dtype: torch.dtype) -> Plan:
        """The layout for H heads that share G key-value heads, computed at its first use."""
        if (heads, groups, dtype) not in self.plans:
            self.plans[heads, groups, dtype] = self._plan(heads, groups, dtype)
        return self.plans[heads, groups, dtype]

    def _plan(self, heads: int, groups: int, dtype: torch.dtype) -> Plan:
        queries = self._rows([bucket.queries for bucket in self.buckets], heads)
        keys = self._rows([bucket.keys for bucket in self.buckets], groups)
        back = np.full(self.tokens * heads + 1, len(queries))
        back[queries] = np.arange(len(queries))
        counts = np.bincount(keys, minlength=self.tokens * groups + 1)[:-1]
        bag = np.argsort(keys, kind="stable")[: counts.sum()]
        masks = []
        for bucket in self.buckets:
            segments, length, width = bucket.allowed.shape
            # Half of the minimum: a score added to it does not overflow.
            mask_SLK = torch.zeros(bucket.allowed.shape, dtype=dtype)
            mask_SLK.masked_fill_(~torch.from_numpy(bucket.allowed), torch.finfo(dtype).min / 2)
            whole = mask_SLK[:, None].expand(segments, heads, length, width)
            masks.append(whole.reshape(segments * groups, heads // groups * length, width))
        return Plan(masks, *map(torch.from_numpy, (queries, keys, back[:-1], bag, np.cumsum(counts) - counts)))

    def _rows(self, tokens: list[Index], heads: int) -> Index:
        """The rows of places, segment by segment and head by head; no token is the row of zeros for each head."""
        last, each = self.tokens * heads, np.arange(heads)[:, None]
        return np.concatenate([np.minimum(part[:, None] * heads + each, last).reshape(-1) for part in tokens])


def lay_out(document_ids_BT: Tensor, branch_ids_BT: Tensor) -> Layout | None:
    """The layout of packed rows; None where the rows are not documents of a trunk and then branches, or are empty.

    ``document_ids_BT`` is negative on padding, which attends to nothing here: its output is zero.
    """
    rows, length = document_ids_BT.shape
    document_N, branch_N = document_ids_BT.numpy().reshape(-1), branch_ids_BT.numpy().reshape(-1)
    tokens = rows * length
    new_N = np.ones(tokens, dtype=bool)
    new_N[1:] = (document_N[1:] != document_N[:-1]) | (branch_N[1:] != branch_N[:-1])
    new_N[::length] = True
    starts = np.flatnonzero(new_N)
    ends = np.append(starts[1:], tokens)
    real = document_N[starts] >= 0
    starts, ends = starts[real], ends[real]
    if not len(starts):
        return None
    place, document, branch = starts // length, document_N[starts], branch_N[starts]
    # A document opens where its row or number changes; what stands first in it, if it is a trunk, is shared.
    opens = np.ones(len(starts), dtype=bool)
    opens[1:] = (place[1:] != place[:-1]) | (document[1:] != document[:-1])
    names = [*zip(place.tolist(), document.tolist(), branch.tolist(), strict=True)]
    pieces = len({*names}) != len(names) or len({name[:2] for name in names}) != opens.sum()
    if pieces or (~opens & (branch == TRUNK)).any():
        return None
    first = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    shared = np.where(~opens & (branch[first] == TRUNK), ends[first] - starts[first], 0)
    lengths, trunks = grid(ends - starts, 8), grid(shared, 8)
    told_4S = np.stack([starts, ends, starts[first], shared])
    rooms = sorted({*zip(lengths.tolist(), trunks.tolist(), strict=True)})
    buckets = [_bucket(told_4S[:, (lengths == own) & (trunks == trunk)], own, trunk, tokens) for own, trunk in rooms]
    return Layout(tokens, buckets)


def _bucket(told_4S: Index, size: int, trunk: int, tokens: int) -> Bucket:
    """Segments by start, end, their trunk's start and its length, with room for that many tokens of their own and it.

    Segments that are added to reach a number of the grid are empty.
    """
    count = np.array(told_4S.shape[1:])
    starts, ends, trunks, shared = np.pad(told_4S, ((0, 0), (0, (grid(count, 1) - count).item())))[..., None]
    own = np.arange(size)
    queries = np.where(starts + own < ends, starts + own, tokens)
    wide = np.arange(size + trunk)
    after = starts + wide - shared
    keys = np.where(wide < shared, trunks + wide, np.where(after < ends, after, tokens))
    # All trunk tokens stand before all of a branch's, so that order in the row is order on the path.
    allowed = keys[:, None, :] <= np.where(queries < tokens, queries, -1)[:, :, None]
    return Bucket(queries, keys, allowed)


def _rows(x_BHTD: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows (N x H + 1, D), one head of one token each and one of zeros."""
    batch, heads, length, width = x_BHTD.shape
    rows = torch.empty(batch * length * heads + 1, width, dtype=dtype)
    rows[:-1].view(batch, length, heads, width).copy_(x_BHTD.transpose(1, 2))
    rows[-1] = 0
    return rows


def _parts(plan: Plan) -> Iterator[tuple[Tensor, Cut, Cut]]:
    """Each bucket's mask (S G, H / G L, K), and what cuts its queries and its keys out of all places, as views."""
    own, seen = 0, 0
    for mask in plan.masks:
        blocks, length, width = mask.shape
        yield mask, _cut(own, blocks, length), _cut(seen, blocks, width)
        own, seen = own + blocks * length, seen + blocks * width


def _cut(start: int, blocks: int, each: int) -> Cut:
    return lambda places: places[start : start + blocks * each].view(blocks, each, -1)


class TreeAttention(torch.autograd.Function):
    """q_BHTD, k_BGTD, v_BGTD to out_BTHD, computed in ``dtype``; zero on padding."""

    @staticmethod
    def forward(
        ctx: Any, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, layout: Layout, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        """One product, softmax and product a bucket; the softmax is kept for the way back."""
        batch, heads, length, _ = q_BHTD.shape
        plan = layout.plan(heads, k_BGTD.shape[1], dtype)
        q = _rows(q_BHTD, dtype).index_select(0, plan.queries)
        k = _rows(k_BGTD, dtype).index_select(0, plan.keys)
        v = _rows(v_BGTD, dtype).index_select(0, plan.keys)
        out = torch.empty(len(q) + 1, v.shape[1], dtype=dtype)
        out[-1] = 0
        weights = []
        with torch.autocast("cpu", enabled=False):
            for mask, own, seen in _parts(plan):
                scores = torch.baddbmm(mask, own(q), seen(k).mT, alpha=scaling)
                # In bfloat16 too the kernel takes exponents and sums in float32.
                weights.append(scores.softmax(-1))
                torch.bmm(weights[-1], seen(v), out=own(out))
        ctx.save_for_backward(q, k, v, *weights)
        ctx.plan, ctx.scaling = plan, scaling
        return out.index_select(0, plan.back).view(batch, length, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTHD: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of q_BHTD, k_BGTD and v_BGTD."""
        q, k, v, *weights = ctx.saved_tensors
        plan: Plan = ctx.plan
        batch, length, heads, _ = grad_BTHD.shape
        # Places of no token have no gradient, and so give none to the keys that they see.
        grad = _rows(grad_BTHD.transpose(1, 2), q.dtype).index_select(0, plan.queries)
        of_q = torch.empty(len(q) + 1, q.shape[1], dtype=q.dtype)
        of_q[-1] = 0
        of_k, of_v = torch.empty_like(k), torch.empty_like(v)
        for weight, (_, own, seen) in zip(weights, _parts(plan), strict=True):
            torch.bmm(weight.mT, own(grad), out=seen(of_v))
            of_weight = torch.bmm(own(grad), seen(v).mT)
            of_scores = torch._softmax_backward_data(of_weight, weight, -1, q.dtype).mul_(ctx.scaling)
            torch.bmm(of_scores, seen(k), out=own(of_q))
            torch.bmm(of_scores.mT, own(q), out=seen(of_k))
        back_BHTD = of_q.index_select(0, plan.back).view(batch, length, heads, -1).transpose(1, 2)
        summed = (F.embedding_bag(plan.bag, places, plan.offsets, mode="sum") for places in (of_k, of_v))
        k_BGTD, v_BGTD = (rows.view(batch, length, -1, rows.shape[1]).transpose(1, 2) for rows in summed)
        return back_BHTD, k_BGTD, v_BGTD, None, None, None


def tree_attention(
    module: torch.nn.Module,
    query: Tensor, key: Tensor, value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The implementation as transformers calls it: query_BHTD, key_BGTD and value_BGTD to out_BTHD.

    Raises:
        ValueError: no layout, rows of other sizes than the layout's, or what this form does not compute.
    """
    if tree is None or attention_mask is not NO_MASK or dropout:
        raise ValueError("tree attention takes a layout, and neither a mask nor dropout")
    batch, _, length, width = query.shape
    if batch * length != tree.tokens or key.shape[2] != length:
        raise ValueError(f"{batch} rows of {length} queries and {key.shape[2]} keys, but a layout of {tree.tokens}")
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return TreeAttention.apply(query, key, value, tree, scaling if scaling is not None else width**-0.5, dtype), None


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)


def layout_for(language_model: PreTrainedModel, document_ids_BT: Tensor, branch_ids_BT: Tensor) -> Layout | None:
    """The layout by which a language model computes packed rows; None where the dense mask is to be used.

    Model and sizes alone decide, so that a run repeats to the bit. The caller has seen that no window is too short.
    """
    config = language_model.config
    usual = document_ids_BT.device.type == "cpu" and config.model_type in FAMILIES
    usual &= config._attn_implementation == "sdpa" and not (language_model.training and config.attention_dropout)
    if not usual or any(map(_forgets, language_model.modules())):
        return None
    layout = lay_out(document_ids_BT, branch_ids_BT)
    return layout if layout and layout.scores * WORTH <= document_ids_BT.numel() * document_ids_BT.shape[1] else None


def _forgets(module: torch.nn.Module) -> bool:
    """Whether a layer runs again in the backward pass, when the configuration names the usual attention again."""
    # Not so with this project's own checkpointing (:mod:`sightling.model.recomputing`).
    again = getattr(module, "_gradient_checkpointing_func", None)
    return bool(getattr(module, "gradient_checkpointing", False)) and not getattr(again, "keeps_attention", False)


@contextmanager
def attending(config: PreTrainedConfig) -> Iterator[None]:
    """While it runs, ``config`` names this attention; the decoder is to be given ``NO_MASK`` and ``tree``."""
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
