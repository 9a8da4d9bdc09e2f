"""Small stages that are planned, and the same with a real model, to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

import kit
from sightling.model.build import build_model
from sightling.train import preparing
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.features.cache import open_features
from sightling.train.optimizers import build_optimizers
from sightling.train.order import Batches, derive_seed
from sightling.train.planning import plan_recipe
from sightling.train.plans import StagePlan
from sightling.train.recipe import Recipe, TrainStage, parse_recipe
from sightling.train.trained import EXTRA, Whole, able_to_learn, model_parts, set_training

WORLD = {"type": "world", "languages": ["en"], "families": ["color"], "questions_per_picture": 2,
         "scene": {"max_things": 2}}  # fmt: skip
REST = {"connector": True, "language_model": True}
ALL = {"encoder": True, "connector": True, "language_model": True}


def recipe(words: str, *, model: dict[str, Any] | None = None, **told: Any) -> Recipe:
    plain = {"objective": {"type": "answer", "max_length": 256}, "data": WORLD, "train": ALL, "learning_rate": 1e-3,
             "max_steps": 5, "per_device_train_batch_size": 4, "bf16": False}  # fmt: skip
    tokenizer = {"tokenizer": {"pretrained": words}}
    return parse_recipe(
        {"name": "small", "model": kit.section(**tokenizer, **(model or {})), "stages": {"one": {**plain, **told}}},
        "small.yaml",
    )


def planned(recipe: Recipe) -> StagePlan:
    (stage,) = plan_recipe(recipe, probe_seconds=0).stages
    return stage


def grown(
    recipe: Recipe, keep: Path | None = None
) -> tuple[Whole, Any, list[Any], dict[str, nn.Module], dict[str, float]]:
    """The same stage with a real model: whole, optimizers, the micro-batches that a plan looks at, parts and rates.

    ``keep``: the folder of a run that keeps features there.
    """
    model, processor = build_model(recipe.model, recipe.seed, Path())
    ((name, stage),) = recipe.stages.items()
    what = check_recipe(recipe)[name]
    assert isinstance(stage, TrainStage) and isinstance(what, CheckedStage)
    parts, rates = model_parts(model), stage.train.rates(stage.learning_rate)
    set_training(model, parts, rates, able_to_learn(model), "", stage.train)
    seed = derive_seed(stage.seed, name)
    objective = what.objective(model, processor, what.options, what.data, seed)
    bf16, say = bool(stage.bf16), print
    objective.features = open_features(stage.features, model, processor, objective.view, bf16, keep or Path(), say, "")
    extra = objective.extra()
    if extra is not None:
        parts[EXTRA], rates[EXTRA] = extra, stage.learning_rate
    optimizers = build_optimizers(stage, parts, rates)
    numbered = Batches(objective.dataset(), objective.collate, stage.per_device_train_batch_size, seed)
    batches = [numbered[number] for number in range(preparing.MICRO_BATCHES)]
    return Whole(model, objective, extra), optimizers, batches, parts, rates
