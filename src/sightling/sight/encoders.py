"""Image encoders: any transformers image tower, a chosen layer, with or without its CLS token.

Legend: ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels, ``P`` patches, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn as nn
from torch import Tensor
from transformers import CLIPVisionConfig, PreTrainedConfig, SiglipVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from sightling.errors import UserError, nearest
from sightling.parts import Part
from sightling.sight.configs import make_config
from sightling.sight.stem import ConvStem, Stem, check_stem


class Statistics(Part):
    """What normalises pixels of 0 to 1: ``(pixel - mean) / std`` by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


STATISTICS = {
    "half": Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "clip": Statistics(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    "imagenet": Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}

TOWERS: dict[str, tuple[type[PreTrainedConfig], type[nn.Module]]] = {
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
}
"""Tower classes by transformers' ``model_type``."""

WITH_CLS = ("clip_vision_model",)
"""Towers that put a CLS token before the patches."""

TRAINED_WITH = {"clip_vision_model": "clip", "siglip_vision_model": "half"}
"""The statistics that the published towers of a class were trained with."""

TYPES = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""What a recipe writes as ``encoder.type``."""


class EncoderOptions(Part):
    """How a tower is used; the tower's own sizes live in its transformers configuration.

    ``layer`` counts hidden states as transformers does: 0 is the embedding, -1 the last layer (for -1
    the tower's final norm is applied where it has one, as SigLIP's ``last_hidden_state``).
    ``normalise`` names statistics or gives them as ``{mean: [...], std: [...]}``; left out, they are those
    that published towers of this class were trained with.
    ``stem`` replaces the patch convolution of a tower grown from nothing.
    """

    layer: int = -1
    keep_cls: bool = False
    normalise: Literal["half", "clip", "imagenet"] | Statistics | None = None
    stem: Stem | None = None


def tower_config(options: Mapping[str, Any], where: str = "model.encoder") -> PreTrainedConfig:
    """The transformers configuration of a tower from a recipe's ``{type: siglip, hidden_size: ...}``.

    Raises:
        UserError: an unknown type or an unknown key, with the nearest known one.
    """
    rest = dict(options)
    name = str(rest.pop("type", ""))
    if name not in TYPES:
        raise UserError(f"{where}.type: there is no encoder {name!r}; {nearest(name, TYPES)}")
    if name == "siglip":
        # The pooling head is not on the way to the language model; computing it would be thrown away.
        rest.setdefault("vision_use_head", False)
    width = rest.get("hidden_size")
    if isinstance(width, int):
        rest.setdefault("intermediate_size", 4 * width)
        rest.setdefault("num_attention_heads", max(1, width // 64))
    config = make_config(TOWERS[TYPES[name]][0], rest, where)
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{where}: hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    if config.image_size < config.patch_size:
        raise UserError(f"{where}: image_size {config.image_size} is less than patch_size {config.patch_size}")
    return config


def check_usage(config: PreTrainedConfig, options: EncoderOptions, where: str) -> None:
    """Refuse a use that a tower of these sizes does not allow.

    Raises:
        UserError: a layer that the tower has not, a CLS token to keep where there is none, or a stem whose
            convolutions do not make the patch size.
    """
    layers = int(config.num_hidden_layers)
    if not -layers - 1 <= options.layer <= layers:
        raise UserError(f"{where}.layer = {options.layer}, but the tower's layers are counted from 0 to {layers}")
    if options.keep_cls and config.model_type not in WITH_CLS:
        raise UserError(f"{where}.keep_cls is true, but a {config.model_type} has no CLS token")
    if options.stem is not None:
        check_stem(options.stem, int(config.patch_size), int(config.image_size), f"{where}.stem")


class Encoder(nn.Module):
    """A tower and the choice of which of its features go on.

    ``tower`` brings its weights; without it a new one is made.

    Shapes: ``uint8`` (or already normalised float) pixels_NCHW to features_NPD.

    Raises:
        UserError: an unknown class of towers, or options that :func:`check_usage` refuses.
    """

    def __init__(self, config: PreTrainedConfig, options: EncoderOptions, tower: nn.Module | None = None) -> None:
        super().__init__()
        if config.model_type not in TOWERS:
            raise UserError(f"there is no encoder for {config.model_type!r}; {nearest(config.model_type, TOWERS)}")
        check_usage(config, options, "encoder")
        self.config = config
        self.options = options
        self.tower = tower if tower is not None else TOWERS[config.model_type][1](config)
        if options.stem is not None:
            embeddings = self._embeddings()
            embeddings.patch_embedding = ConvStem(options.stem, config.hidden_size)

    def _embeddings(self) -> Any:
        inner = getattr(self.tower, "vision_model", self.tower)
        return inner.embeddings

    @property
    def width(self) -> int:
        """Features' width ``D``."""
        return int(self.config.hidden_size)

    @property
    def statistics(self) -> Statistics:
        """What pixels are normalised with."""
        told = self.options.normalise
        return told if isinstance(told, Statistics) else STATISTICS[told or TRAINED_WITH[self.config.model_type]]

    @property
    def has_cls(self) -> bool:
        """Whether the tower puts a CLS token before the patches."""
        return self.config.model_type in WITH_CLS

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches for an input of that size in pixels."""
        patch = int(self.config.patch_size)
        return height // patch, width // patch

    def normalise(self, pixels_NCHW: Tensor) -> Tensor:
        """``uint8`` pixels to the tower's normalised floats; floats pass unchanged."""
        if pixels_NCHW.dtype != torch.uint8:
            return pixels_NCHW
        # Made here, not kept as buffers: transformers leaves buffers that are not saved without values when it loads.
        dtype, device = next(self.parameters()).dtype, pixels_NCHW.device
        chosen = self.statistics
        mean = torch.tensor(chosen.mean, device=device).view(1, 3, 1, 1) * 255.0
        deviation = torch.tensor(chosen.std, device=device).view(1, 3, 1, 1) * 255.0
        return ((pixels_NCHW.float() - mean) / deviation).to(dtype)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Features of the chosen layer; the CLS token is dropped unless it is kept."""
        pixels_NCHW = self.normalise(pixels_NCHW)
        if self.options.layer == -1:
            features_NPD = self.tower(pixel_values=pixels_NCHW).last_hidden_state
        else:
            output = self.tower(pixel_values=pixels_NCHW, output_hidden_states=True)
            features_NPD = output.hidden_states[self.options.layer]
        if self.has_cls and not self.options.keep_cls:
            features_NPD = features_NPD[:, 1:]
        return features_NPD
