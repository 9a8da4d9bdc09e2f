"""Linear layers whose matrix rests in 4 or 8 bits, which is what QLoRA (Dettmers et al. 2023, arXiv:2305.14314) adapts.

bitsandbytes rounds a matrix and makes it again; it is imported where that is done, not before. The layer is not
bitsandbytes' own, which on some CPUs rounds its scales once more when it is first asked in evaluation mode, and which
under autocast answers in another precision than torch's layer does.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIBRARY = "bitsandbytes"

KINDS = ("nf4", "fp4", "int8")
"""How a matrix may be rounded."""

BLOCK = 64
"""Weights that share a scale, as in the paper."""

SCALES = 256
"""Scales that share one of their own where they are rounded, too."""


def available() -> bool:
    """Whether bitsandbytes is installed."""
    return find_spec(LIBRARY) is not None


def _round(weight: Tensor, kind: str, double: bool) -> dict[str, Tensor]:
    """What is held of a matrix. Floats come first: a part's dtype is often told by its first parameter."""
    from bitsandbytes import functional

    if kind == "int8":
        # On some devices bitsandbytes takes 16 bits only, which are fewer than the matrix has.
        packed, scales, _ = functional.int8_vectorwise_quant(weight if weight.is_meta else weight.cpu())
        return {"scales": scales.to(weight.device), "packed": packed.to(weight.device)}
    flat = weight.flatten()
    # In whole blocks, whatever the matrix's sides: other shapes take a slow way through bitsandbytes.
    flat = F.pad(flat, (0, -len(flat) % BLOCK))
    packed, state = functional.quantize_4bit(flat.view(-1, BLOCK), blocksize=BLOCK, quant_type=kind)
    if not double:
        return {"scales": state.absmax, "packed": packed}
    mean = state.absmax.mean()
    # Given and held, though always the same: bitsandbytes would keep the first for all, even one without values. It
    # reckons them out, which needs values where a model is planned, too.
    with torch.device("cpu"):
        levels = functional.create_dynamic_map()
    levels = levels.to(weight.device)
    scales, second = functional.quantize_blockwise(state.absmax - mean, code=levels, blocksize=SCALES)
    return {"mean": mean, "levels": levels, "scales_of_scales": second.absmax, "scales": scales, "packed": packed}


class QuantisedLinear(nn.Linear):
    """A linear layer whose matrix rests in few bits and is made anew, in the precision of the moment, for each product.

    The same matrix is rounded to the same bits every time. The layer that it takes the place of is emptied and kept
    aside, with its parameter, so that whoever knows that parameter still knows it when the matrix is put back.

    Args:
        layer: the layer to take the place of; its matrix is freed, its bias shared.
        kind: ``nf4`` or ``fp4``, 4 bits and a scale for every :data:`BLOCK` weights; ``int8``, 8 bits and one for each
            row.
        double: round the scales to 8 bits, too.
    """

    def __init__(self, layer: nn.Linear, kind: str, double: bool = False) -> None:
        # Not nn.Linear's, which would make a matrix.
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind, self.doubly = kind, double
        weight = layer.weight.detach()
        for name, held in _round(weight.float(), kind, double).items():
            self.register_parameter(name, nn.Parameter(held, requires_grad=False))
        self.register_parameter("bias", layer.bias)
        # In a tuple, and so no module of this one: it would be counted, moved and saved.
        self._emptied = (layer,)
        layer.weight.data = weight.new_empty(0)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix that is computed with, in float32."""
        return self.made(torch.float32)

    def made(self, dtype: torch.dtype) -> Tensor:
        """The matrix in ``dtype``: what the bits and scales say, rounded once."""
        from bitsandbytes import functional

        scales, packed = self._held("scales"), self._held("packed")
        if self.kind == "int8":
            return functional.int8_vectorwise_dequant(packed, scales).to(dtype)
        if self.doubly:
            second, levels = self._held("scales_of_scales"), self._held("levels")
            scales = functional.dequantize_blockwise(scales, absmax=second, code=levels, blocksize=SCALES)
            scales = scales + self._held("mean")
        state = functional.QuantState(
            scales, shape=torch.Size((len(scales), BLOCK)), dtype=dtype, blocksize=BLOCK, quant_type=self.kind
        )
        flat = functional.dequantize_4bit(packed, state).flatten()
        return flat[: self.out_features * self.in_features].view(self.out_features, self.in_features)

    def _held(self, name: str) -> Tensor:
        return self.get_parameter(name).detach()

    def forward(self, input: Tensor) -> Tensor:
        """As the layer that it took the place of, under autocast, too. The bias gets no gradient."""
        dtype = _computed_in(input)
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return _Product.apply(input.to(dtype), bias, self)

    def extra_repr(self) -> str:
        """For a person."""
        return f"{super().extra_repr()}, kind={self.kind}, doubly={self.doubly}"

    def plain(self, weight: Tensor) -> nn.Linear:
        """A layer of the kind that this one took the place of, with this bias and the given matrix."""
        layer = deepcopy(self._emptied[0])
        layer.weight.data = weight.detach().to(layer.weight.dtype)
        return layer

    def give_back(self, weight: Tensor) -> nn.Linear:
        """The very layer that this one took the place of, with the given matrix; this one is done with."""
        (layer,) = self._emptied
        layer.weight.data = weight.detach().to(layer.weight.dtype)
        return layer


class _Product(torch.autograd.Function):
    """``x W^T + b``. The matrix is not kept for the way back but made anew there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.made(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        needed = ctx.needs_input_grad[0]
        return (gradient @ ctx.layer.made(gradient.dtype) if needed else None), None, None


def _computed_in(x: Tensor) -> torch.dtype:
    """The dtype of a product with ``x``: autocast's where it is on. On the meta device it is another device's."""
    for device in ("cpu", "cuda", "xpu") if x.is_meta else (x.device.type,):
        if torch.is_autocast_enabled(device) and x.is_floating_point():
            return torch.get_autocast_dtype(device)
    return x.dtype


def rounded(weight: Tensor, kind: str, double: bool) -> Tensor:
    """A matrix as :class:`QuantisedLinear` computes with it, in float32."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return QuantisedLinear(layer, kind, double).weight


def quantise(module: nn.Module, names: Collection[str], kind: str, double: bool) -> None:
    """Put quantised layers in the place of a module's named linear layers, one by one, so that memory only falls."""
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        module.set_submodule(name, QuantisedLinear(layer, kind, double))


def weights_of(module: nn.Module) -> dict[int, int]:
    """How many weights each parameter of a module stands for, by its ``id``: as many as it has, unless quantised."""
    found = {id(parameter): parameter.numel() for parameter in module.parameters()}
    for layer in module.modules():
        if isinstance(layer, QuantisedLinear):
            held = {name: parameter for name, parameter in layer.named_parameters(recurse=False) if name != "bias"}
            found.update({id(parameter): 0 for parameter in held.values()})
            found[id(held["packed"])] = layer.out_features * layer.in_features
    return found
