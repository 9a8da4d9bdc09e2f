"""Tiny models of every kind for the tests of sight, model and train, built as a recipe builds them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from sightling.data.sample import Part, Picture, Sample, Turn
from sightling.model import VisionLanguageModel, VisionLanguageProcessor
from sightling.model.build import build_model
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

WORDS = [
    "what colour is the circle?\nred",
    "is there a blue square left of the star?\nyes",
    "how many triangles are there?\n2",
    "图中有没有红色的圆形？\n有",
    "a small green heart and two large yellow crosses, 1234567890",
]

SIGLIP = {"type": "siglip", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 48}  # fmt: skip
CLIP = {**SIGLIP, "type": "clip"}
LLAMA = {"type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 2048}  # fmt: skip
QWEN3 = {**LLAMA, "type": "qwen3", "head_dim": 16}
QWEN2 = {**LLAMA, "type": "qwen2"}
MISTRAL = {**LLAMA, "type": "mistral"}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer of its own; nobody changes it."""
    return train_bpe(WORDS * 5, 330, TEMPLATES.get("chatml"))


def section(**told: Any) -> dict[str, Any]:
    """A recipe's ``model`` section: SigLIP and Llama of the smallest size unless told otherwise."""
    return {"encoder": SIGLIP, "language_model": LLAMA, "connector": {"type": "mlp"}, **told}


def grow(seed: int = 0, **told: Any) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A model in evaluation mode with weights that make everything matter, and its processor."""
    with tempfile.TemporaryDirectory() as folder:
        if "tokenizer" not in told:
            tokenizer().save_pretrained(Path(folder) / "tokenizer")
        model, processor = build_model(section(**told), seed, Path(folder))
    return stir(model, seed).eval(), processor


@cache
def plain() -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """The usual pair, shared between tests: nobody changes it."""
    return grow()


def stir(module: Any, seed: int, deviation: float = 0.2) -> Any:
    """Random weights everywhere: a fresh model's last matrices are zero, so that parts of it do nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * deviation
            parameter.copy_(1 + drawn if "norm" in name and name.endswith("weight") else drawn)
        for buffer_owner in module.modules():
            if isinstance(buffer_owner, nn.BatchNorm2d):
                buffer_owner.running_mean.copy_(torch.randn(buffer_owner.num_features, generator=generator))
                buffer_owner.running_var.copy_(torch.rand(buffer_owner.num_features, generator=generator) + 0.5)
    return module


def noise(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
    """An RGB picture of noise."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def picture(seed: int = 0, width: int = 20, height: int = 16) -> Picture:
    """A picture of noise."""
    return Picture(image=noise(width, height, seed))


def talk(*turns: Part | tuple[Part, ...], system: str | None = None) -> Sample:
    """User and assistant in turns; each turn is a text or a tuple of texts and pictures."""
    made = [Turn("system", (system,))] if system is not None else []
    for number, parts in enumerate(turns):
        made.append(Turn("assistant" if number % 2 else "user", parts if isinstance(parts, tuple) else (parts,)))
    return Sample(tuple(made))


def alone(model: VisionLanguageModel, processor: VisionLanguageProcessor, sample: Sample) -> Tensor:
    """The logits_TV of one sample, computed by transformers' way in, with nothing beside it."""
    encoded = processor.encode(sample)
    shown = processor.inputs(*encoded.pictures).tensors() if encoded.pictures else {}
    return model(input_ids=torch.tensor([encoded.input_ids]), use_cache=False, **shown).logits[0]
