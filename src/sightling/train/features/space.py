"""What features depend on besides the picture: the encoder and its weights, how pictures are cut, precisions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

View = Literal["tiles", "whole"]
"""Whether the encoder sees a picture as the model's tiling cuts it, or as one square."""

WORDS = {
    "weights": "the encoder's weights", "encoder": "the encoder or its layers", "pictures": "how pictures are cut",
    "precision": "the precision of the encoder's pass", "dtype": "features.dtype",
}  # fmt: skip
"""What a person is told of each thing."""

ASIDE = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures"})
"""Keys of a tower's configuration that change nothing of what it computes; nor do those that begin with ``_``."""


def fingerprint(module: nn.Module) -> str:
    """A SHA-256 of a module's parameters and saved buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def space_of(model: Any, processor: Any, view: View, bf16: bool, dtype: str) -> dict[str, str]:
    """Everything that features of a model depend on besides the picture, by the names of :data:`WORDS`.

    Args:
        model: a :class:`~sightling.model.modeling.VisionLanguageModel`.
        processor: its processor.
        view: how its encoder sees pictures.
        bf16: whether matrix products are in bfloat16.
        dtype: what the features are kept in.
    """
    encoder = model.encoder
    config = {k: v for k, v in encoder.config.to_dict().items() if k not in ASIDE and not k.startswith("_")}
    use = {
        "config": config, "options": encoder.options.model_dump(mode="json"), "filled": model.fills_up,
        "statistics": encoder.statistics.model_dump(mode="json"),
    }  # fmt: skip
    cut = processor.image_processor.to_dict()
    kept = ("image_size", "patch_size", "resample", *(("tiling",) if view == "tiles" else ()))
    parameter = next(encoder.parameters())
    return {
        "weights": fingerprint(encoder),
        "encoder": json.dumps(use, sort_keys=True, default=str),
        "pictures": json.dumps({"view": view, **{key: cut[key] for key in kept}}, sort_keys=True),
        "precision": str(torch.bfloat16 if bf16 else parameter.dtype).removeprefix("torch."),
        "dtype": dtype,
    }


def name_of(space: Mapping[str, str]) -> str:
    """A short name that differs where anything in the space does."""
    return hashlib.sha256(json.dumps(dict(space), sort_keys=True).encode()).hexdigest()[:16]


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In words, what is not the same in two spaces."""
    named = [words for key, words in WORDS.items() if one.get(key) != other.get(key)]
    return ", ".join(named[:-1]) + (" and " if named[:-1] else "") + named[-1] if named else "nothing"
