"""Every small recipe grows a model from nothing: a step of each of its stages, then an answer."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import sightling
from kit import noise
from sightling.decode.ask import ask
from sightling.train.recipe import TrainStage, load_recipe, packaged
from sightling.train.run import run

TINY = [name for name in packaged() if name.endswith("-tiny")]
OWN = {"small-letters", "two-pictures", "clips"}
"""What else is grown from nothing on the small world, in minutes."""


def shortened(name: str) -> list[str]:
    """Overrides that leave a step of every stage."""
    told = []
    for label, stage in load_recipe(name).stages.items():
        if isinstance(stage, TrainStage):
            told += [f"stages.{label}.{key}" for key in ("max_steps=1", "warmup_steps=0")]
            told.append(f"stages.{label}.per_device_train_batch_size=2")
        else:
            told.append(f"stages.{label}.texts=300")
    return told


@pytest.mark.parametrize("name", [*TINY, *sorted(OWN)])
def test_a_step_of_every_stage_leaves_a_model_that_answers(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, shortened(name))
    folder = run(recipe, tmp_path, threads=1, console=Console(file=io.StringIO()))
    model, processor = sightling.load(folder)
    counts = {part: sum(one.numel() for one in module.parameters()) for part, module in model.parts().items()}
    assert sum(counts.values()) < 5e6
    if recipe.model["connector"]["type"] != "expert":
        answer = ask(model, processor, noise(64, 48), "what is it?", max_new_tokens=2)
        assert isinstance(answer, str)


def test_there_is_a_small_form_of_every_architecture() -> None:
    own = {"quickstart", "easy-vqa", "emoji", *OWN}
    # What differs from another in size alone shares its small form.
    shared = {"minimind-v-small", "minimind-3v-moe"}
    full = {name for name in packaged() if not name.endswith("-tiny")} - own - shared
    assert {f"{name}-tiny" for name in full} == set(TINY)
