"""How many parameters a recipe's model has, part by part, without allocating one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sightling.errors import UserError
from sightling.model.build import check_model, pretrained_vision_config, sizes
from sightling.model.config import VisionLanguageConfig
from sightling.model.language import language_config
from sightling.model.modeling import VisionLanguageModel
from sightling.model.pretrained import load_config
from sightling.sight.encoders import tower_config


def meta_model(
    told: Mapping[str, Any], vocabulary: int | None = None, where: str = "model"
) -> VisionLanguageModel:
    """The model that a recipe's ``model`` section describes, on the meta device: shapes without memory.

    Args:
        told: the section.
        vocabulary: rows of the embeddings, where the section does not say them because a stage trains the tokenizer.
        where: what the section is called in errors.

    Raises:
        UserError: a wrong section, a pretrained part of no told size that cannot be read, or an unknown vocabulary.
    """
    section = check_model(told, where)
    encoder, language = section.tower(), section.language_model
    tower = tower_config(sizes(encoder)) if "type" in encoder else pretrained_vision_config(encoder["pretrained"])
    text = language_config(sizes(language)) if "type" in language else load_config(language["pretrained"])
    if "type" in language and "vocab_size" not in language:
        if vocabulary is None:
            raise UserError(f"{where}.language_model says no vocab_size; its embeddings cannot be counted")
        text.vocab_size = vocabulary
    config = VisionLanguageConfig(
        vision_config=tower, text_config=text, encoder=section.encoder_options(), connector=section.connector,
        tiling=section.tiling,
    )  # fmt: skip
    with torch.device("meta"):
        return VisionLanguageModel(config)


def count_parameters(told: Mapping[str, Any], vocabulary: int | None = None, where: str = "model") -> dict[str, int]:
    """Parameters of each part of the model that a recipe's ``model`` section describes; tied ones count once.

    Raises:
        UserError: as :func:`meta_model`, which is told the same.
    """
    parts = meta_model(told, vocabulary, where).parts()
    return {name: sum(parameter.numel() for parameter in {*part.parameters()}) for name, part in parts.items()}
