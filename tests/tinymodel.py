"""Tiny random models for the tests of decoding."""

from __future__ import annotations

from functools import lru_cache

import torch
from PIL import Image
from transformers import LlamaConfig, Qwen3Config

import sightling.model  # noqa: F401 (registers the classes)
from sightling.data.sample import Picture
from sightling.model.config import VisionLanguageConfig
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe
from sightling.sight.encoders import tower_config

TEXTS = ["what colour is the circle? red blue is there a 圆形 图中有没有红色的圆形？"] * 10


@lru_cache
def tiny(
    kind: str = "llama", context: int = 512, window: int | None = None
) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A random model (shared between tests: nobody changes it) whose answers vary with the picture."""
    torch.manual_seed(0)
    tokenizer = train_bpe(TEXTS, 320, TEMPLATES.get("chatml"))
    pictures = VisionLanguageImageProcessor(32, 8, 0, {"type": "single"}, {"type": "pixel_shuffle"})
    processor = VisionLanguageProcessor(pictures, tokenizer)
    shape = dict(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=96,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        initializer_range=0.5,
        pad_token_id=processor.pad_token_id,
        eos_token_id=processor.stop_token_id,
        bos_token_id=None,
    )
    text: LlamaConfig | Qwen3Config
    if kind == "llama":
        text = LlamaConfig(**shape)
    elif window:
        layers = ["sliding_attention", "full_attention"]
        text = Qwen3Config(**shape, use_sliding_window=True, sliding_window=window, layer_types=layers)
    else:
        text = Qwen3Config(**shape)
    tower = tower_config(
        dict(type="siglip", image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
    )
    config = VisionLanguageConfig(
        vision_config=tower,
        text_config=text,
        connector={"type": "pixel_shuffle"},
        image_token_id=processor.image_token_id,
    )
    model = VisionLanguageModel(config).eval()
    return model, processor


def picture(seed: int) -> Picture:
    """A picture of noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=generator)
    return Picture(image=Image.fromarray(pixels.numpy()))


def by_transformers(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, sample: object, max_new_tokens: int
) -> list[int]:
    """The greedy token ids that transformers' own ``generate`` gives one sample alone."""
    encoded = processor.encode(sample, prompt_only=True)  # type: ignore[arg-type]
    ids = torch.tensor([encoded.input_ids])
    pixels = torch.cat([processor.pixels(one) for one in encoded.pictures]) if encoded.pictures else None
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        suppress_tokens=[processor.image_token_id],
    )
    return out[0, ids.shape[1] :].tolist()
