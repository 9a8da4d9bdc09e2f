"""Products of a few rows with a language model's matrices: how the matrices are stored decides how fast.

Up to rounding all ways of this module give what the layers themselves give; those that round the matrices are in
:mod:`sightling.decode.rounded`.

Legend: ``R`` rows times tokens, ``K`` channels in, ``N`` channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

KEPT, HALF, BRIEF, BYTES, NIBBLES = "kept", "float16", "bfloat16", "int8", "int4"
"""Matrices as they are, or rounded."""


class Product(Protocol):
    """What linear layers that read the same input give, side by side."""

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""

    def added(self, to_RN: Tensor, x_RK: Tensor) -> Tensor:
        """``to_RN`` and y_RN together; of one layer."""


class AsTheyLie:
    """The layers' own matrices, not copied."""

    def __init__(self, weights_NK: Sequence[Tensor], bias_N: Tensor | None) -> None:
        self._weights_NK, self._bias_N = list(weights_NK), bias_N

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""
        if len(self._weights_NK) == 1:
            return F.linear(x_RK, self._weights_NK[0], self._bias_N)
        y_RN = torch.cat([F.linear(x_RK, weight_NK) for weight_NK in self._weights_NK], dim=-1)
        return y_RN if self._bias_N is None else y_RN + self._bias_N

    def added(self, to_RN: Tensor, x_RK: Tensor) -> Tensor:
        """``to_RN`` and y_RN together."""
        y_RN = torch.addmm(to_RN, x_RK, self._weights_NK[0].t())
        return y_RN if self._bias_N is None else y_RN.add_(self._bias_N)


class LaidOut:
    """float32 on a CPU, twice: for one row, and for several.

    One row times a matrix is memory traffic, and reads a matrix that is turned at the memory's speed, the other order
    at two thirds of it. Several rows are left to oneDNN's blocked layout: MKL's products of few rows with one of
    these matrices take two and a half times as long with two threads, and longer with two than with one.
    """

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        self._turned_KN = weight_NK.t().contiguous()
        self._bias_N = bias_N
        # What PyTorch's own compiler makes of a linear layer whose weights do not change; the number is a hint.
        self._blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_NK, 8)

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""
        if x_RK.shape[0] > 1:
            y_RN: Tensor = torch.ops.mkldnn._linear_pointwise(x_RK, self._blocks, self._bias_N, "none", [], "")
            return y_RN
        if self._bias_N is None:
            return torch.mm(x_RK, self._turned_KN)
        return torch.addmm(self._bias_N, x_RK, self._turned_KN)

    def added(self, to_RN: Tensor, x_RK: Tensor) -> Tensor:
        """``to_RN`` and y_RN together."""
        if x_RK.shape[0] > 1:
            y_RN: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_RK, to_RN, self._blocks, self._bias_N, "add")
            return y_RN
        y_RN = torch.addmm(to_RN, x_RK, self._turned_KN)
        return y_RN if self._bias_N is None else y_RN.add_(self._bias_N)


def joined(layers: Sequence[nn.Linear]) -> tuple[list[Tensor], Tensor | None]:
    """(weights_NK of each layer, the bias_N of all); they have biases all or none."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    return [layer.weight.detach() for layer in layers], torch.cat(biases) if biases else None


def exact(layers: Sequence[nn.Linear], copied: bool) -> Product:
    """The product of layers without rounding.

    Args:
        layers: they have biases all or none.
        copied: whether they may be laid out anew, as one matrix.
    """
    weights_NK, bias_N = joined(layers)
    first: Any = weights_NK[0]
    if not copied:
        return AsTheyLie(weights_NK, bias_N)
    whole_NK = torch.cat(weights_NK) if len(weights_NK) > 1 else first
    if first.device.type == "cpu" and first.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return LaidOut(whole_NK, bias_N)
    return AsTheyLie([whole_NK], bias_N)
