"""What a stage would be given, before anything is trained: a processor, and a few of its own micro-batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sightling.errors import UserError
from sightling.model.build import (
    ModelSection,
    build_image_processor,
    build_processor,
    check_model,
    find_tokenizer,
    pretrained_vision_config,
    sizes,
)
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.modeling import VisionLanguageModel
from sightling.model.parameters import meta_model
from sightling.model.spatial import is_spatial
from sightling.model.templates import TEMPLATES
from sightling.model.vocabulary import add_control_tokens, rounded
from sightling.parts import make
from sightling.sight.encoders import tower_config
from sightling.sight.tiling import TILINGS
from sightling.train.checked import CheckedStage
from sightling.train.objectives import Objective
from sightling.train.objectives.base import TYPICAL, Batch
from sightling.train.order import Batches, length
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.steps import StageStep, StepContext
from sightling.train.steps.tokenizer import TokenizerStep

TEXTS_READ = 300
"""Texts that a stand-in of a tokenizer is trained on: what a text takes in tokens changes little after that."""

MICRO_BATCHES = 3
"""Micro-batches that are looked at, as long as they come quickly."""

SECONDS = 4.0
"""After so long no further micro-batch is asked for."""


_NO_WORDS = "there is no tokenizer here, so that no words can be counted: {}"


@dataclass(frozen=True)
class Wordless:
    """What there is of a processor while there is no tokenizer."""

    image_processor: VisionLanguageImageProcessor
    image_token_id: int
    spatial: bool
    pad_token_id: int = 0
    stop_token_id: int = 0


@dataclass(frozen=True)
class Prepared:
    """A recipe's model without memory, and its processor.

    Attributes:
        model: on the meta device.
        processor: the whole one, or :class:`Wordless`.
        words: whether it is whole.
        note: what is told of the tokenizer; empty where there is nothing to tell.
    """

    model: VisionLanguageModel
    processor: Any
    words: bool
    note: str


@dataclass(frozen=True)
class Sampled:
    """Micro-batches of a stage.

    Attributes:
        batches: a few of the first ones.
        items: how many items the data hold; None for data that never end, or are not there.
        seconds: to make one micro-batch in this process; None where the batch stands for data that are not there.
        note: why the batch stands for data that are not there; empty where it does not.
        made: what made the batches; None where one stands for data that are not there.
    """

    batches: list[Batch]
    items: int | None
    seconds: float | None
    note: str
    made: Batches | None = None


def prepare(recipe: Recipe, checked: Mapping[str, CheckedStage | StageStep]) -> Prepared:
    """The model of a recipe on the meta device, and the processor as far as it can be had.

    A tokenizer that a stage trains is trained here on :data:`TEXTS_READ` texts.

    Raises:
        UserError: a wrong section, or a pretrained part of no told size that cannot be read.
    """
    where = f"{recipe.source}: model"
    section = check_model(recipe.model, where)
    encoder = section.tower()
    vision = tower_config(sizes(encoder)) if "type" in encoder else pretrained_vision_config(encoder["pretrained"])
    steps = [step for step in checked.values() if isinstance(step, TokenizerStep)]
    marks = make(TILINGS, section.tiling, f"{where}.tiling").marks()
    vocabulary = rounded(steps[0].vocab_size + len(marks)) if steps else None
    tokenizer, note = _tokenizer(recipe, section, steps)
    processor: Any = None
    if tokenizer is not None:
        vocabulary = vocabulary or rounded(len(tokenizer))
        try:
            processor = build_processor(section, vision, tokenizer)
        except UserError as error:
            # A second tokenizer may be missing; whatever else is wrong is so for the pictures alone, too.
            note = _NO_WORDS.format(str(error).rstrip("."))
    model = meta_model(recipe.model, vocabulary, where)
    if processor is None:
        # Another one than the words have that stand for those that are not there.
        model.config.image_token_id = 1
        images = build_image_processor(section, vision)
        return Prepared(model, Wordless(images, 1, is_spatial(model.language_model.config)), False, note)
    processor.spatial = is_spatial(model.language_model.config)
    # The placeholder is where this tokenizer has it.
    model.config.image_token_id = processor.image_token_id
    return Prepared(model, processor, True, note)


def _tokenizer(recipe: Recipe, section: ModelSection, steps: list[TokenizerStep]) -> tuple[Any, str]:
    """The tokenizer with the template's control tokens, or None and why there is none; and what is to be told."""
    with tempfile.TemporaryDirectory() as folder:
        note = ""
        try:
            if steps and "pretrained" not in section.tokenizer:
                few = steps[0].model_copy(update={"texts": min(steps[0].texts, TEXTS_READ)})
                few.check()
                into = Path(folder) / few.folder
                few.run(StepContext(recipe.model, recipe.seed, into, Path(folder), lambda line: None))
                if few.texts < steps[0].texts:
                    note = f"words are counted by a tokenizer trained on {few.texts:,} of {steps[0].texts:,} texts"
            tokenizer, path = find_tokenizer(section, Path(folder))
        except UserError as error:
            return None, _NO_WORDS.format(str(error).rstrip("."))
        marks = make(TILINGS, section.tiling, "model.tiling").marks()
        add_control_tokens(tokenizer, TEMPLATES.get(section.template), path, marks)
        return tokenizer, note


def sample(
    stage: TrainStage, what: CheckedStage, objective: Objective, prepared: Prepared, seed: int, size: int
) -> Sampled:
    """A few micro-batches of ``size`` items: the stage's first ones, or one that stands for data that are not there.

    Raises:
        UserError: data that are there and wrong, or an objective that cannot be planned without its data.
    """
    missing = "" if prepared.words else "there is no tokenizer here"
    if not missing:
        try:
            what.data.check()
        except UserError as error:
            missing = f"the data are not there: {str(error).rstrip('.')}"
    if missing:
        batch = objective.collate([objective.largest_item()] * size)
        told = f"every item is as long as max_length allows, with one picture of {TYPICAL[0]} x {TYPICAL[1]} pixels"
        return Sampled([batch], None, None, f"{missing}; so {told}")
    dataset = objective.dataset()
    batches = Batches(dataset, objective.collate, size, seed)
    if batches.length == 0:
        raise UserError("the data hold no samples")
    found: list[Batch] = []
    seconds = seconds_to_make(batches, MICRO_BATCHES, found.append)
    return Sampled(found, length(dataset), seconds, "", batches)


def seconds_to_make(batches: Batches, most: int, take: Callable[[Batch], None] = lambda batch: None) -> float:
    """What it takes to make one of the first ``most`` micro-batches, given to ``take``; fewer if they come slowly."""
    took: list[float] = []
    while len(took) < most and sum(took) < SECONDS:
        start = time.thread_time()
        batch = batches[len(took)]
        took.append(time.thread_time() - start)
        take(batch)
    # The first one opens files and fills caches.
    return min(took[1:], default=took[0])


def visual_tokens(batch: Batch, image_token_id: int) -> int:
    """Placeholders in a micro-batch's rows; what a picture takes beside the text is not among them."""
    ids = batch.get("input_ids")
    return int((ids == image_token_id).sum()) if isinstance(ids, Tensor) else 0
