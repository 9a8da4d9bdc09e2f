"""From a recipe's ``model`` section to a model with its weights and its processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from sightling.errors import UserError, nearest
from sightling.model.config import VisionLanguageConfig
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.template import TEMPLATES
from sightling.parts import Part, validate
from sightling.sight.encoders import TOWERS, EncoderOptions, tower_config

ENCODER_KEYS = tuple(EncoderOptions.model_fields)
"""What a recipe says of how a tower is used, beside the tower's own sizes."""


class ModelSection(Part):
    """A recipe's ``model``: what it is made of.

    ``tokenizer`` is ``{pretrained: PATH}``; left out, a stage of type ``tokenizer`` trains it.
    ``encoder`` and ``language_model`` are ``{type: ..., <sizes>}`` for random weights or
    ``{pretrained: PATH}``. ``connector`` and ``tiling`` name registered parts.
    """

    encoder: dict[str, Any]
    language_model: dict[str, Any]
    connector: dict[str, Any] = Field(default_factory=lambda: {"type": "mlp"})
    tiling: dict[str, Any] = Field(default_factory=lambda: {"type": "single"})
    tokenizer: dict[str, Any] = Field(default_factory=dict)
    template: str = "chatml"


def language_config(options: Mapping[str, Any], where: str = "model.language_model") -> PreTrainedConfig:
    """The transformers configuration of a causal language model from ``{type: llama, hidden_size: ...}``.

    Sizes that follow from others are filled in where they are not said: heads of width 64, and a
    feed-forward width of 8/3 of the hidden size, rounded up to a multiple of 64.

    Raises:
        UserError: an unknown type or key, with the nearest known one.
    """
    rest = dict(options)
    name = str(rest.pop("type", ""))
    known_types = ("llama", "qwen2", "qwen3", "mistral", "qwen3_moe")
    if name not in known_types:
        raise UserError(f"{where}.type: there is no language model {name!r}; {nearest(name, known_types)}")
    known = set(AutoConfig.for_model(name).to_dict())
    for key in rest:
        if key not in known:
            raise UserError(f"{where} has no key {key!r}; {nearest(key, known)}")
    if "hidden_size" in rest:
        width = rest["hidden_size"]
        rest.setdefault("num_attention_heads", max(1, width // 64))
        rest.setdefault("num_key_value_heads", rest["num_attention_heads"])
        rest.setdefault("head_dim", width // rest["num_attention_heads"])
        rest.setdefault("intermediate_size", -(-width * 8 // 3 // 64) * 64)
    rest.setdefault("tie_word_embeddings", True)
    return AutoConfig.for_model(name, **rest)


def find_tokenizer(section: ModelSection, workdir: Path) -> Any:
    """The tokenizer that the recipe names, or the one that a stage of this run trained.

    Raises:
        UserError: neither exists.
    """
    told = dict(section.tokenizer)
    source = told.pop("pretrained", None)
    if told:
        key = next(iter(told))
        raise UserError(f"model.tokenizer has no key {key!r}; {nearest(key, ('pretrained',))}")
    path = source or workdir / "tokenizer"
    if source is None and not Path(path).is_dir():
        raise UserError(
            "the recipe names no tokenizer and trains none; set model.tokenizer.pretrained or add a stage of "
            "type tokenizer"
        )
    return AutoTokenizer.from_pretrained(path)


def build_processor(section: ModelSection, vision: PreTrainedConfig, tokenizer: Any) -> VisionLanguageProcessor:
    """The processor for a tower's sizes and the recipe's tiling and connector."""
    options = validate(EncoderOptions, {k: v for k, v in section.encoder.items() if k in ENCODER_KEYS}, "model.encoder")
    extra = 1 if options.keep_cls else 0
    image_processor = VisionLanguageImageProcessor(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        extra_features=extra,
        tiling=section.tiling,
        connector=section.connector,
    )
    # Counting once here makes a grid that the connector cannot take an error now, not in the first batch.
    image_processor.count(vision.image_size, vision.image_size)
    return VisionLanguageProcessor(image_processor, tokenizer, template=section.template)


def build_model(model_section: Mapping[str, Any], seed: int, workdir: Path) -> tuple[VisionLanguageModel, Any]:
    """The model and its processor: random weights drawn from ``seed``, pretrained parts loaded where named.

    Args:
        model_section: a recipe's ``model``.
        seed: draws the random weights.
        workdir: the run's folder, which holds ``tokenizer/`` when a stage trained one.

    Raises:
        UserError: an unknown part, key or path, or parts that do not fit together.
    """
    section = validate(ModelSection, model_section, "model")
    TEMPLATES.get(section.template, where="model.template")
    told_encoder = {key: value for key, value in section.encoder.items() if key not in ENCODER_KEYS}
    told_language = dict(section.language_model)
    encoder_path, language_path = told_encoder.pop("pretrained", None), told_language.pop("pretrained", None)
    vision = pretrained_vision_config(encoder_path) if encoder_path else tower_config(told_encoder)
    text = AutoConfig.from_pretrained(language_path) if language_path else language_config(told_language)
    tokenizer = find_tokenizer(section, workdir)
    processor = build_processor(section, vision, tokenizer)
    if not language_path:
        # A multiple of 64 keeps the output head's matrix product at full speed.
        text.vocab_size = -(-len(tokenizer) // 64) * 64
        text.pad_token_id, text.eos_token_id = processor.pad_token_id, processor.stop_token_id
        text.bos_token_id = None
    elif text.vocab_size < len(tokenizer):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, but {language_path} has {text.vocab_size} embeddings"
        )
    config = VisionLanguageConfig(
        vision_config=vision,
        text_config=text,
        encoder={key: value for key, value in section.encoder.items() if key in ENCODER_KEYS},
        connector=section.connector,
        tiling=section.tiling,
        image_token_id=processor.image_token_id,
    )
    torch.manual_seed(seed)
    model = VisionLanguageModel(config)
    quiet_residuals(model)
    if encoder_path:
        model.encoder.tower = load_strictly(TOWERS[vision.model_type][1], encoder_path)
    if language_path:
        model.language_model = load_strictly(AutoModelForCausalLM, language_path)
    model.generation_config.eos_token_id = processor.stop_token_id
    model.generation_config.pad_token_id = processor.pad_token_id
    return model, processor


def quiet_residuals(model: VisionLanguageModel) -> None:
    """Zero the last matrix of every residual branch, so that a new model starts as its embeddings alone.

    Source of the method: Goyal et al. 2017 and Zhang et al. 2019 (Fixup). On the small world an encoder of
    two layers learns shapes in half the steps with it; weights that are loaded afterwards are not touched.
    """
    ends = ("out_proj", "fc2", "o_proj", "down_proj")
    for part in (model.encoder.tower, model.language_model):
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in ends:
                torch.nn.init.zeros_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)


def pretrained_vision_config(path: str) -> PreTrainedConfig:
    """The tower's configuration of a checkpoint: its own, or the vision part of an image-text model's."""
    config = AutoConfig.from_pretrained(path)
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWERS:
        raise UserError(f"{path} holds a {config.model_type!r}; {nearest(config.model_type, TOWERS)}")
    return config


def load_strictly(kind: Any, path: str) -> Any:
    """``kind.from_pretrained(path)``; weights that are missing from the checkpoint are refused.

    Keys of the checkpoint that belong to another tower (the text half of a CLIP model) are left aside.

    Raises:
        UserError: a missing or misshapen key.
    """
    model, info = kind.from_pretrained(path, output_loading_info=True)
    missing = sorted(str(key) for key in info["missing_keys"])
    if missing:
        raise UserError(f"the weights in {path} lack {len(missing)} keys, the first is {missing[0]}")
    return model
