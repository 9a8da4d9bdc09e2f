"""Which layers of a tower are gathered one by one."""

from __future__ import annotations

from typing import Any

import pytest

from kit import CLIP, SIGLIP, grow
from sightling.train.sharded_tower import tower_layers

STEM = {**SIGLIP, "stem": {"channels": [4, 32]}}
MLLAMA = {"type": "mllama", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1,
          "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 3,
          "intermediate_layers_indices": [0]}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "trains", "count"),
    [
        ({"encoder": SIGLIP}, True, 2),
        ({"encoder": {**CLIP, "layer": -2}}, True, 1),
        ({"encoder": STEM}, False, 2),
        # A grey square would change the stem's batch statistics.
        ({"encoder": STEM}, True, 0),
        ({"encoder": MLLAMA, "tiling": {"type": "canvas", "max_tiles": 3}}, True, 0),
    ],
)
def test_layers_that_run_and_can_be_gathered_alone(told: dict[str, Any], trains: bool, count: int) -> None:
    model, _ = grow(**told)
    model.train(trains)
    found = tower_layers(model)
    assert len(found) == count
    assert all(layer is other for layer, other in zip(found, model.encoder.running(), strict=False))
