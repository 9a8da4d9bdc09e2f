"""Gated cross-attention layers before layers of a language model: text looks at pictures that stand beside it.

Source of the method: Flamingo (Alayrac et al. 2022, arXiv:2204.14198) and Llama 3.2 Vision (Grattafiori et al. 2024,
arXiv:2407.21783). A gated layer adds ``tanh(gate) * attention`` and then ``tanh(gate) * feed-forward`` to what a layer
of the language model is about to get. A token that sees no picture gets exactly nothing added, by both sublayers:
Llama 3.2's own code does so. transformers' Mllama lets such a token attend to all pictures of its row, to the empty
tiles behind theirs, too, and adds no feed-forward (``before: all``); Flamingo adds the feed-forward there.

The language model stays what it is, key by key: hooks before its layers run the gated ones.

Legend: ``B`` rows, ``T`` tokens, ``S`` visual tokens a row, ``U`` visual tokens of all rows, ``H`` heads, ``G``
key-value heads, ``W`` head width, ``D`` the language model's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mllama.modeling_mllama import MllamaTextMLP, MllamaTextRMSNorm

from sightling.errors import UserError
from sightling.model.looking import Looking, look
from sightling.sight.connectors.cross_attention import CrossAttentionOptions

NAME = "sightling_looking"
"""The keyword by which what is looked at passes through the language model to its layers."""

FLAMINGO_HEADS, FLAMINGO_HEAD_DIM = 8, 64
"""Flamingo's gated layers where nothing else is told."""


