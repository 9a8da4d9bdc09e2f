"""MiniMind-V's ``.pth`` files of October 2024 and of 2026 (minimind-3v): a language model and a projection.

A file holds names and tensors only. Its sizes follow from the shapes, all but the number of heads of 2024, which the
project's table gives; the image tower and the tokenizer lie elsewhere and are named beside the file.

Source of names, sizes and arithmetic: the MiniMind-V project, commits of 2024-10-10 and 2026-06-28. In 2024 rotary
positions turn neighbouring pairs of channels; transformers' Llama turns the two halves of a head, so the rows of its
queries and keys lie in another order. In 2026 the language model is a Qwen3, and with experts a Qwen3-MoE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config, Qwen3MoeConfig

from sightling.errors import UserError
from sightling.interop.base import shapes_of
from sightling.interop.keys import Rule, Table, changed, same, split
from sightling.interop.reading import outline
from sightling.interop.weights import compare
from sightling.model import VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor
from sightling.model.build import load_weights, prepared_as, pretrained_vision_config
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.pretrained import load_tokenizer
from sightling.model.templates import TEMPLATES
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.encoders import TOWERS
from sightling.sight.tiling import TILINGS

NAME = "minimind_v"

HEADS = {512: (16, 8), 768: (16, 8)}
"""Heads and key-value heads of October 2024 by width; the file does not say them."""

LINEAR = {"type": "linear", "bias": True}
PERCEPTRON = {"type": "mlp", "depth": 2, "norm": True, "bias": True}
"""The projections of 2024 and of 2026."""


# ---- language models by their sizes


def language_2024(
    hidden_size: int, layers: int, intermediate_size: int, vocab_size: int = 6400, heads: tuple[int, int] | None = None
) -> LlamaConfig:
    """The language model of October 2024.

    Raises:
        UserError: a width whose number of heads is not known.
    """
    if heads is None and hidden_size not in HEADS:
        raise UserError(
            f"the layout {NAME!r}: the number of heads of a model of width {hidden_size} is not known; it is for "
            f"{' and '.join(map(str, HEADS))}; give heads=(heads, key-value heads)"
        )
    count, kept = heads or HEADS[hidden_size]
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=layers,
        num_attention_heads=count, num_key_value_heads=kept, max_position_embeddings=1024, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip


def language_2026(
    hidden_size: int, layers: int, intermediate_size: int, head_dim: int, heads: tuple[int, int],
    vocab_size: int = 6400, experts: int = 0,
) -> PreTrainedConfig:  # fmt: skip
    """The language model of 2026; with experts each token goes to the one with the greatest score, at weight 1."""
    told = {
        "vocab_size": vocab_size, "hidden_size": hidden_size, "intermediate_size": intermediate_size,
        "num_hidden_layers": layers, "num_attention_heads": heads[0], "num_key_value_heads": heads[1],
        "head_dim": head_dim, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if not experts:
        return Qwen3Config(**told)
    return Qwen3MoeConfig(
        **told, moe_intermediate_size=intermediate_size, num_local_experts=experts, num_experts_per_tok=1,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], router_aux_loss_coef=5e-4,
    )  # fmt: skip


def described(shapes: Mapping[str, tuple[int, ...]], path: Any, heads: tuple[int, int] | None = None) -> Any:
    """The language model that a file of these names and shapes holds.

    Raises:
        UserError: the names are of neither year, or experts of 2024.
    """
    if "tok_embeddings.weight" in shapes:
        vocab, width = shapes["tok_embeddings.weight"]
        if any(".feed_forward.experts." in key for key in shapes):
            raise UserError(
                f"{path} is a MiniMind-V of 2024 with experts, one of them shared by all tokens; no language model of "
                "transformers computes that, so it cannot be read"
            )
        inner = _shape(shapes, "layers.0.feed_forward.w1.weight", path)[0]
        return language_2024(width, _layers(shapes, "layers."), inner, vocab, heads)
    if "model.embed_tokens.weight" not in shapes:
        raise UserError(
            f"{path} is no MiniMind-V file: it has neither tok_embeddings.weight (2024) nor model.embed_tokens.weight "
            "(2026)"
        )
    vocab, width = shapes["model.embed_tokens.weight"]
    layer = "model.layers.0."
    size = _shape(shapes, f"{layer}self_attn.q_norm.weight", path)[0]
    count, kept = (_shape(shapes, f"{layer}self_attn.{one}_proj.weight", path)[0] // size for one in "qk")
    experts = sum(key.startswith(f"{layer}mlp.experts.") and key.endswith(".up_proj.weight") for key in shapes)
    inner = _shape(shapes, f"{layer}mlp.{'experts.0.' if experts else ''}up_proj.weight", path)[0]
    return language_2026(width, _layers(shapes, "model.layers."), inner, size, (count, kept), vocab, experts)


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, path: Any) -> tuple[int, ...]:
    if key not in shapes:
        raise UserError(f"the weights in {path} lack the key: {key}; they belong to another model")
    return shapes[key]


def _layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


# ---- names


def table(config: VisionLanguageConfig) -> Table:
    """What the file calls our weights, the tower's excepted.

    Raises:
        UserError: a language model or a connector that no such file holds.
    """
    text, usage = config.get_text_config(), config.encoder_options()
    refuse_text(text)
    early = text.model_type == "llama"
    wanted = LINEAR if early else PERCEPTRON
    if config.connector_options() != make(CONNECTORS, wanted, "connector"):
        raise UserError(f"the layout {NAME!r} cannot hold connector = {config.connector!r}; it takes {wanted!r}")
    if config.tiling_scheme() != make(TILINGS, {"type": "single"}, "tiling"):
        raise UserError(f"the layout {NAME!r} cannot hold tiling = {config.tiling!r}; it takes one square a picture")
    if (usage.layers, usage.keep_cls) != ((-1,), early):
        raise UserError(
            f"the layout {NAME!r} cannot hold encoder.layer = {usage.layer} with keep_cls = {usage.keep_cls}; beside a "
            f"{text.model_type} it takes -1 with {early}"
        )
    return Table(NAME, _rules_2024(text) if text.model_type == "llama" else _rules_2026(text))


def refuse_text(text: Any) -> None:
    """Refuse a language model that would be another one when the file is read again.

    Raises:
        UserError: the first of its options that the file cannot hold.
    """
    if text.model_type == "llama":
        inner, heads = text.intermediate_size, (text.num_attention_heads, text.num_key_value_heads)
        again: Any = language_2024(text.hidden_size, text.num_hidden_layers, inner, text.vocab_size, heads)
    elif text.model_type in ("qwen3", "qwen3_moe"):
        moe = text.model_type == "qwen3_moe"
        again = language_2026(
            text.hidden_size, text.num_hidden_layers, text.moe_intermediate_size if moe else text.intermediate_size,
            text.head_dim, (text.num_attention_heads, text.num_key_value_heads), text.vocab_size,
            text.num_experts if moe else 0,
        )  # fmt: skip
    else:
        raise UserError(
            f"the layout {NAME!r} cannot hold a {text.model_type}; it takes a llama (2024), a qwen3 or a qwen3_moe "
            "(2026)"
        )
    keys = ["head_dim", "rms_norm_eps", "tie_word_embeddings", "attention_bias", "hidden_act", "num_experts_per_tok"]
    for key in (*keys, "norm_topk_prob", "mlp_bias", "use_sliding_window", "decoder_sparse_step", "mlp_only_layers"):
        ours, theirs = getattr(text, key, None), getattr(again, key, None)
        if ours != theirs:
            raise UserError(f"the layout {NAME!r} cannot hold language_model.{key} = {ours!r}; it takes {theirs!r}")
    for key in ("rope_type", "rope_theta"):
        ours, theirs = text.rope_parameters.get(key), again.rope_parameters[key]
        if ours != theirs:
            raise UserError(f"the layout {NAME!r} cannot hold language_model.{key} = {ours!r}; it takes {theirs!r}")


def _rules_2024(text: Any) -> list[Rule]:
    ours, theirs = "language_model.model.layers.#.", "layers.#."
    names = {"mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
             "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    turned = {"q": text.num_attention_heads, "k": text.num_key_value_heads}
    return [
        *(same(f"{ours}{one}.weight", f"{theirs}{other}.weight") for one, other in names.items()),
        *(
            changed(f"{ours}self_attn.{one}_proj.weight", f"{theirs}attention.w{one}.weight", halves(n), pairs(n))
            for one, n in turned.items()
        ),
        same("language_model.model.embed_tokens.weight", "tok_embeddings.weight"),
        same("language_model.model.norm.weight", "norm.weight"),
        same("language_model.lm_head.weight", "output.weight"),
        same("connector.projection.*", "vision_proj.vision_proj.0.*"),
    ]


def _rules_2026(text: Any) -> list[Rule]:
    experts = "language_model.model.layers.#.mlp.experts."
    each = "model.layers.#.mlp.experts.@."
    several = (
        split(f"{experts}gate_up_proj", (f"{each}gate_proj.weight", f"{each}up_proj.weight"), axis=1),
        split(f"{experts}down_proj", (f"{each}down_proj.weight",), axis=1),
    )
    return [
        *(several if text.model_type == "qwen3_moe" else ()),
        same("language_model.*", "*"),
        same("connector.layers.*", "vision_proj.mlp.*"),
    ]


def halves(heads: int) -> Callable[[Tensor], Tensor]:
    """Rows of neighbouring pairs to the order in which the two halves of a head are turned together."""

    def change(weight: Tensor) -> Tensor:
        rows, columns = weight.shape
        return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    return change


def pairs(heads: int) -> Callable[[Tensor], Tensor]:
    """The way back from :func:`halves`."""

    def change(weight: Tensor) -> Tensor:
        rows, columns = weight.shape
        return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)

    return change


# ---- files


def read(
    file: str | os.PathLike[str],
    *,
    tower: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    heads: tuple[int, int] | None = None,
) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A MiniMind-V file with its tower and its tokenizer as our model and processor.

    Args:
        file: the ``.pth`` file; nothing in it is executed.
        tower: a folder with the image tower (CLIP in 2024, SigLIP2 in 2026).
        tokenizer: a folder with the tokenizer.
        heads: heads and key-value heads of a model of 2024, where its width is not in the project's table.

    Raises:
        UserError: a file that holds anything but tensors, keys or shapes of another model, or a tower or a tokenizer
            that does not fit.
    """
    path = Path(file)
    theirs = load_tensors(path)
    text = described(shapes_of(theirs), path, heads)
    early = text.model_type == "llama"
    vision = pretrained_vision_config(str(tower))
    prepared, resample = prepared_as(str(tower))
    kind = TOWERS[vision.model_type]
    processor = _processor(early, kind.image_size(vision), kind.patch_size(vision), tokenizer, resample)
    if len(processor.tokenizer) > text.vocab_size:
        raise UserError(
            f"the tokenizer in {tokenizer} belongs to another model: it has {len(processor.tokenizer):,} tokens, the "
            f"model in {path} knows {text.vocab_size:,}"
        )
    config = VisionLanguageConfig(
        vision_config=vision, text_config=text, encoder={"layer": -1, "keep_cls": early, **prepared},
        connector=LINEAR if early else PERCEPTRON, tiling={"type": "single"}, image_token_id=processor.image_token_id,
    )  # fmt: skip
    names = table(config)
    ours = {key: value for key, value in outline(config)[0].items() if not key.startswith("encoder.")}
    compare(shapes_of(theirs), shapes_of(names.write(ours, {})), path)
    state = names.read(ours, theirs.__getitem__, {})
    if not torch.equal(state["language_model.lm_head.weight"], state["language_model.model.embed_tokens.weight"]):
        raise UserError(f"the weights in {path}: output head and embeddings differ, but they are one in MiniMind-V")
    loaded = load_weights(kind.model_class, str(tower), vision)
    dtype = next(iter(theirs.values())).dtype
    state.update((f"encoder.tower.{key}", value.to(dtype)) for key, value in loaded.state_dict().items())
    model = VisionLanguageModel.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    model.generation_config.eos_token_id = processor.stop_token_id
    model.generation_config.pad_token_id = processor.pad_token_id
    return model.eval(), processor


