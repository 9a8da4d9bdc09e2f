"""What a study will do: every variant's resolved recipe, its steps within the budget, and what is measured when.

All of it is checked before anything trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sightling.data.source import SourceOptions
from sightling.data.world import WorldOptions
from sightling.errors import UserError
from sightling.evaluate.section import Plan, plan_section
from sightling.evaluate.world import asked_families
from sightling.model.build import check_model
from sightling.model.inspection import inspect_recipe
from sightling.studies.study import Study
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.order import derive_seed
from sightling.train.overrides import apply_overrides
from sightling.train.processes import check_share
from sightling.train.recipe import Recipe, TrainStage, parse_recipe, read_recipe
from sightling.train.trackers import check_trackers

LOOKED_AT = 16
"""Pictures of the training data that the visual tokens of a picture are averaged over."""

ALONE = ("report_to=none",)
"""What a study sets unless it says otherwise: each run's ``metrics.jsonl`` is enough."""


@dataclass(frozen=True)
class Trial:
    """One variant with one seed.

    Attributes:
        variant, seed: which.
        recipe: resolved, with its steps.
        stage: the last stage that trains, which the budget is about.
        points: by share of that stage, the update that it ends with.
        batch: samples an update of that stage sees.
        visual_tokens: a picture takes, on average; ``None`` where the stage sees none.
    """

    variant: str
    seed: int
    recipe: Recipe
    stage: str
    points: dict[float, int]
    batch: int
    visual_tokens: float | None

    @property
    def name(self) -> str:
        """For people and for files."""
        return f"{self.variant}-seed-{self.seed}"

    @property
    def steps(self) -> int:
        """Updates of the stage."""
        return self.points[1.0]


def resolve(study: Study, variant: str, seed: int, steps: int | None = None) -> Recipe:
    """A variant's recipe, with ``steps`` for its last stage that trains where they are given.

    Raises:
        UserError: an unknown recipe, or whatever its overrides make wrong.
    """
    try:
        tree, base = read_recipe(study.recipe)
    except UserError as error:
        raise UserError(f"{study.source}: recipe: {error}") from None
    where = f"{study.source}: variant {variant!r} of {base}"
    told = [*ALONE, *study.overrides, *study.variants[variant], f"seed={seed}", "cpu_processes=1"]
    tree = apply_overrides({**tree, "name": f"{study.name}-{variant}"}, told, where)
    recipe = parse_recipe(tree, where)
    if steps is None:
        return recipe
    stage = dict(tree["stages"][last_stage(recipe)])
    stage.pop("num_train_epochs", None)
    stages = {**tree["stages"], last_stage(recipe): {**stage, "max_steps": steps}}
    return parse_recipe({**tree, "stages": stages}, where)


def last_stage(recipe: Recipe) -> str:
    """The last stage that trains.

    Raises:
        UserError: none does.
    """
    names = [name for name, stage in recipe.stages.items() if isinstance(stage, TrainStage)]
    if not names:
        raise UserError(f"{recipe.source} has no stage that trains; a study measures what training gives")
    return names[-1]


def plans(study: Study, recipe: Recipe) -> dict[str, Plan]:
    """What a variant is evaluated on, by name.

    Raises:
        UserError: a wrong section, or nothing to evaluate on.
    """
    sections = study.sections or {"all": recipe.evaluate}
    found = {}
    for name, told in sections.items():
        where = f"{study.source}: evaluate.{name}" if study.sections else f"{recipe.source}: evaluate"
        plan = plan_section(told, f"recipe {recipe.name}", where, recipe, recipe)
        if isinstance(plan.source, WorldOptions):
            asked_families(plan.source, plan.section.families)
        plan.source.check()
        found[name] = plan
    return found


def check(study: Study) -> dict[str, Recipe]:
    """Every variant's recipe with the first seed, after all that can be wrong in any of them was looked for.

    Raises:
        UserError: the first thing wrong, with the variant that it is in.
    """
    recipes: dict[str, Recipe] = {}
    same: dict[str, str] = {}
    for variant in study.variants:
        recipe = recipes[variant] = resolve(study, variant, study.seeds[0])
        checked = check_recipe(recipe)
        check_model(recipe.model, f"{recipe.source}: model")
        check_trackers(recipe.report_to, recipe.source)
        check_share(recipe, 1)
        for name, stage in checked.items():
            try:
                (stage.data if isinstance(stage, CheckedStage) else stage).check()
            except UserError as error:
                raise UserError(f"{recipe.source}: stages.{name}.data: {error}") from None
        stage_steps(study, recipe)
        plans(study, recipe)
        content = repr({key: value for key, value in recipe.to_dict().items() if key != "name"})
        if content in same:
            raise UserError(
                f"{study.source}: the variants {same[content]!r} and {variant!r} are the same recipe; change one"
            )
        same[content] = variant
    return recipes


