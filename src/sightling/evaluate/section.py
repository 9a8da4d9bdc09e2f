"""What is evaluated: the ``evaluate`` section of a recipe, from whichever place the user points to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from sightling.data.files import FilesOptions
from sightling.data.mixture import MixtureOptions
from sightling.data.sources import SOURCES, SourceOptions
from sightling.data.world import WorldOptions
from sightling.errors import UserError, nearest
from sightling.parts import Part, make, validate
from sightling.train.recipe import Recipe, TrainStage, load_recipe, packaged, parse_recipe, read_recipe
from sightling.train.runfolder import RECIPE, RUN
from sightling.train.yamlfile import parse_yaml

SCENES = 300
"""How many scenes of the small world are asked about when nothing else is said."""


class EvaluateSection(Part):
    """The ``evaluate`` section of a recipe.

    Attributes:
        data: a data source as in a stage; of the small world, or finite. Left out, scenes are drawn as in the
            recipe's last stage that learns from the small world.
        scenes: pictures to ask about; by default 300 scenes, or all pictures of a data set. Of the small world's pairs
            and clips, questions to ask; by default 100 of each family.
        seed: which held-out scenes.
        families: small world only: how often a scene is asked a question of each family; a list asks once, and left
            out it is the data's families, once or twice each, for about as many questions of each. Of pairs and clips
            each question is of one family, and these are their shares.
        rank: score a closed list of answers by likelihood too, for top-5: each question's own ``choices``, or all
            true ``answers`` of its family and language in the data.
        family_key, answers_key: data sets only: the meta keys that hold a sample's family and accepted answers.
        judged: data sets only: whether answers are right by their ``words``, or as ``boxes`` by their overlap.
        partial: ask once more with all pictures of a question grey but one, the ``first`` or the ``middle`` one; left
            out, it is done for the small world's pairs and clips.
    """

    data: dict[str, Any] | None = None
    scenes: int | None = Field(default=None, ge=1)
    seed: int = Field(default=1, ge=0, lt=1 << 62)
    families: dict[str, int] | None = None
    rank: Literal["choices", "answers"] | None = None
    family_key: str = "family"
    answers_key: str = "answers"
    judged: Literal["words", "boxes"] = "words"
    partial: Literal["first", "middle"] | None = None

    @field_validator("families", mode="before")
    @classmethod
    def _times(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1) if isinstance(value, (list, tuple)) else value

    @field_validator("families")
    @classmethod
    def _positive(cls, value: dict[str, int] | None) -> dict[str, int] | None:
        for name, times in (value or {}).items():
            if times < 1:
                raise ValueError(f"{name} is asked {times} times a scene; expected at least 1")
        return value


@dataclass(frozen=True)
class Plan:
    """What is evaluated, resolved.

    Attributes:
        section: the section with every choice made but the defaults of its data.
        source: its data.
        said: where it came from, for a person.
        recipe: the recipe that the model grew by, where one is known.
    """

    section: EvaluateSection
    source: SourceOptions
    said: str
    recipe: Recipe | None


@dataclass(frozen=True)
class Place:
    """Where a model is: its folder, and the folder of the run that made it, where there is one."""

    model: Path
    run: Path | None

    @property
    def output(self) -> Path:
        """Where results go when nothing else is said."""
        return (self.run or self.model) / "evaluation"


def find_model(path: Path) -> Place:
    """The model in a model folder or a run folder.

    Raises:
        UserError: there is none, or the run is not finished.
    """
    if (path / "config.json").is_file():
        # A relative "model" has no parent to look into before it is resolved.
        parent = path.resolve().parent
        inside = path.resolve().name == "model" and (parent / RUN).is_file()
        return Place(path, path.parent if inside and path.name == "model" else parent if inside else None)
    if (path / RUN).is_file():
        if not (path / "model" / "config.json").is_file():
            raise UserError(f"the run in {path} has no model yet; finish it with the command that started it")
        return Place(path / "model", path)
    if not path.exists():
        raise UserError(f"there is no model folder {path}")
    raise UserError(f"{path} is neither a model folder (with config.json) nor a run folder (with {RUN})")


def saved_recipe(place: Place) -> Recipe | None:
    """The recipe saved beside the weights, or in the run's folder; ``None`` where there is none."""
    for folder in (place.model, place.run):
        if folder is not None and (folder / RECIPE).is_file():
            return parse_recipe(*read_recipe(folder / RECIPE))
    return None


def make_plan(place: Place, data: str | None, changes: Mapping[str, Any] | None = None) -> Plan:
    """What to evaluate a model on.

    Args:
        place: where the model is.
        data: a recipe's name or file (its ``evaluate`` section), a data set's path, or a data section written as
            ``{type: ..., ...}``, or a whole section as ``{data: ..., rank: ...}``; ``None`` is the recipe saved
            beside the model.
        changes: keys of the section that the caller sets.

    Raises:
        UserError: nothing says what to evaluate on, or what says so is wrong.
    """
    own = saved_recipe(place)
    if data is None and own is None:
        raise UserError(f"no recipe is saved beside {place.model}; say what to evaluate on with --data")
    told, said, where, fallback = _told(data, own)
    return plan_section({**told, **(changes or {})}, said, f"{where}: evaluate", fallback, own)