def _processor(early: bool, side: int, patch: int, tokenizer: Any, resample: str) -> VisionLanguageProcessor:
    name = "minimind-v" if early else "minimind-3v"
    template, loaded = TEMPLATES.get(name), load_tokenizer(tokenizer)
    # What fills a row must not be what stands for a picture, as it is in the tokenizer of 2024.
    loaded.pad_token, loaded.eos_token = template.pad, template.eos
    images = VisionLanguageImageProcessor(
        image_size=side, patch_size=patch, extra_features=int(early), tiling={"type": "single"},
        connector=LINEAR if early else PERCEPTRON, resample=resample,
    )  # fmt: skip
    return VisionLanguageProcessor(images, loaded, template=name)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The names and tensors of a ``.pth`` file; nothing in it is executed.

    Raises:
        UserError: no such file, a damaged one, or one that holds anything else.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What a file that is damaged, or holds more than tensors, raises is of many kinds.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as weights: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds something else than names and tensors; give the weights, not a training's state")
    return found


def write(model: VisionLanguageModel, file: str | os.PathLike[str]) -> None:
    """The language model and the connector of our model as a MiniMind-V file, whole or not at all; without the tower.

    Raises:
        UserError: a part or an option that the file cannot hold, by its name, a file that is there already, or a disk
            that cannot be written.
    """
    path = Path(file)
    if path.exists():
        raise UserError(f"{path} is there already; give another name")
    state = {key: value.detach().cpu() for key, value in model.state_dict().items() if not key.startswith("encoder.")}
    made = table(model.config).write(state, {})
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: value.contiguous() for key, value in made.items()}, aside)
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path} cannot be written: {reason}") from None
    finally:
        aside.unlink(missing_ok=True)
