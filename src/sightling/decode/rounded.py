"""Products with matrices that are rounded for speed, for float32 models on a CPU; PyTorch's own kernels.

One row times a matrix is memory traffic, and several rows are half of it, so that fewer bits are faster.

* ``float16`` weights, inputs and sums in float32 (FBGEMM).
* ``bfloat16`` weights and inputs, sums in float32 (oneDNN); fast where a processor has instructions for it.
* ``int8`` weights with a scale for each channel out, and inputs in whole numbers too, with a scale for each row, so
  that no row's answer depends on its neighbours (FBGEMM).
* ``int4`` weights with a scale and an offset for every few channels in, inputs in bfloat16.

Source of the methods: Dettmers et al. 2022, "LLM.int8()" (arXiv:2208.07339), for scales by row and channel, without its
outliers; Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), for groups, here rounded to the nearest.

Legend: ``R`` rows times tokens, ``K`` channels in, ``N`` channels out, ``C`` groups of channels in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from sightling.decode.products import BRIEF, BYTES, HALF, NIBBLES, joined

LARGEST = 127
"""Of the whole numbers that a channel's weights are rounded to."""

INPUTS = 63
"""Of those that inputs are rounded to: with eight bits, sums of products of 16 bits run over where a processor has no
instructions for longer ones (AVX2)."""

GROUPS = (64, 32)
"""Channels in that share a scale in four bits; the first that divides their number."""

OUT = 16
"""Of which the channels out have to be a multiple for four bits."""

FEW = 16
"""Rows up to which the kernel for four bits is the faster one."""

ENGINES = ("x86", "fbgemm")
"""PyTorch's engines that have the products."""

TYPED = torch, "_make_per_channel_quantized_tensor"
"""What makes the int8 kernel's weights; PyTorch means to drop this type of tensor."""

KERNELS = {
    HALF: (torch.ops.quantized, "linear_dynamic_fp16"),
    BRIEF: (torch.ops.mkldnn, "_linear_pointwise"),
    BYTES: (torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32"),
    NIBBLES: (torch, "_weight_int4pack_mm_for_cpu"),
}
"""Where PyTorch has each kernel."""


def lacking(stored: str) -> str:
    """What this PyTorch has not of what rounded weights need; empty where nothing is missing."""
    if torch.backends.quantized.engine not in ENGINES:
        return "PyTorch's products for x86"
    # The output head is in float16 always.
    for place, name in (KERNELS[HALF], *((KERNELS[stored], TYPED) if stored == BYTES else (KERNELS[stored],))):
        if not hasattr(place, name):
            return f"the kernel {name} of earlier versions of PyTorch"
    return ""


class Rounded:
    """A product whose matrix was rounded."""

    def __init__(self, product: Callable[[Tensor], Tensor], bias_N: Tensor | None) -> None:
        self._product, self._bias_N = product, bias_N

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""
        y_RN = self._product(x_RK)
        return y_RN if self._bias_N is None else y_RN.add_(self._bias_N)

    def added(self, to_RN: Tensor, x_RK: Tensor) -> Tensor:
        """``to_RN`` and y_RN together."""
        return self(x_RK).add_(to_RN)


def rounded(layers: Sequence[nn.Linear], stored: str) -> Rounded:
    """The product of float32 layers on a CPU, side by side, as one rounded matrix.

    Args:
        layers: they have biases all or none.
        stored: :data:`~sightling.decode.products.HALF`, ``BRIEF``, ``BYTES`` or ``NIBBLES``.
    """
    weights_NK, bias_N = joined(layers)
    weight_NK = torch.cat(weights_NK)
    if stored == HALF:
        return Rounded(partial(_half, torch.ops.quantized.linear_prepack_fp16(weight_NK, None)), bias_N)
    if stored == BRIEF:
        brief_NK = weight_NK.bfloat16()
        return Rounded(partial(_brief, brief_NK, _blocks(brief_NK)), bias_N)
    if stored == BYTES:
        return Rounded(partial(_bytes, _packed_bytes(weight_NK)), bias_N)
    return Rounded(_Nibbles(weight_NK), bias_N)


def _half(packed: Any, x_RK: Tensor) -> Tensor:
    y_RN: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_RK, packed)
    return y_RN


