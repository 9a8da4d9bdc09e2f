"""A language model's own weights, laid out so that a token takes few operations.

Legend: ``H`` heads, ``G`` key-value heads, ``W`` head width, ``V`` vocabulary, ``D`` the language model's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from sightling.decode.products import HALF, KEPT, NIBBLES, Product, exact
from sightling.decode.rounded import fits, lacking, rounded
from sightling.model.modeling import VisionLanguageModel

FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"}
)
"""Language models, by transformers' ``model_type``, whose layers are those that :mod:`sightling.decode.own` runs."""

FIXED = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles depend on a token's position alone, not on how long the text is."""

NARROWED = "cpu", torch.float32
"""Where and of what type weights are that can be stored in fewer bits."""

COPIES = 2**30
"""Bytes of a language model above which its weights are used as they lie, without a second copy of them."""


def refusal(model: VisionLanguageModel, stored: str = KEPT) -> str:
    """Why the model's own layers have to be run by transformers; empty where they have not.

    Args:
        model: the model.
        stored: how its matrices would be stored, as :func:`~sightling.decode.rounded.rounded` takes it, or as they are.
    """
    language_model = model.language_model
    config = language_model.config
    if config.model_type not in FAMILIES:
        return f"a {config.model_type} is decoded by transformers"
    if model.gated is not None:
        return "its language model has gated cross-attention layers"
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of type {sorted(kinds)[0]!r}"
    rope = config.rope_parameters.get("rope_type", "default")
    if rope not in FIXED:
        return f"its rotary embedding is of type {rope!r}"
    devices = {parameter.device for parameter in language_model.parameters()}
    if len(devices) > 1:
        return "its language model lies on several devices"
    if stored != KEPT and {(one.device.type, one.dtype) for one in language_model.parameters()} != {NARROWED}:
        return f"{stored} weights are for a float32 model on a CPU"
    if stored != KEPT and lacking(stored):
        return f"{stored} weights need {lacking(stored)}, which is not here"
    decoder = model.get_decoder()
    for name, module in (*decoder.named_modules(), ("lm_head", model.get_output_embeddings())):
        if module._forward_hooks or module._forward_pre_hooks:
            return f"something is hooked to its {name or 'decoder'}"
        if name.endswith(("_proj", "lm_head")) and type(module) is not nn.Linear:
            return f"its {name} is a {type(module).__name__}"
        if stored == NIBBLES and name.endswith("_proj") and not fits(module.in_features, module.out_features):
            sizes = f"{module.in_features} channels in and {module.out_features} out"
            return f"its {name} has {sizes}, and int4 weights need multiples of 32 and of 16"
    if type(model.get_input_embeddings()) is not nn.Embedding:
        return f"its token embeddings are a {type(model.get_input_embeddings()).__name__}"
    return ""


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm: its weight, over the last axis or the last two, and what keeps it from dividing by 0."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Same shape in and out; in float32, as transformers computes it."""
        if x.dtype == torch.float32:
            normed = F.rms_norm(x, x.shape[-1:], self.weight if self.weight.dim() == 1 else None, self.epsilon)
            return normed if self.weight.dim() == 1 else normed * self.weight
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return scaled.to(x.dtype) * self.weight


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        before: the norm before attention.
        qkv: queries, keys and values, in this order.
        heads_norm: the norm of queries and keys, weight_(H+G)W, where the family has one.
        out: behind attention.
        between: the norm before the feed-forward.
        gate_up: gate and values of the feed-forward; None where ``block`` is run as it is.
        down: behind them.
        activation: of the gate.
        block: a feed-forward of another kind (experts).
        window: how many tokens a token sees, itself among them; None for all.
    """

    before: Norm
    qkv: Product
    heads_norm: Norm | None
    out: Product
    between: Norm
    gate_up: Product | None
    down: Product | None
    activation: Callable[[Tensor], Tensor] | None
    block: nn.Module | None
    window: int | None


class Weights:
    """All that :mod:`sightling.decode.own` reads of a model, and whether it still is what the model holds.

    Args:
        model: one that :func:`refusal` has nothing against.
        copied: whether matrices may be laid out anew; None for models of up to :data:`COPIES` bytes.
        stored: as :func:`~sightling.decode.rounded.rounded` takes it, or as they are.
    """

    def __init__(self, model: VisionLanguageModel, copied: bool | None = None, stored: str = KEPT) -> None:
        decoder: Any = model.get_decoder()
        head: Any = model.get_output_embeddings()
        config = model.language_model.config
        if copied is None:
            copied = sum(parameter.nbytes for parameter in {*_watched(model)}) <= COPIES
        self._copied, self._stored = copied, stored
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_width: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        embedding: Any = model.get_input_embeddings()
        self.embedding_VD: Tensor = embedding.weight.detach()
        with torch.inference_mode():
            self.layers = [self._layer(layer, number, config) for number, layer in enumerate(decoder.layers)]
            self.norm = _norm(decoder.norm)
            # Which word is likeliest is decided here, by logits that may lie close together.
            self.head = self._product([head], stored if stored == KEPT else HALF)
            self._seen = _state(model)

    def current(self, model: VisionLanguageModel) -> bool:
        """Whether the model's weights are those that were laid out; a sample of their values is looked at as well."""
        with torch.inference_mode():
            places, values = _state(model)
            return places == self._seen[0] and torch.equal(values, self._seen[1])

    def _product(self, layers: list[nn.Linear], stored: str) -> Product:
        return exact(layers, self._copied) if stored == KEPT else rounded(layers, stored)

    def _layer(self, layer: Any, number: int, config: Any) -> Layer:
        attention, block, stored = layer.self_attn, layer.mlp, self._stored
        heads_norm = None
        if hasattr(attention, "q_norm"):
            weights = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.kv_heads
            heads_norm = Norm(torch.stack(weights), attention.q_norm.variance_epsilon)
        gated = all(hasattr(block, name) for name in ("gate_proj", "up_proj", "down_proj"))
        return Layer(
            before=_norm(layer.input_layernorm),
            qkv=self._product([attention.q_proj, attention.k_proj, attention.v_proj], stored),
            heads_norm=heads_norm,
            out=self._product([attention.o_proj], stored),
            between=_norm(layer.post_attention_layernorm),
            gate_up=self._product([block.gate_proj, block.up_proj], stored) if gated else None,
            down=self._product([block.down_proj], stored) if gated else None,
            activation=block.act_fn if gated else None,
            block=None if gated else block,
            window=_window(config, number),
        )


def _watched(model: VisionLanguageModel) -> list[nn.Parameter]:
    return [*model.get_decoder().parameters(), *model.get_output_embeddings().parameters()]


def _state(model: VisionLanguageModel) -> tuple[list[tuple[int, int]], Tensor]:
    """Where each parameter lies and how often it was written to, and a few of its values."""
    watched = _watched(model)
    # What is written through `.data` counts no version, so values are compared as well.
    places = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in watched]
    samples = [one.detach().reshape(-1)[:: max(1, one.numel() // 16)].float() for one in watched]
    return places, torch.cat(samples)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def _window(config: Any, number: int) -> int | None:
    """How many tokens a layer's tokens see, as the family's own code reads its configuration."""
    if config.model_type == "llama":
        return None
    window: int | None = getattr(config, "sliding_window", None)
    if config.model_type in ("mistral", "qwen3_moe"):
        return window
    kinds = getattr(config, "layer_types", None)
    return window if kinds and kinds[number] == "sliding_attention" else None
