"""Causal language models: from sizes, or pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from sightling.errors import UserError, nearest
from sightling.model.pretrained import load_config, load_weights
from sightling.model.spatial import is_spatial, share_heads
from sightling.sight.configs import make_config

LANGUAGE_MODELS = (
    "llama", "mistral", "mllama_text_model", "opt", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text",
    "qwen3_vl_text",
)  # fmt: skip
"""What a recipe writes as ``language_model.type``; any pretrained causal language model can be loaded."""


def language_config(options: Mapping[str, Any], where: str = "model.language_model") -> PreTrainedConfig:
    """The transformers configuration of a causal language model from ``{type: llama, hidden_size: ...}``.

    Sizes that follow from others are filled in where they are not said: heads of width 64, and a
    feed-forward width of 8/3 of the hidden size, rounded up to a multiple of 64.

    Raises:
        UserError: an unknown type or key, with the nearest known one, or sizes that do not fit together.
    """
    rest = dict(options)
    name = str(rest.pop("type", ""))
    if name not in LANGUAGE_MODELS:
        raise UserError(f"{where}.type: there is no language model {name!r}; {nearest(name, LANGUAGE_MODELS)}")
    width, heads = rest.get("hidden_size"), rest.get("num_attention_heads")
    shares = hasattr(CONFIG_MAPPING[name], "num_key_value_heads")
    if isinstance(width, int):
        heads = rest.setdefault("num_attention_heads", max(1, width // 64))
        if name == "opt":
            # Its feed-forward has no gate and is four times as wide.
            rest.setdefault("ffn_dim", 4 * width)
        else:
            rest.setdefault("intermediate_size", -(-width * 8 // 3 // 64) * 64)
    if isinstance(heads, int):
        if shares:
            rest.setdefault("num_key_value_heads", heads)
        if isinstance(width, int) and heads > 0 and hasattr(CONFIG_MAPPING[name], "head_dim"):
            rest.setdefault("head_dim", width // heads)
    tied = rest.pop("tie_word_embeddings", name != "mllama_text_model")
    # Its gated layers are the connector's.
    if name == "mllama_text_model" and (tied or rest.setdefault("cross_attention_layers", [])):
        key = "tie_word_embeddings" if tied else "cross_attention_layers"
        reason = "its head has fewer rows than its embeddings" if tied else "the connector says where they stand"
        raise UserError(f"{where}.{key} cannot be set for a {name}: {reason}")
    if type(tied) is not bool:
        raise UserError(f"{where}.tie_word_embeddings = {tied!r} is wrong: it must be true or false")
    config = make_config(CONFIG_MAPPING[name], rest, where)
    config.tie_word_embeddings = tied
    if shares and config.num_attention_heads % config.num_key_value_heads:
        raise UserError(
            f"{where}: num_attention_heads {config.num_attention_heads} is not a multiple of num_key_value_heads "
            f"{config.num_key_value_heads}"
        )
    # Qwen2's heads always share the hidden size; it has no key for their width.
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if name != "opt" and head_width % 2:
        raise UserError(f"{where}: heads of width {head_width} cannot be rotated by position; it must be even")
    if is_spatial(config):
        share_heads(config, head_width, where)
    return config


def load_language_config(path: str) -> PreTrainedConfig:
    """The configuration of a pretrained causal language model; of a whole Qwen-VL its language half's.

    Raises:
        UserError: there is none.
    """
    config = load_config(path)
    half = getattr(config, "text_config", None)
    if half is None or not is_spatial(half):
        return config
    half.tie_word_embeddings = bool(config.tie_word_embeddings)
    return half


def load_language_model(path: str) -> Any:
    """A pretrained causal language model, in float32.

    Raises:
        UserError: no causal language model there, weights that do not fit, or one that changes its logits after
            its output head, which training at supervised positions only would leave out.
    """
    config = load_language_config(path)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{path} holds a {config.model_type!r}, which is no causal language model")
    model = load_weights(AutoModelForCausalLM, path, config)
    ids_BT = torch.arange(min(8, config.vocab_size))[None]
    with torch.no_grad():
        whole = model(input_ids=ids_BT).logits
        parts = model.get_output_embeddings()(model.get_decoder()(input_ids=ids_BT).last_hidden_state)
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-4):
        raise UserError(f"a {config.model_type!r} ({path}) changes its logits after the output head; it cannot be used")
    return model