def brief_is_fast() -> bool:
    """Whether this processor has instructions for products in bfloat16 (AVX512 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _blocks(weight_NK: Tensor) -> Tensor | None:
    """A bfloat16 matrix in oneDNN's layout; None where it has none for this processor."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_NK, 8)
    return blocks


def _brief(weight_NK: Tensor, blocks: Tensor | None, x_RK: Tensor) -> Tensor:
    if blocks is None:
        return F.linear(x_RK.bfloat16(), weight_NK).float()
    y_RN: Tensor = torch.ops.mkldnn._linear_pointwise(x_RK.bfloat16(), blocks, None, "none", [], "")
    return y_RN.float()


def _packed_bytes(weight_NK: Tensor) -> Any:
    scale_N = (weight_NK.abs().amax(dim=-1).double() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    whole_NK = (weight_NK / scale_N[:, None]).round().to(torch.int8)
    # PyTorch warns here, once a process, that it means to drop this type of tensor.
    typed_NK = torch._make_per_channel_quantized_tensor(
        whole_NK, scale_N, torch.zeros(len(scale_N), dtype=torch.long), 0
    )
    return torch.ops.quantized.linear_prepack(typed_NK, None)


def _bytes(packed: Any, x_RK: Tensor) -> Tensor:
    largest_R1 = x_RK.abs().amax(-1, keepdim=True).clamp_min_(1e-30)
    y_RN: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x_RK / largest_R1, 1 / INPUTS, INPUTS + 1, packed
    )
    return y_RN.mul_(largest_R1)


def fits(channels_in: int, channels_out: int) -> bool:
    """Whether a matrix of that size can be stored in four bits."""
    return channels_in % min(GROUPS) == 0 and channels_out % OUT == 0


class _Nibbles:
    """Four bits a weight: ``scale * (number - 8) + offset``, number from 0 to 15."""

    def __init__(self, weight_NK: Tensor) -> None:
        count, channels = weight_NK.shape
        self._group = next(size for size in GROUPS if channels % size == 0)
        grouped_NCX = weight_NK.view(count, channels // self._group, self._group)
        low_NC1, high_NC1 = grouped_NCX.amin(-1, keepdim=True), grouped_NCX.amax(-1, keepdim=True)
        # Rounded with the values that are kept.
        scale_NC1 = ((high_NC1 - low_NC1) / 15).clamp_min(1e-30).bfloat16().float()
        offset_NC1 = (low_NC1 + 8 * scale_NC1).bfloat16().float()
        whole_NCX = ((grouped_NCX - offset_NC1) / scale_NC1 + 8).round().clamp(0, 15)
        self._packed = torch._convert_weight_to_int4pack_for_cpu(whole_NCX.view(count, channels).to(torch.int32), 1)
        self._scales_CN2 = torch.cat([scale_NC1, offset_NC1], dim=-1).transpose(0, 1).contiguous().bfloat16()
        self._parts = (whole_NCX - 8).to(torch.int8), scale_NC1, offset_NC1

    def __call__(self, x_RK: Tensor) -> Tensor:
        """y_RN."""
        if x_RK.shape[0] <= FEW:
            return self._few(x_RK)
        # A prompt: the matrix is widened once for all of it.
        whole_NCX, scale_NC1, offset_NC1 = self._parts
        return F.linear(x_RK, torch.addcmul(offset_NC1, whole_NCX.float(), scale_NC1).flatten(1))

    def _few(self, x_RK: Tensor) -> Tensor:
        wide_RK = x_RK.to(torch.bfloat16)
        return torch._weight_int4pack_mm_for_cpu(wide_RK, self._packed, self._group, self._scales_CN2).float()
