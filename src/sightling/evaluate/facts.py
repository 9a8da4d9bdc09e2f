"""What a report says about the model itself: its parts, how it was grown, and the commands that do it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightling.errors import UserError
from sightling.evaluate.section import Place
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.train.recipe import Recipe, TrainStage, load_recipe, packaged
from sightling.train.runfolder import RECIPE, RUN, recipe_hash
from sightling.train.trackers import METRICS, read_metrics


@dataclass(frozen=True)
class PartFacts:
    """One part of the model: its name, what it is in a few words, its parameters."""

    name: str
    kind: str
    parameters: int


def part_facts(model: VisionLanguageModel, processor: VisionLanguageProcessor) -> list[PartFacts]:
    """The parts in the order of the flow; parameters that two parts share count for the first."""
    vision, text = model.config.vision_config, model.config.text_config
    vision = getattr(vision, "vision_config", vision)
    size, patch = processor.image_processor.image_size, processor.image_processor.patch_size
    options, square = model.config.connector_options(), processor.image_processor.plan(size, size)
    shown = f"{processor.image_processor.count(size, size)} visual tokens"
    if options.beside:
        extra = processor.image_processor.extra_features
        shown = f"{sum(options.tokens(*grid, extra) for grid in square.patches)} visual tokens beside the text"
    kinds = {
        "encoder": f"{vision.model_type}, {_of(vision)}, {size} x {size} px in patches of {patch}",
        "connector": f"{model.config.connector.get('type', '')}, "
        f"{shown} a picture of {size} x {size}",
        "language_model": f"{text.model_type}, {_of(text)}, {text.vocab_size:,} tokens",
    }
    seen: set[int] = set()
    found = []
    for name, part in model.parts().items():
        own = {id(parameter): parameter.numel() for parameter in part.parameters() if id(parameter) not in seen}
        seen |= set(own)
        found.append(PartFacts(name, kinds.get(name, ""), sum(own.values())))
    return found


def _of(config: Any) -> str:
    return f"{config.num_hidden_layers} layers of width {config.hidden_size}"


@dataclass(frozen=True)
class StageFacts:
    """One stage of a run. ``trains`` names parts and rates; ``curves`` holds (step, value) by metric."""

    name: str
    about: str
    trains: str
    steps: int | None
    seconds: float | None
    peak_memory_bytes: int | None
    curves: dict[str, list[tuple[float, float]]]


def run_state(run: Path) -> dict[str, Any]:
    """What ``run.json`` holds.

    Raises:
        UserError: it is corrupt.
    """
    try:
        return json.loads((run / RUN).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{run / RUN} is corrupt") from None


CURVES = ("loss", "accuracy", "eval_loss", "eval_accuracy")


def stage_facts(run: Path, recipe: Recipe | None) -> list[StageFacts]:
    """The stages of a run with their curves, in order; metrics that a stage does not log have no curve."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in read_metrics(run / METRICS):
        for name in CURVES:
            if isinstance(line.get(name), (int, float)):
                series = curves.setdefault(str(line["stage"]), {}).setdefault(name, [])
                series.append((float(line["step"]), float(line[name])))
    found = []
    for name, state in run_state(run).get("stages", {}).items():
        stage = recipe.stages.get(name) if recipe is not None else None
        about, trains = "", ""
        if isinstance(stage, TrainStage):
            about = f"{stage.objective['type']} on {stage.data['type']}"
            rates = stage.train.described(stage.learning_rate)
            trains = ", ".join(f"{part.replace('_', ' ')} {rate}" for part, rate in rates.items())
        elif stage is not None:
            about = stage.type
        numbers = (state.get("steps"), state.get("seconds"), state.get("peak_memory_bytes"))
        found.append(StageFacts(name, about, trains, *numbers, curves.get(name, {})))
    return found


def train_command(place: Place, recipe: Recipe | None) -> str | None:
    """The command that grows this model again; ``None`` when no recipe is known.

    A packaged recipe is called by its name only while it still says what this model grew by.
    """
    if recipe is None:
        return None
    name = recipe.name
    if name not in packaged() or recipe_hash(load_recipe(name)) != recipe_hash(recipe):
        folder = place.run or place.model
        name = shlex.quote(str(folder / RECIPE))
    return f"sightling train {name}"
