"""A tower whose checkpoint is a whole model, as a recipe names BLIP-2's for EVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from sightling.model.build import pretrained_vision_config
from sightling.model.pretrained import load_weights
from sightling.sight.encoders import TOWERS

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
PARTS = {
    "vision_config": {**SIZES, "image_size": 28, "patch_size": 14},
    "qformer_config": {**SIZES, "encoder_hidden_size": 32, "vocab_size": 40},
    "text_config": {"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "ffn_dim": 48, "vocab_size": 40, "word_embed_proj_dim": 32},
    "num_query_tokens": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Blip2ForConditionalGeneration, Blip2Config), (InstructBlipForConditionalGeneration, InstructBlipConfig)],
)
def test_a_tower_is_read_from_a_whole_model_and_from_its_own_folder(tmp_path: Path, kind: Any, config: Any) -> None:
    whole = kind(config(**PARTS))
    whole.save_pretrained(tmp_path / "whole")
    whole.vision_model.save_pretrained(tmp_path / "own")
    expected = whole.vision_model.state_dict()
    for folder in ("whole", "own"):
        found = pretrained_vision_config(str(tmp_path / folder))
        tower = load_weights(TOWERS[found.model_type].model_class, str(tmp_path / folder), found)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tower.state_dict().items()), folder
