"""All that trades memory or speed at once, and all of it but one: what is learnt is the same but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from levered import learnt
from torch import Tensor

from sightling.train import compiling

ALL: dict[str, Any] = {
    "objective": {"type": "answer", "max_length": 128, "pack": True, "share": True, "logits_chunk": 3,
                  "encode_once": True, "trim": True},
    "train": {"connector": True, "language_model": True},
    "features": {"cache": True},
    "gradient_checkpointing": True,
    "torch_compile": True,
    "compact_attention": True,
    "optim_fused": True,
    "dataloader_num_workers": 1,
    "gradient_accumulation_steps": 1,
}
OFF: dict[str, dict[str, Any]] = {
    "packed rows": {"objective": {**ALL["objective"], "pack": False}},
    "shared pictures": {"objective": {**ALL["objective"], "share": False}},
    "logits in chunks": {"objective": {**ALL["objective"], "logits_chunk": 0}},
    "one encoding of a picture": {"objective": {**ALL["objective"], "encode_once": False}},
    "compact attention": {"compact_attention": False},
    "trimming": {"objective": {**ALL["objective"], "trim": False}},
    "kept features": {"features": {"cache": False}},
    "gradient checkpointing": {"gradient_checkpointing": False},
    "compilation": {"torch_compile": False},
    "the fused optimizer": {"optim_fused": False},
    "workers": {"dataloader_num_workers": 0},
    "one large micro-batch": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module")
def all_on(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The folder of a run that pulls every lever, and its weights."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", "eager")
        return folder, learnt(folder / "all", **ALL)[0]


def furthest(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert set(one) == set(two)
    return max(float((tensor - two[name]).abs().max()) for name, tensor in one.items())


@pytest.mark.parametrize("lever", OFF)
def test_turning_one_off_changes_nothing_beyond_rounding(
    all_on: tuple[Path, dict[str, Tensor]], lever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights = all_on
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    again, _ = learnt(folder / lever, **{**ALL, **OFF[lever]})
    # AdamW turns rounding of small gradients into a small part of a step, which is 1e-3.
    assert furthest(again, weights) < 2e-4


def test_turning_all_off_changes_nothing_beyond_rounding_and_training_changes_more(
    all_on: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, weights = all_on
    off: dict[str, Any] = {}
    for told in OFF.values():
        for key, value in told.items():
            off[key] = {**off.get(key, {}), **value} if isinstance(value, dict) else value
    off["objective"] = {"type": "answer", "max_length": 128, "pack": False, "share": False, "logits_chunk": 0,
                        "encode_once": False, "trim": False}  # fmt: skip
    assert furthest(learnt(folder / "none", **{**ALL, **off})[0], weights) < 2e-4
    assert furthest(learnt(folder / "fewer", **{**ALL, "max_steps": 3})[0], weights) > 5e-4