def stage_steps(study: Study, recipe: Recipe) -> int | None:
    """Updates of the last stage, as far as they are known without looking at data or the clock.

    Raises:
        UserError: nothing says how many.
    """
    stage = recipe.stages[last_stage(recipe)]
    assert isinstance(stage, TrainStage)
    budget = study.budget
    if budget.steps is not None:
        return budget.steps
    if budget.samples is not None:
        return max(1, budget.samples // samples_a_step(stage))
    if budget.visual_tokens is not None or budget.seconds is not None:
        return None
    if stage.max_steps is None:
        raise UserError(
            f"{recipe.source}: stages.{last_stage(recipe)} counts in epochs; say budget.steps or budget.samples, "
            "so that every variant sees as much"
        )
    return stage.max_steps


def samples_a_step(stage: TrainStage) -> int:
    """Pictures with their questions that one update sees."""
    return stage.per_device_train_batch_size * stage.gradient_accumulation_steps


def visual_tokens(recipe: Recipe) -> tuple[float, float] | None:
    """(visual tokens a picture, visual tokens a sample) of the last stage's first pictures, on average.

    Raises:
        UserError: a picture that cannot be read or that the tiling scheme cannot take.
    """
    name = last_stage(recipe)
    checked = check_recipe(recipe)[name]
    assert isinstance(checked, CheckedStage)
    if not isinstance(checked.data, SourceOptions):
        return None
    source = checked.data.open(derive_seed(recipe.seed, name))
    groups = min(LOOKED_AT, len(source)) if len(source) else LOOKED_AT
    sizes = []
    for index in range(groups):
        pictures = {id(picture): picture for sample in source.group(index) for picture in sample.pictures()}
        sizes += [
            inspect_recipe(recipe.model, picture, "", where=f"{recipe.source}: model", trained_by=name).total
            for picture in pictures.values()
        ]
    return (sum(sizes) / len(sizes), sum(sizes) / groups) if sizes else None


def lay_out(study: Study, seconds_a_step: Mapping[str, float] | None = None) -> list[Trial]:
    """All trials in the order in which they run: every variant with the first seed, then with the second.

    Args:
        study: what to do; :func:`check` has passed.
        seconds_a_step: by variant, what a rehearsal measured; needed for a budget of seconds.

    Raises:
        UserError: a budget of visual tokens for a stage without pictures, or more points than updates.
    """
    trials = []
    known: dict[str, tuple[int, float | None]] = {}
    for seed in study.seeds:
        for variant in study.variants:
            recipe = resolve(study, variant, seed)
            stage = recipe.stages[last_stage(recipe)]
            assert isinstance(stage, TrainStage)
            if variant not in known:
                tokens = visual_tokens(recipe)
                steps = _steps(study, recipe, stage, tokens, (seconds_a_step or {}).get(variant))
                known[variant] = (steps, tokens[0] if tokens else None)
            steps, a_picture = known[variant]
            points = {share: max(1, round(share * steps)) for share in study.budget.at}
            if len(set(points.values())) < len(points):
                raise UserError(
                    f"{recipe.source}: {steps} steps have no room for {len(points)} points of measurement; raise the "
                    "budget or shorten budget.at"
                )
            whole = resolve(study, variant, seed, steps)
            trials.append(
                Trial(variant, seed, whole, last_stage(recipe), points, samples_a_step(stage), a_picture)
            )
    return trials


def _steps(
    study: Study, recipe: Recipe, stage: TrainStage, tokens: tuple[float, float] | None, each: float | None
) -> int:
    known = stage_steps(study, recipe)
    if known is not None:
        return known
    budget = study.budget
    if budget.visual_tokens is not None:
        if tokens is None:
            raise UserError(
                f"{recipe.source}: stages.{last_stage(recipe)} sees no pictures, so budget.visual_tokens says nothing; "
                "use budget.samples"
            )
        return max(1, int(budget.visual_tokens // (tokens[1] * samples_a_step(stage))))
    assert budget.seconds is not None
    if each is None:
        raise ValueError(f"no rehearsal of variant {recipe.name} was measured")
    return max(1, int(budget.seconds // each))


REHEARSED, WARM = 12, 2
"""Updates of a rehearsal, of which the first few are slower than the rest and do not count."""


def rehearsal(study: Study, variant: str) -> Recipe:
    """A variant's recipe cut to a few updates, to measure the time of one."""
    recipe = resolve(study, variant, study.seeds[0], REHEARSED)
    tree = recipe.to_dict()
    for name, stage in tree["stages"].items():
        if isinstance(recipe.stages[name], TrainStage):
            stage |= {"max_steps": REHEARSED if name == last_stage(recipe) else 1, "eval_steps": 0}
            stage |= {"warmup_steps": 0, "warmup_ratio": 0.0, "logging_steps": 1}
            stage.pop("num_train_epochs", None)
    return parse_recipe(tree, recipe.source)


def plain_section(plan: Plan) -> dict[str, Any]:
    """A plan's section as plain data with its data resolved, so that equal ones ask the same."""
    from sightling.data.source import SOURCES

    kind = next(name for name in SOURCES if SOURCES.get(name) is type(plan.source))
    data = {"type": kind, **plan.source.model_dump(mode="json", exclude_defaults=True)}
    return {**plan.section.model_dump(mode="json"), "data": data}
