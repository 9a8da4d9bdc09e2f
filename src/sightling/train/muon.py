"""Muon: momentum, then the nearest orthogonal matrix, for the hidden matrices of a network.

Source: Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ ; the scaling of the update
to AdamW's size is Liu et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982), which
``torch.optim.Muon`` calls ``match_rms_adamw``: AdamW's learning rate and weight decay can be kept.

The update is ``torch.optim.Muon``'s. Four things differ, for speed: matrices of one shape go through the iteration
together, processes that train one model share the matrices among them, on a CPU without instructions for bfloat16 it
computes in float32 (bfloat16 is 5 to 6 times slower there, and twice as fast where it has them, as measured on one
machine of each kind), and in float32, which is exact enough for it, the steps for a long matrix are done on its
products with itself.

Legend: ``K`` matrices, ``M`` rows, ``N`` columns, M <= N.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sightling.train.parallel import is_cut, local
from sightling.train.shared_muon import in_shares, ranks

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic iteration, chosen for the steepest slope at zero."""

WIDE = 2
"""How many times as long as its short side a matrix is for which steps on the short side alone take fewer operations:
2 M M N + 17 M M M in place of 10 M M N + 5 M M M, for five steps."""

MAX_ELEMENTS = 2**26
"""Matrices are stacked up to this many elements, so that the copies stay small beside the model."""


def iteration_dtype(device: torch.device) -> torch.dtype:
    """What the iteration computes with: decided by the hardware alone, so that a resumed run takes the same."""
    if device.type != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def orthogonalise(update_KMN: Tensor, steps: int = 5, short_side: bool = True, eps: float = 1e-7) -> Tensor:
    """Each matrix with its singular values pushed to about 1 (between 0.7 and 1.2), by Newton-Schulz.

    Takes wide matrices (M <= N), returns them as :func:`iteration_dtype` says. ``short_side``: in float32 long ones are
    multiplied by a polynomial of their products with themselves, which takes fewer operations; else never.
    """
    x_KMN = update_KMN.to(iteration_dtype(update_KMN.device))
    # The Frobenius norm bounds the spectral norm, and the iteration needs a spectral norm of at most 1.
    x_KMN = x_KMN / x_KMN.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    if short_side and _on_short_side(x_KMN.shape[-2], x_KMN.shape[-1], x_KMN.dtype):
        return torch.bmm(_factor(torch.bmm(x_KMN, x_KMN.mT), steps), x_KMN)
    for _ in range(steps):
        gram_KMM = torch.bmm(x_KMN, x_KMN.mT)
        change_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=B, alpha=C)
        x_KMN = torch.baddbmm(x_KMN, change_KMM, x_KMN, beta=A)
    return x_KMN


def _on_short_side(rows: int, columns: int, dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and columns >= WIDE * rows


def iteration_flops(shape: Sequence[int], steps: int, dtype: torch.dtype, short_side: bool = True) -> int:
    """Floating-point operations of :func:`orthogonalise` for a matrix, two for a multiplication and an addition."""
    rows, columns = min(shape), max(shape)
    if short_side and _on_short_side(rows, columns, dtype):
        return 4 * rows * rows * columns + (4 * steps - 3) * 2 * rows**3
    return steps * (4 * rows * rows * columns + 2 * rows**3)


def _factor(gram_KMM: Tensor, steps: int) -> Tensor:
    """What all steps multiply x_KMN by, from its products with itself: a polynomial of them, without x_KMN's long side.

    A step makes x of x P, and of x's products with themselves G, P G P, where P = A + B G + C G G. All these commute.
    """
    whole_KMM = torch.eye(gram_KMM.shape[-1], dtype=gram_KMM.dtype, device=gram_KMM.device)
    for step in range(steps):
        factor_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=B, alpha=C)
        factor_KMM.diagonal(dim1=-2, dim2=-1).add_(A)
        whole_KMM = torch.bmm(factor_KMM, whole_KMM) if step else factor_KMM
        if step + 1 < steps:
            gram_KMM = torch.bmm(factor_KMM, torch.bmm(factor_KMM, gram_KMM))
    return whole_KMM


def orthogonal(updates: Sequence[Tensor], steps: int = 5, short_side: bool = True) -> list[Tensor]:
    """:func:`orthogonalise` for matrices that are alike but for lying or standing; each keeps its shape."""
    wide = [update if update.shape[0] <= update.shape[1] else update.mT for update in updates]
    done_KMN = orthogonalise(torch.stack(wide), steps, short_side)
    return [one if update.shape[0] <= update.shape[1] else one.mT for update, one in zip(updates, done_KMN)]


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters. Those that are cut among processes are brought together for the iteration.

    Args:
        shared: whether processes that hold the same parameters do a part of the iterations each.
        short_side: as :func:`orthogonalise` takes it.

    Raises:
        ValueError: a parameter that is no matrix.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        shared: bool = True,
        short_side: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps})
        self.shared, self.short_side = shared, short_side
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon takes matrices only, not a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameters in _together(learning, self._spread()):
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            assert parameter.grad is not None
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            updates.append(parameter.grad.lerp(momentum, group["momentum"]))
        done = self._orthogonal(updates, group["ns_steps"])
        for parameter, update in zip(parameters, done, strict=True):
            # Brings the root mean square of the update to 0.2, about that of an AdamW update.
            scale = 0.2 * math.sqrt(max(parameter.shape))
            own = local(parameter)
            own.mul_(1 - group["lr"] * group["weight_decay"])
            own.add_(update, alpha=-group["lr"] * scale)

    def _spread(self) -> bool:
        return self.shared and ranks() > 1

    def _orthogonal(self, updates: list[Tensor], steps: int) -> list[Tensor]:
        dtype = iteration_dtype(updates[0].device)

        def alike(some: list[Tensor]) -> list[Tensor]:
            return orthogonal(some, steps, self.short_side)

        if is_cut(updates[0]):
            from sightling.train.sharded_muon import in_turns

            return in_turns(updates, alike, dtype)
        return in_shares(updates, alike, dtype) if self._spread() else alike(updates)


def _together(parameters: Sequence[Tensor], spread: bool) -> list[list[Tensor]]:
    """What is computed at once: matrices of one shape; where processes share the work, of all shapes."""
    groups: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        # Of two that are cut, one that lies and one that stands have other rows.
        shape: Any = parameter.shape if is_cut(parameter) else () if spread else sorted(parameter.shape)
        groups[(parameter.device, parameter.dtype, *shape)].append(parameter)
    found: list[list[Tensor]] = []
    for group in groups.values():
        held = MAX_ELEMENTS
        for parameter in group:
            if held + parameter.numel() > MAX_ELEMENTS:
                found.append([])
                held = 0
            found[-1].append(parameter)
            held += parameter.numel()
    return found
