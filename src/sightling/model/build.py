"""From a recipe's ``model`` section to a model with its weights and its processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import PreTrainedConfig

from sightling.errors import UserError, nearest
from sightling.model.config import VisionLanguageConfig
from sightling.model.experts import check_experts, make_experts
from sightling.model.gated import GatedLayers
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.instruction import InstructionTokenizer, reading
from sightling.model.language import language_config, load_language_config, load_language_model
from sightling.model.modeling import VisionLanguageModel
from sightling.model.pretrained import load_config, load_preprocessing, load_tokenizer, load_weights
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.spatial import check_spatial, is_spatial
from sightling.model.templates import TEMPLATES
from sightling.model.vocabulary import add_control_tokens, fit_rows, rounded
from sightling.parts import Part, make, validate
from sightling.sight.connectors import CONNECTORS, BlindOptions, CrossAttentionOptions
from sightling.sight.encoders import (
    STATISTICS,
    TOWERS,
    EncoderOptions,
    Statistics,
    check_tiling,
    check_usage,
    tower_config,
)
from sightling.sight.fitting import check_fit
from sightling.sight.preprocess import RESAMPLE
from sightling.sight.tiling import TILINGS

ENCODER_KEYS = tuple(EncoderOptions.model_fields)
"""What a recipe says of how a tower is used, beside the tower's own sizes."""


class ModelSection(Part):
    """A recipe's ``model``: what it is made of.

    ``encoder`` and ``language_model`` are ``{type: ..., <sizes>}`` for random weights or ``{pretrained: PATH}``;
    sizes beside ``pretrained`` say what is expected there, and another model is refused. ``tokenizer`` is
    ``{pretrained: PATH}``; left out, a stage of type ``tokenizer`` trains it, or it is the pretrained language
    model's own. ``connector`` and ``tiling`` name registered parts. ``experts`` lists other models whose words about a
    picture are written in its place (:mod:`sightling.model.experts`). ``qformer_tokenizer``, ``{pretrained: PATH}``,
    cuts the user's words for a connector that reads them (:mod:`sightling.model.instruction`).
    """

    encoder: dict[str, Any]
    language_model: dict[str, Any]
    connector: dict[str, Any] = Field(default_factory=lambda: {"type": "mlp"})
    tiling: dict[str, Any] = Field(default_factory=lambda: {"type": "single"})
    tokenizer: dict[str, Any] = Field(default_factory=dict)
    qformer_tokenizer: dict[str, Any] = Field(default_factory=dict)
    template: str = "chatml"
    experts: list[dict[str, Any]] = Field(default_factory=list)

    def encoder_options(self) -> dict[str, Any]:
        """How the tower is used."""
        return {key: value for key, value in self.encoder.items() if key in ENCODER_KEYS}

    def tower(self) -> dict[str, Any]:
        """What the tower is."""
        return {key: value for key, value in self.encoder.items() if key not in ENCODER_KEYS}


def check_model(told: Mapping[str, Any], where: str = "model") -> ModelSection:
    """Everything of a ``model`` section that can be wrong before a file is opened.

    Raises:
        UserError: an unknown part or key (with the nearest known one), a wrong value, or parts that do not fit.
    """
    section = validate(ModelSection, told, where)
    TEMPLATES.get(section.template, where=f"{where}.template")
    tiling = make(TILINGS, section.tiling, f"{where}.tiling")
    connector = make(CONNECTORS, section.connector, f"{where}.connector")
    check_experts(section.experts, isinstance(connector, BlindOptions), section.encoder.get("type") != "none", where)
    if connector.beside and tiling.ends_rows:
        raise UserError(
            f"{where}.tiling: this scheme lays tokens in the text as one field with ends of rows, and the connector's "
            "stand beside the text; set unpad: false, or choose dynamic, overlapping or native"
        )
    named = isinstance(section.qformer_tokenizer.get("pretrained"), str)
    if connector.reads_text and not named:
        raise UserError(
            f"{where}.qformer_tokenizer.pretrained is missing: the connector reads the user's words, which a tokenizer "
            "of BERT's kind cuts for it"
        )
    if section.qformer_tokenizer and not connector.reads_text:
        raise UserError(f"{where}.qformer_tokenizer is for a qformer with an instruction; this one reads no words")
    options = validate(EncoderOptions, section.encoder_options(), f"{where}.encoder")
    pretrained = _pretrained(section.tower(), f"{where}.encoder")
    if "type" in section.encoder:
        tower = tower_config(sizes(section.tower()), f"{where}.encoder")
        check_usage(tower, options, f"{where}.encoder")
        check_tiling(tower, tiling, connector.reads_text, where)
        kind = TOWERS[tower.model_type]
        sides = kind.image_size(tower), kind.patch_size(tower)
        check_fit(tiling, connector, *sides, int(options.keep_cls), where)
    if pretrained is not None and options.stem is not None:
        raise UserError(f"{where}.encoder.stem is for a tower grown from nothing; a pretrained one has its own")
    _pretrained(section.language_model, f"{where}.language_model")
    if "type" in section.language_model:
        text = language_config(sizes(section.language_model), f"{where}.language_model")
        check_spatial(text, connector, tiling, options, where)
        with torch.device("meta"):
            # Whatever a connector refuses of these widths, it refuses now; nothing is allocated.
            try:
                connector.build(text.hidden_size * len(options.layers), text.hidden_size)
                if isinstance(connector, CrossAttentionOptions):
                    GatedLayers(connector, text)
            except UserError as error:
                # It speaks of the connector and does not know where that is told.
                raise UserError(f"{where}.{error}") from None
    for name in ("tokenizer", "qformer_tokenizer"):
        for key in getattr(section, name):
            if key != "pretrained":
                raise UserError(f"{where}.{name} has no key {key!r}; {nearest(key, ('pretrained',))}")
    return section


