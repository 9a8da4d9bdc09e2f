"""What cannot be found in a model's parts is told before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from levered import recipe

from sightling.errors import UserError
from sightling.train.run import run

TRAIN = {"connector": True, "language_model": True}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"train": {**TRAIN, "layers": [7]}}, "train.layers names layer 7, but the language model's are 0 to 1"),
        ({"train": {**TRAIN, "only": {"language_model": ["nothing"]}}}, "has nothing called 'nothing'"),
        (
            {"train": {"language_model": {"type": "lora", "target_modules": ["nothing"]}}},
            "has no linear layer called 'nothing'",
        ),
        (
            {"train": {"language_model": {"type": "lora", "r": 33, "target_modules": ["q_proj"]}}},
            "train.language_model.r = 33 is above 32, the smaller side of model.layers.0.self_attn.q_proj; lower it to",
        ),
        ({"warmup_steps": 7}, "a warm-up of 7 steps does not fit into a stage of 4; lower"),
        ({"gradient_checkpointing": ["connector"]}, "the connector has no layers that could"),
    ],
)
def test_a_stage_that_cannot_begin_leaves_no_folder(tmp_path: Path, told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        run(recipe(tmp_path / "words", **told), tmp_path / "run", threads=1)
    assert sentence in str(error.value) and "stages.one" in str(error.value)
    assert not (tmp_path / "run").exists()
