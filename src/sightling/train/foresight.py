"""What a recipe says of a model's parts, tried on a model without memory before anything is written.

A layer that is not there, a name that fits nothing or a part that cannot be checkpointed would otherwise be found when
its stage begins, after all stages before it.
"""

from __future__ import annotations

from typing import Any

import torch

from sightling.errors import UserError
from sightling.model.adapters import detach
from sightling.model.parameters import meta_model
from sightling.model.recomputing import checkpoint_layers
from sightling.train.adapters import attach_adapters
from sightling.train.levers import checkpointed
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.schedule import Schedule, warmup_length
from sightling.train.trained import able_to_learn, model_parts, set_training

ROWS = 512
"""Of the embeddings where a stage trains the tokenizer; no name depends on how many there are."""


def foresee(recipe: Recipe) -> None:
    """Try each stage's ``train`` and ``gradient_checkpointing`` on the model's shapes, and its schedule.

    Raises:
        UserError: what the stage would raise when it begins, as far as it depends on no values; or a pretrained part
            that cannot be read.
    """
    model: Any = meta_model(recipe.model, ROWS, f"{recipe.source}: model")
    able, parts = able_to_learn(model), model_parts(model)
    for name, stage in recipe.stages.items():
        if not isinstance(stage, TrainStage):
            continue
        where = f"{recipe.source}: stages.{name}"
        with torch.device("meta"):
            attach_adapters(model, stage.train, able, where, 0)
        set_training(model, parts, stage.train.rates(stage.learning_rate), able, where, stage.train)
        if stage.max_steps is not None:
            warmup = warmup_length(stage.max_steps, stage.warmup_steps, stage.warmup_ratio)
            try:
                Schedule(stage.lr_scheduler_type, stage.max_steps, warmup, stage.lr_scheduler_kwargs)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
        if stage.gradient_checkpointing:
            checkpointed(model, stage, where)
        detach(model)
        checkpoint_layers(model, ())
