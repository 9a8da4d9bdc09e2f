"""The loss at supervised positions without all their logits at once.

Logits are the largest tensor of a step where vocabularies are large: S x V of them, their float32 copy, their
log-probabilities and their gradient. Here they are made in chunks of C positions, and each chunk's gradients with
respect to hidden states and head are taken at once, so that no logits are kept. Source of the method: the fused linear
cross entropy of Liger Kernel (Hsu et al. 2024, arXiv:2410.10989).

Legend: ``S`` supervised positions, ``C`` positions of a chunk, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightling.model.recomputing import recompute

AT_ONCE = 2**25
"""Logits of a chunk where nothing else is told: 128 MiB in float32, which even a small vocabulary seldom reaches."""


def chunk_length(positions: int, vocabulary: int, told: int | None) -> int:
    """Positions of a chunk: as told, where 0 is all of them; without it as many as make :data:`AT_ONCE` logits."""
    if told is None:
        told = max(1, AT_ONCE // max(1, vocabulary))
    return min(positions, told) if told else positions


def summed_loss(
    head: Any, hidden_SD: Tensor, target_S: Tensor, vocabulary: int, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The cross-entropy summed over S positions, and how many argmax gets right.

    In chunks it is that of all at once but for the order of sums: with a plain linear head as :class:`ChunkedLoss`,
    with any other by computing each chunk's logits once more on the way back.

    Args:
        head: hidden states to logits.
        hidden_SD: hidden states.
        target_S: the right tokens.
        vocabulary: V, about.
        chunk: positions at once, see :func:`chunk_length`.

    Returns:
        (loss, hits), both scalars.
    """
    length = chunk_length(len(hidden_SD), vocabulary, chunk)
    if length >= len(hidden_SD):
        return _dense(head, hidden_SD, target_S)
    learns = torch.is_grad_enabled()
    if learns and _plain(head):
        return ChunkedLoss.apply(hidden_SD, head.weight, head.bias, target_S, length, _computing(hidden_SD))
    losses, hits = [], []
    for part_CD, target_C in zip(hidden_SD.split(length), target_S.split(length), strict=True):
        loss, right = recompute(_dense, head, part_CD, target_C) if learns else _dense(head, part_CD, target_C)
        losses.append(loss)
        hits.append(right)
    return torch.stack(losses).sum(), torch.stack(hits).sum()


def _dense(head: Any, hidden_SD: Tensor, target_S: Tensor) -> tuple[Tensor, Tensor]:
    logits_SV = head(hidden_SD).float()
    loss = F.cross_entropy(logits_SV, target_S, reduction="sum")
    return loss, (logits_SV.detach().argmax(-1) == target_S).sum()


def _plain(head: Any) -> bool:
    """Whether a head is its weight and bias and nothing else: no adapter, no hook, no parametrization."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(head) is nn.Linear and "forward" not in vars(head) and not any(getattr(head, name) for name in hooks)


def _computing(hidden_SD: Tensor) -> torch.dtype | None:
    """The dtype of products under autocast; None outside of it."""
    kind = hidden_SD.device.type
    if kind == "meta":
        # A step that is run dry, as on this machine's own device.
        device = torch.accelerator.current_accelerator()
        kind = device.type if device is not None else "cpu"
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


class ChunkedLoss(torch.autograd.Function):
    """hidden_SD, weight_VD, bias_V or None, target_S to (summed loss, hits), ``length`` positions at once.

    Products are in ``dtype``, or, where that is None, in the tensors' own; softmax and sums are in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_S: Tensor, length: int,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Also the gradients for a loss that counts once; the way back only scales them."""
        needs = ctx.needs_input_grad
        own_VD = weight_VD if dtype is None else weight_VD.to(dtype)
        bias = bias_V if bias_V is None or dtype is None else bias_V.to(dtype)
        of_hidden_SD = torch.empty_like(hidden_SD) if needs[0] else None
        of_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs[1] else None
        of_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs[2] and bias_V is not None else None
        loss = hidden_SD.new_zeros((), dtype=torch.float32)
        hits = torch.zeros((), dtype=torch.long, device=hidden_SD.device)
        for start in range(0, len(hidden_SD), length):
            part = slice(start, start + length)
            target_C = target_S[part]
            hidden_CD = hidden_SD[part] if dtype is None else hidden_SD[part].to(dtype)
            # What is cast already is left alone by autocast, so that a cast weight is not kept for others either.
            logits_CV = F.linear(hidden_CD, own_VD, bias).float()
            hits = hits + (logits_CV.argmax(-1) == target_C).sum()
            of_logits_CV = logits_CV.log_softmax(-1)
            del logits_CV
            loss = loss + F.nll_loss(of_logits_CV, target_C, reduction="sum")
            if not any(needs[:3]):
                continue
            # From log-probabilities to the loss's gradient in the same memory: probabilities, less 1 at the target.
            of_logits_CV.exp_()
            of_logits_CV.scatter_add_(1, target_C[:, None], of_logits_CV.new_full((len(target_C), 1), -1.0))
            if of_bias_V is not None:
                of_bias_V += of_logits_CV.sum(0)
            # As on the usual way back, the gradient of what was computed in bfloat16 is rounded to it.
            told_CV = of_logits_CV.to(hidden_CD.dtype)
            if of_hidden_SD is not None:
                of_hidden_SD[part] = told_CV @ own_VD
            if of_weight_VD is not None and told_CV.dtype == torch.float32:
                of_weight_VD.addmm_(told_CV.T, hidden_CD)
            elif of_weight_VD is not None:
                of_weight_VD += told_CV.T @ hidden_CD
        ctx.save_for_backward(of_hidden_SD, of_weight_VD, of_bias_V)
        ctx.dtypes = hidden_SD.dtype, weight_VD.dtype, bias_V.dtype if bias_V is not None else None
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """The gradients of hidden_SD, weight_VD and bias_V."""
        # Scaled in place: nothing else needs them, and a second way back through the same graph is refused by torch.
        found = [
            None if one is None else one.mul_(grad).to(dtype)
            for one, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*found, None, None, None)

