"""A saved model answers as it did before: outputs are compared, since equal keys would hide what is not saved."""

from __future__ import annotations

from pathlib import Path

import torch

import sightling
from tinymodel import tiny


def test_a_loaded_model_gives_the_same_numbers(tmp_path: Path) -> None:
    model, processor = tiny()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = sightling.load(tmp_path)
    size = processor.image_processor.image_size
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():
        before, after = model.eval().get_image_features(pixels), loaded.eval().get_image_features(pixels)
    assert torch.equal(before, after)
    assert before.abs().max() > 0
