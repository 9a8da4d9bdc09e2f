"""Products of a few rows with a language model's matrices: how the matrices are stored decides how fast.

One row times a matrix is memory traffic. ``float16`` halves it and keeps inputs and sums in float32, by PyTorch's own
kernel (FBGEMM), which takes a few rows far better than the float32 ones. ``int8`` quarters it: each output channel has
a scale, and inputs are rounded to bfloat16, which PyTorch's kernel for whole numbers wants.

Legend: ``R`` rows times tokens, ``K`` channels in, ``N`` channels out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

KEPT, HALF, BYTES = "kept", "float16", "int8"
"""Matrices as they are, or rounded."""

LARGEST = 127
"""Of the whole numbers that a channel's weights are rounded to."""

FEW = 32
"""Rows up to which the kernel for whole numbers is the faster one."""


class Product:
    """What linear layers that read the same input give, side by side.

    Args:
        layers: they have biases all or none.
        copied: whether they may be laid out anew, as one matrix; rounded ones always are.
        stored: :data:`KEPT`; or, for float32 on a CPU, :data:`HALF` or :data:`BYTES`.
    """

    def __init__(self, layers: Sequence[nn.Linear], copied: bool, stored: str = KEPT) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias_N = torch.cat(biases) if biases else None
        self._narrow: Callable[[Tensor], Tensor] | None = None
        self._turned_KN: Tensor | None = None
        self._weights_NK: list[Tensor] = []
        if stored == HALF:
            packed = torch.ops.quantized.linear_prepack_fp16(torch.cat(weights), self._bias_N)
            self._narrow = partial(_half, packed)
        elif stored == BYTES:
            self._narrow = partial(_bytes, *whole_numbers(torch.cat(weights)), self._bias_N)
        elif not copied:
            self._weights_NK = weights
        elif weights[0].device.type == "cpu" and weights[0].dtype == torch.float32:
            # One row times a matrix reads it at the memory's speed in this order, and at two thirds in the other.
            self._turned_KN = torch.cat(weights).t().contiguous()
        else:
            self._weights_NK = [torch.cat(weights) if len(weights) > 1 else weights[0]]

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""
        if self._narrow is not None:
            return self._narrow(x_RK)
        if self._turned_KN is not None:
            if self._bias_N is None:
                return torch.mm(x_RK, self._turned_KN)
            return torch.addmm(self._bias_N, x_RK, self._turned_KN)
        if len(self._weights_NK) == 1:
            return F.linear(x_RK, self._weights_NK[0], self._bias_N)
        y_RN = torch.cat([F.linear(x_RK, weight_NK) for weight_NK in self._weights_NK], dim=-1)
        return y_RN if self._bias_N is None else y_RN + self._bias_N

    def added(self, to_RN: Tensor, x_RK: Tensor) -> Tensor:
        """``to_RN`` and y_RN together; of one layer."""
        if self._narrow is not None:
            return self._narrow(x_RK).add_(to_RN)
        matrix_KN = self._turned_KN if self._turned_KN is not None else self._weights_NK[0].t()
        y_RN = torch.addmm(to_RN, x_RK, matrix_KN)
        return y_RN if self._bias_N is None else y_RN.add_(self._bias_N)


def _half(packed: Any, x_RK: Tensor) -> Tensor:
    y_RN: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_RK, packed)
    return y_RN


def whole_numbers(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """(``int8`` weights_NK, scales_N in bfloat16) whose product is nearest to the weights, channel by channel."""
    scale_N = (weight_NK.abs().amax(dim=-1) / LARGEST).to(torch.bfloat16)
    # Rounded with the scale that is kept, and a channel of zeros has none.
    steps_NK = weight_NK / scale_N.float().where(scale_N > 0, torch.ones(()))[:, None]
    return steps_NK.round().clamp(-LARGEST, LARGEST).to(torch.int8), scale_N


def _bytes(whole_NK: Tensor, scale_N: Tensor, bias_N: Tensor | None, x_RK: Tensor) -> Tensor:
    if x_RK.shape[0] > FEW:
        # A prompt: the matrix is widened once for all of it.
        return F.linear(x_RK, whole_NK.float().mul_(scale_N.float()[:, None]), bias_N)
    y_RN = torch._weight_int8pack_mm(x_RK.to(torch.bfloat16), whole_NK, scale_N).float()
    return y_RN if bias_N is None else y_RN.add_(bias_N)
