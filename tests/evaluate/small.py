"""A small model for the tests of evaluation: it has learnt to say "red" whatever it is asked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from sightling.data.sample import Picture, Sample, question
from sightling.model.build import build_model
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe
from sightling.train.packing import collate_rows, document

TEXTS = [
    "what color is the circle? red blue green yes no is there a large small square 图中有没有红色的圆形？红色"
] * 10
SECTION = {
    "encoder": {"type": "siglip", "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1},
    "connector": {"type": "pixel_shuffle"},
    "language_model": {"type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256},
}


def fresh(language_model: dict[str, object] | None = None) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A model with random weights."""
    with TemporaryDirectory() as folder:
        train_bpe(TEXTS, 330, TEMPLATES.get("chatml")).save_pretrained(folder)
        section = {**SECTION, "tokenizer": {"pretrained": folder}}
        torch.manual_seed(0)
        return build_model({**section, "language_model": language_model or SECTION["language_model"]}, 0, Path(folder))


@lru_cache
def red() -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """The model that says "red"; shared between tests, nobody changes it."""
    model, processor = fresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = ["what color is the circle?", "is there a square?", "图中有没有红色的圆形？", "large", "blue?", "no green"]
    documents = [document([processor.encode(asked(text, number, "red"))]) for number, text in enumerate(texts)]
    pixels = torch.cat([processor.pixels(noise(number)) for number in range(len(texts))])
    batch = collate_rows(documents, [[number] for number in range(len(texts))], processor.pad_token_id)
    for _ in range(40):
        loss, _ = model.supervised_loss(**batch, pixel_values=pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return model, processor


def noise(seed: int) -> Picture:
    """A picture of noise."""
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Picture(image=Image.fromarray(pixels.numpy()))


def asked(text: str, seed: int, answer: str | None = None, **meta: object) -> Sample:
    """A question about a picture of noise."""
    return question(text, noise(seed), answer=answer, **meta)
