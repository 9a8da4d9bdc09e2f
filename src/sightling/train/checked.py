"""A recipe whose stages' own sections are known to be right, by the parts that they name."""

from __future__ import annotations

from dataclasses import dataclass

from sightling.errors import UserError
from sightling.model.quantised import LIBRARY, available
from sightling.parts import Part, make, validate
from sightling.train.objectives import OBJECTIVES, Objective
from sightling.train.recipe import Recipe, StepStage, TrainStage
from sightling.train.runfolder import RESERVED
from sightling.train.steps import STEPS, StageStep


@dataclass(frozen=True)
class CheckedStage:
    """A training stage whose parts are known and whose options are valid."""

    objective: type[Objective]
    options: Part
    data: Part


def check_recipe(recipe: Recipe) -> dict[str, CheckedStage | StageStep]:
    """Every stage's own sections, validated by the parts that they name.

    Raises:
        UserError: an unknown objective, data source, stage type or key, with the nearest known one.
    """
    checked: dict[str, CheckedStage | StageStep] = {}
    folders: dict[str, str] = {}
    for name, stage in recipe.stages.items():
        where = f"{recipe.source}: stages.{name}"
        if isinstance(stage, StepStage):
            step = make(STEPS, stage.options(), where)
            if step.folder in RESERVED:
                raise ValueError(f"{type(step).__name__}.folder = {step.folder!r} is a name that runs use themselves")
            if step.folder in folders:
                raise UserError(f"{where} makes {step.folder} again, which stages.{folders[step.folder]} makes already")
            folders[step.folder] = name
            checked[name] = step
        else:
            told = dict(stage.objective)
            objective = OBJECTIVES.get(told.pop("type"), where=f"{where}.objective.type")
            options = validate(objective.Options, told, f"{where}.objective")
            objective.check_model(recipe.model, f"{where}.objective")
            _check_features(stage, objective, options, where)
            _check_quantised(stage, where)
            checked[name] = CheckedStage(objective, options, make(objective.sources, stage.data, f"{where}.data"))
    return checked


def _check_features(stage: TrainStage, objective: type[Objective], options: Part, where: str) -> None:
    if stage.features is None or not stage.features.cache:
        return
    if stage.train.rates(stage.learning_rate)["encoder"]:
        raise UserError(
            f"{where}.features.cache keeps what a frozen encoder makes of pictures, but {where}.train trains the "
            "encoder; freeze it, or set features.cache to false"
        )
    objective.check_features(options, where)


def _check_quantised(stage: TrainStage, where: str) -> None:
    for part, lora in stage.train.adapters().items():
        if lora.quantize is not None and not available():
            raise UserError(
                f"{where}.train.{part}.quantize needs {LIBRARY}, which is not installed; "
                'run: pip install "sightling[qlora]"'
            )