class GatedAttention(nn.Module):
    """Queries from the text, keys and values from visual tokens; parameters carry the names of Mllama's."""

    def __init__(self, number: int, width: int, heads: int, kv_heads: int, head_dim: int, norm_eps: float | None):
        super().__init__()
        self.number, self.heads, self.kv_heads = number, heads, kv_heads
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.q_norm = nn.Identity() if norm_eps is None else MllamaTextRMSNorm(head_dim, norm_eps)
        self.k_norm = nn.Identity() if norm_eps is None else MllamaTextRMSNorm(head_dim, norm_eps)

    def forward(self, hidden_BTD: Tensor, looking: Looking) -> Tensor:
        """Shapes: hidden_BTD to out_BTD."""
        q_BHTW = self.q_norm(self.q_proj(hidden_BTD).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        k_BGSW, v_BGSW = looking.keys_values(self.number, self.project)
        out_BHTW = F.scaled_dot_product_attention(
            q_BHTW.to(v_BGSW.dtype), k_BGSW, v_BGSW, attn_mask=looking.mask_B1TS,
            enable_gqa=self.heads != self.kv_heads,
        )  # fmt: skip
        return self.o_proj(out_BHTW.transpose(1, 2).flatten(2))

    def project(self, tokens_UD: Tensor) -> tuple[Tensor, Tensor]:
        """(keys_UGW, values_UGW) of visual tokens."""
        v_UGW = self.v_proj(tokens_UD).unflatten(-1, (self.kv_heads, -1))
        return self.k_norm(self.k_proj(tokens_UD).unflatten(-1, (self.kv_heads, -1))).to(v_UGW.dtype), v_UGW


class FeedForward(nn.Module):
    """Flamingo's: two linear layers without biases."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.activation = ACT2FN[activation]
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Same shape in and out."""
        return self.down_proj(self.activation(self.up_proj(hidden_BTD)))


class GatedLayer(GradientCheckpointingLayer):
    """One gated layer; parameters carry the names of Mllama's cross-attention layers."""

    def __init__(self, number: int, options: CrossAttentionOptions, config: PreTrainedConfig) -> None:
        super().__init__()
        width = config.hidden_size
        gates = width if options.gate == "tanh_channels" else 1
        if options.form == "mllama":
            eps = getattr(config, "rms_norm_eps", 1e-5)
            self.cross_attn = GatedAttention(number, width, *attention_shape(options, config), norm_eps=eps)
            self.input_layernorm: nn.Module = MllamaTextRMSNorm(width, eps)
            self.post_attention_layernorm: nn.Module = MllamaTextRMSNorm(width, eps)
            inner = options.intermediate_size or config.intermediate_size
            self.mlp: nn.Module = MllamaTextMLP(_Sizes(width, inner, config.hidden_act))
        else:
            self.cross_attn = GatedAttention(number, width, *attention_shape(options, config), norm_eps=None)
            self.input_layernorm = nn.LayerNorm(width)
            self.post_attention_layernorm = nn.LayerNorm(width)
            self.mlp = FeedForward(width, options.intermediate_size or 4 * width, options.activation or "relu2")
        self.cross_attn_attn_gate = nn.Parameter(torch.zeros(gates))
        self.cross_attn_mlp_gate = nn.Parameter(torch.zeros(gates))

    def forward(self, hidden_BTD: Tensor, looking: Looking) -> Tensor:
        """Same shape in and out."""
        attended_BTD = self.cross_attn(self.input_layernorm(hidden_BTD), looking)
        hidden_BTD = hidden_BTD + _where(looking.reached_BT1, self.cross_attn_attn_gate.tanh() * attended_BTD)
        fed_BTD = self.mlp(self.post_attention_layernorm(hidden_BTD))
        return hidden_BTD + _where(looking.seen_BT1, self.cross_attn_mlp_gate.tanh() * fed_BTD)

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The hook that runs this layer on what a layer of the language model is about to get."""
        looking = kwargs.pop(NAME, None)
        if looking is None:
            return args, kwargs
        if args:
            return (self(args[0], looking), *args[1:]), kwargs
        kwargs["hidden_states"] = self(kwargs["hidden_states"], looking)
        return args, kwargs


class _Sizes:
    """What Mllama's feed-forward reads of a configuration."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        self.hidden_size = width
        self.intermediate_size = inner
        self.hidden_act = activation


def _where(here_BT1: Tensor | None, added_BTD: Tensor) -> Tensor:
    return added_BTD if here_BT1 is None else added_BTD.masked_fill(~here_BT1, 0.0)


def _set_down(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The hook of a layer without a gated one: what is looked at goes no further."""
    kwargs.pop(NAME, None)
    return args, kwargs


def attention_shape(options: CrossAttentionOptions, config: PreTrainedConfig) -> tuple[int, int, int]:
    """(heads, key-value heads, head width) of the gated layers.

    Raises:
        UserError: key-value heads that do not divide the heads.
    """
    if options.form == "flamingo":
        heads = options.heads or FLAMINGO_HEADS
        return heads, heads, options.head_dim or FLAMINGO_HEAD_DIM
    heads = options.heads or config.num_attention_heads
    own = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    usual = heads if options.heads else getattr(config, "num_key_value_heads", None) or heads
    shared = options.kv_heads or usual
    if heads % shared:
        raise UserError(f"connector: {heads} heads are not divisible by {shared} kv_heads")
    return int(heads), int(shared), int(options.head_dim or own)


class GatedLayers(nn.Module):
    """The gated layers of a model.

    Args:
        options: the connector's.
        config: the language model's configuration.
        marked: whether visual tokens have one channel more, which is 1, or 0 for what fills up behind a picture's
            tiles: only tokens before the first picture look at that.

    Raises:
        UserError: options that do not fit the language model.
    """

    def __init__(self, options: CrossAttentionOptions, config: PreTrainedConfig, marked: bool = False) -> None:
        super().__init__()
        self.options = options
        self.marked = marked
        self.places = options.places(config.num_hidden_layers)
        self.layers = nn.ModuleList(GatedLayer(number, options, config) for number in range(len(self.places)))

    def decode(
        self,
        language_model: PreTrainedModel,
        embeddings_BTD: Tensor,
        here_BT: Tensor,
        features: Tensor | Sequence[Tensor] | None,
        *,
        documents: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the language model's decoder returns for embeddings_BTD, with pictures beside them.

        Args:
            language_model: the one that these layers are attached to.
            embeddings_BTD: of all tokens, placeholders too.
            here_BT: where placeholders stand.
            features: visual tokens, as :func:`~sightling.model.looking.look` takes them.
            documents: document_ids_BT and branch_ids_BT of packed rows.
            **kwargs: for the decoder, in transformers' names.

        Raises:
            ValueError: placeholders and pictures differ in number; both numbers are given.
        """
        cache = kwargs.get("past_key_values")
        if features is not None and not isinstance(features, Tensor):
            features = [tokens_QD.to(embeddings_BTD.dtype) for tokens_QD in features]
        elif features is not None:
            features = features.to(embeddings_BTD.dtype)
        real_U = None
        if self.marked and features is not None:
            marks = features if isinstance(features, Tensor) else torch.cat(list(features))
            real_U = marks[..., -1].reshape(-1) > 0
            features = (
                features[..., :-1] if isinstance(features, Tensor) else [tokens_QD[:, :-1] for tokens_QD in features]
            )
        looking = look(
            here_BT, features, last=self.options.sees == "last", ahead=self.options.ahead, real_U=real_U,
            position_ids_BT=kwargs.get("position_ids"), attention_mask=kwargs.get("attention_mask"),
            documents=documents, cache=cache,
        )  # fmt: skip
        named = {} if looking is None else {NAME: looking}
        output = language_model.get_decoder()(inputs_embeds=embeddings_BTD, **named, **kwargs)
        if looking is not None:
            looking.close(cache if cache is not None else output.past_key_values, len(self.layers))
        return output

    def attach(self, language_model: PreTrainedModel) -> None:
        """Let the gated layers run before the language model's layers of :attr:`places`; its parameters stay as named.

        Raises:
            UserError: a language model whose layers are not a list of modules called ``layers``.
        """
        layers = getattr(language_model.get_decoder(), "layers", None)
        if not isinstance(layers, nn.ModuleList):
            kind = language_model.config.model_type
            raise UserError(f"a {kind!r} takes no gated layers: it has no list of layers to put them before")
        gated: Mapping[int, Any] = dict(zip(self.places, self.layers, strict=True))
        for place, layer in enumerate(layers):
            # A method bound to the layer, not a closure: in a copy of the model it belongs to the copy.
            hook = gated[place].before if place in gated else _set_down
            layer.register_forward_pre_hook(hook, with_kwargs=True)