def _pretrained(told: Mapping[str, Any], where: str) -> str | None:
    """Where a part's weights come from; ``None`` for a part that is grown from nothing."""
    if "pretrained" not in told:
        if "type" not in told:
            raise UserError(f"{where} needs a type, or pretrained with a path")
        return None
    if "type" not in told and len(told) > 1:
        raise UserError(f"{where}.{next(iter(sizes(told)))} beside pretrained needs the type that it belongs to")
    if not isinstance(told["pretrained"], str):
        raise UserError(f"{where}.pretrained = {told['pretrained']!r} is wrong: it must be a path or a name")
    return told["pretrained"]


def sizes(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a section says a part is, without where its weights come from."""
    return {key: value for key, value in told.items() if key != "pretrained"}


def _check_claims(told: Mapping[str, Any], expected: PreTrainedConfig | None, found: Any, where: str) -> None:
    """Refuse pretrained weights that are not what the section says of them."""
    if expected is None:
        return
    if expected.model_type != found.model_type:
        raise UserError(
            f"{where}.type = {told['type']!r} is expected, but {told['pretrained']} holds a {found.model_type!r}"
        )
    for key in sizes(told):
        if key != "type" and getattr(found, key, None) != getattr(expected, key):
            raise UserError(
                f"{where}.{key} = {told[key]!r} is expected, but the model in {told['pretrained']} has "
                f"{getattr(found, key, None)!r}"
            )


def find_tokenizer(section: ModelSection, workdir: Path) -> tuple[Any, Any]:
    """The tokenizer that the recipe names, that a stage of this run trained, or the language model's; and its path.

    Raises:
        UserError: none of them exists.
    """
    path = section.tokenizer.get("pretrained")
    if path is None and (workdir / "tokenizer").is_dir():
        path = workdir / "tokenizer"
    path = path or section.language_model.get("pretrained")
    if path is None:
        raise UserError(
            "the recipe names no tokenizer and trains none; set model.tokenizer.pretrained or add a stage of "
            "type tokenizer"
        )
    return load_tokenizer(path), path


def build_image_processor(
    section: ModelSection, vision: PreTrainedConfig, resample: str = "bicubic"
) -> VisionLanguageImageProcessor:
    """The image processor for a tower's sizes and the recipe's tiling and connector.

    Raises:
        UserError: the tiling makes a grid of the tower's patches that the connector cannot take.
    """
    options = validate(EncoderOptions, section.encoder_options(), "model.encoder")
    kind = TOWERS[vision.model_type]
    image_processor = VisionLanguageImageProcessor(
        image_size=kind.image_size(vision),
        patch_size=kind.patch_size(vision),
        extra_features=int(options.keep_cls),
        tiling=section.tiling,
        connector=section.connector,
        resample=resample,
    )
    # A pretrained tower's sizes are known only now; a grid that the connector cannot take is an error here, not later.
    scheme = make(TILINGS, section.tiling, "model.tiling")
    connector = make(CONNECTORS, section.connector, "model.connector")
    sides = image_processor.image_size, image_processor.patch_size
    check_fit(scheme, connector, *sides, int(options.keep_cls), "model")
    return image_processor


def build_processor(
    section: ModelSection, vision: PreTrainedConfig, tokenizer: Any, resample: str = "bicubic"
) -> VisionLanguageProcessor:
    """The processor for a tower's sizes and the recipe's tiling and connector."""
    image_processor = build_image_processor(section, vision, resample)
    for expert in make_experts(section.experts, "model.experts"):
        expert.check()
    processor = VisionLanguageProcessor(image_processor, tokenizer, template=section.template, experts=section.experts)
    words = reading(make(CONNECTORS, section.connector, "model.connector"))
    if words is not None:
        processor.instruction = InstructionTokenizer(section.qformer_tokenizer["pretrained"], words, kept=False)
    return processor


def build_model(model_section: Mapping[str, Any], seed: int, workdir: Path) -> tuple[VisionLanguageModel, Any]:
    """The model and its processor: random weights drawn from ``seed``, pretrained parts loaded where named.

    Args:
        model_section: a recipe's ``model``.
        seed: draws the random weights.
        workdir: the run's folder, which holds ``tokenizer/`` when a stage trained one.

    Raises:
        UserError: an unknown part, key or path, or parts that do not fit together.
    """
    section = check_model(model_section)
    encoder_path = section.encoder.get("pretrained")
    language_path = section.language_model.get("pretrained")
    told = section.tower()
    expected = tower_config(sizes(told)) if "type" in told else None
    if encoder_path:
        vision = pretrained_vision_config(encoder_path)
        _check_claims(told, expected, vision, "model.encoder")
    else:
        vision = tower_config(told)
    usage, resample = section.encoder_options(), "bicubic"
    if encoder_path:
        found, resample = prepared_as(encoder_path)
        usage = {**found, **usage}
    tokenizer, tokenizer_path = find_tokenizer(section, workdir)
    known = len(tokenizer)
    marks = make(TILINGS, section.tiling, "model.tiling").marks()
    add_control_tokens(tokenizer, TEMPLATES.get(section.template), tokenizer_path, marks)
    processor = build_processor(section, vision, tokenizer, resample)
    language_model = None
    if language_path:
        if "type" in section.language_model:
            claimed = language_config(sizes(section.language_model))
            _check_claims(section.language_model, claimed, load_language_config(language_path), "model.language_model")
        language_model = load_language_model(language_path)
        fit_rows(language_model, known, len(tokenizer), language_path)
        text = language_model.config
    else:
        text = language_config(section.language_model)
        least = len(tokenizer)
        text.vocab_size = section.language_model.get("vocab_size", rounded(least))
        if text.vocab_size < least:
            raise UserError(f"model.language_model.vocab_size = {text.vocab_size} is less than the tokenizer's {least}")
        text.pad_token_id, text.eos_token_id = processor.pad_token_id, processor.stop_token_id
        # Nothing stands before a prompt but what the template writes; Mllama's configuration wants a number.
        text.bos_token_id = processor.stop_token_id if text.model_type == "mllama_text_model" else None
    processor.spatial = is_spatial(text)
    config = VisionLanguageConfig(
        vision_config=vision,
        text_config=text,
        encoder=usage,
        connector=section.connector,
        tiling=section.tiling,
        image_token_id=processor.image_token_id,
    )
    tower = load_weights(TOWERS[vision.model_type].model_class, encoder_path, vision) if encoder_path else None
    torch.manual_seed(seed)
    model = VisionLanguageModel(config, tower=tower, language_model=language_model)
    quiet_residuals(*([] if tower else [model.encoder.tower]), *([] if language_model else [model.language_model]))
    model.generation_config.eos_token_id = processor.stop_token_id
    model.generation_config.pad_token_id = processor.pad_token_id
    # Rows of the output head behind the last token mean nothing, and the placeholder is no word.
    unused = range(len(tokenizer), text.vocab_size)
    model.generation_config.suppress_tokens = sorted({processor.image_token_id, *unused})
    return model, processor


def quiet_residuals(*parts: torch.nn.Module) -> None:
    """Zero the last matrix of every residual branch, so that a new part starts as its embeddings alone.

    Source of the method: Goyal et al. 2017 and Zhang et al. 2019 (Fixup). On the small world an encoder of
    two layers learns shapes in half the steps with it.
    """
    ends = ("out_proj", "fc2", "o_proj", "down_proj", "proj", "linear_fc2")
    for part in parts:
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in ends:
                torch.nn.init.zeros_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)


def pretrained_vision_config(path: str) -> PreTrainedConfig:
    """The tower's configuration of a checkpoint: its own, or the vision part of an image-text model's.

    Raises:
        UserError: no model there, or one without a tower of a known class.
    """
    config = load_config(path)
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWERS:
        raise UserError(f"{path} holds a {config.model_type!r}; {nearest(config.model_type, TOWERS)}")
    for key, value in TOWERS[config.model_type].defaults().items():
        # What is not on the way to the language model would be computed in vain.
        setattr(config, key, value)
    return config


def prepared_as(path: str) -> tuple[dict[str, Any], str]:
    """How a checkpoint says that its pictures were normalised (empty where it does not) and resized.

    Raises:
        UserError: it says it in a form that cannot be followed.
    """
    told = load_preprocessing(path)
    names = {int(filter): name for name, filter in RESAMPLE.items()}
    resample = names.get(told.get("resample", int(RESAMPLE["bicubic"])), "bicubic")
    if "image_mean" not in told or told.get("do_normalize") is False:
        return {}, resample
    given = validate(Statistics, {"mean": told["image_mean"], "std": told.get("image_std")}, f"{path}: preprocessor")
    named = [name for name, statistics in STATISTICS.items() if statistics == given]
    return {"normalise": named[0] if named else given.model_dump(mode="json")}, resample