def plan_section(told: Mapping[str, Any], said: str, where: str, fallback: Recipe | None, own: Recipe | None) -> Plan:
    """What to evaluate on by a section that is at hand.

    Args:
        told: the section.
        said: where it came from, for a person.
        where: what it is called in errors.
        fallback: the recipe whose last small world stands in for data that the section does not name.
        own: the recipe that the model grew by.

    Raises:
        UserError: something in it is wrong, or it names no data and nothing stands in for it.
    """
    section = validate(EvaluateSection, told, where)
    if section.data is None:
        if fallback is None:
            raise UserError(f"{where}.data is missing")
        name, world = _last_world(fallback)
        return Plan(section, world, f"scenes as in stage {name} of {said}", own)
    return Plan(section, make(SOURCES, section.data, f"{where}.data"), said, own)


def _told(data: str | None, own: Recipe | None) -> tuple[dict[str, Any], str, str, Recipe | None]:
    """(the section, where it is from for a person, where for errors, the recipe it stands in)."""
    if data is None:
        assert own is not None
        return own.evaluate, "the recipe saved beside the model", own.source, own
    if data.lstrip().startswith("{"):
        tree = parse_yaml(data, "--data")
        told = tree if "type" not in tree else {"data": tree}
        inner = told.get("data")
        said = str(inner.get("path") or inner.get("type")) if isinstance(inner, dict) else "--data"
        return told, said, "--data", None
    path = Path(data).expanduser()
    if data in packaged() or data.endswith((".yaml", ".yml")):
        recipe = load_recipe(data)
        return recipe.evaluate, f"recipe {recipe.name}", recipe.source, recipe
    if data == "world":
        if own is None:
            return {"data": {"type": "world"}}, "the small world", "--data", None
        return {}, "the recipe saved beside the model", own.source, own
    if path.exists():
        return {"data": {"type": "files", "path": data}}, data, "--data", None
    known = [*packaged(), "world"]
    raise UserError(f"--data {data!r} is no data set, no recipe file and no recipe's name; {nearest(data, known)}")


def world_sections(options: SourceOptions) -> Iterator[WorldOptions]:
    """The sections of the small world in a data section, those inside a mixture too."""
    for part in parts_of(options):
        if isinstance(part, WorldOptions):
            yield part


def parts_of(options: Any) -> Iterator[Any]:
    """A data section and those that it is mixed from."""
    if isinstance(options, MixtureOptions):
        for name, section in options.sources.items():
            rest = {key: value for key, value in section.items() if key != "weight"}
            yield from parts_of(make(SOURCES, rest, f"data.sources.{name}"))
    else:
        yield options


def stage_sources(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """(stage, data section) of every stage that learns from pictures, as far as the sections are known here."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and str(stage.data.get("type")) in SOURCES:
            told = dict(stage.data)
            model = SOURCES.get(str(told.pop("type")))
            # A text source may bear the same name as a picture source; its own keys are then unknown here.
            if set(told) <= set(model.model_fields):
                yield from ((name, part) for part in parts_of(model(**told)))


def _last_world(recipe: Recipe) -> tuple[str, WorldOptions]:
    found = [(name, part) for name, part in stage_sources(recipe) if isinstance(part, WorldOptions)]
    if not found:
        raise UserError(
            f"{recipe.source} has no evaluate.data and no stage that learns from the small world; add an evaluate "
            "section or use --data"
        )
    return found[-1]


def trained_on(recipe: Recipe | None, options: SourceOptions) -> list[str]:
    """The stages of a recipe that learnt from the very data set that is evaluated, judged by their sections.

    A stage that reads the other side of the same split did not.
    """
    if recipe is None or not isinstance(options, FilesOptions):
        return []
    found = []
    for name, part in stage_sources(recipe):
        if isinstance(part, FilesOptions) and _overlap(part, options) and name not in found:
            found.append(name)
    return found


def _overlap(trained: FilesOptions, asked: FilesOptions) -> bool:
    def where(one: FilesOptions) -> tuple[Any, ...]:
        return one.format, one.images_root, one.options

    if where(trained) != where(asked) or not trained.files() & asked.files():
        return False
    sides = (trained.hold_out, asked.hold_out)
    # A stream draws its split record by record, and another one than a file that is seen as a whole.
    if None in sides or trained.streams() != asked.streams():
        return True
    splits: Iterable[Any] = ((side.fraction, side.by, side.seed) for side in sides if side is not None)
    one, other = splits
    return one != other or trained.hold_out == asked.hold_out
