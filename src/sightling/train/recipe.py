"""A recipe: what a model is made of and by which stages it grows. Data, validated before anything runs.

Hyper-parameters carry the names of transformers' ``TrainingArguments``. The ``model``, ``objective`` and
``data`` sections belong to the parts that they name by ``type`` and are validated by those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationInfo
from pydantic_core import PydanticCustomError

from sightling.errors import UserError, nearest
from sightling.parts import Part, validate
from sightling.train.features.options import FeatureOptions
from sightling.train.lora import Lora
from sightling.train.overrides import apply_overrides
from sightling.train.parallel import Parallel, read_parallel
from sightling.train.schedule import ScheduleName, ScheduleOptions
from sightling.train.yamlfile import dump_yaml, parse_yaml

_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

PARTS = ("encoder", "connector", "language_model")
"""The parts of a model that a stage trains or leaves alone."""


def _rate(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Lora):
        return value
    if isinstance(value, Mapping):
        return validate(Lora, value, str(info.field_name))
    if value == "frozen" or value is False:
        return "frozen"
    if value is True or (isinstance(value, (int, float)) and value > 0):
        return value if value is True else float(value)
    raise PydanticCustomError(
        "rate", "a part is 'frozen', true, trains at a learning rate above 0, or has an adapter ({type: lora, ...})"
    )


def _precision(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("bf16", "it must be auto, true or false")


def _checkpointed(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, list) and value and set(map(str, value)) <= set(PARTS)):
        return value
    raise PydanticCustomError("gradient_checkpointing", f"it must be true, false or a list of {', '.join(PARTS)}")


def _names(value: Any) -> Any:
    if value in (None, "none"):
        return []
    return [value] if isinstance(value, str) else value


Rate = Annotated[Any, AfterValidator(_rate)]
"""``frozen``, ``True`` (the stage's learning rate), a learning rate of its own, or an adapter (:class:`Lora`)."""


class _Strict(Part):
    """Closed options that take no text for a number and no ``true`` for 1."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Trains(_Strict):
    """Which parts of the model train, and at which rate, in full or by an adapter. What is not named is frozen.

    ``layers``: of a language model that trains, the layers that do, counted from 0 or, below 0, from the end; its
    embeddings, head and other layers are frozen. Left out, all of it trains.
    ``only``: of a part that trains, the modules or parameters that do, by how their names begin; such as
    ``{connector: [language_projection]}``, MiniGPT-4's one linear layer behind a frozen Q-Former.
    Both hold for an adapter, too: it is of matrices among them.
    """

    encoder: Rate = "frozen"
    connector: Rate = "frozen"
    language_model: Rate = "frozen"
    layers: list[int] | None = Field(default=None, min_length=1)
    only: dict[Literal["encoder", "connector", "language_model"], list[str]] = Field(default_factory=dict)

    def rates(self, learning_rate: float) -> dict[str, float]:
        """Learning rate by part, 0 for a frozen one."""
        told = {name: getattr(self, name) for name in PARTS}
        for name, lora in self.adapters().items():
            told[name] = lora.learning_rate or True
        return {
            name: 0.0 if rate == "frozen" else learning_rate if rate is True else float(rate)
            for name, rate in told.items()
        }

    def adapters(self) -> dict[str, Lora]:
        """The adapters by part, of those that have one."""
        told = {name: getattr(self, name) for name in PARTS}
        return {name: lora for name, lora in told.items() if isinstance(lora, Lora)}

    def described(self, learning_rate: float) -> dict[str, str]:
        """For a person: the rate of each part that trains, with its adapter where it has one."""
        adapters = self.adapters()
        return {
            name: f"{rate:g}" + (f" ({adapters[name].label})" if name in adapters else "")
            for name, rate in self.rates(learning_rate).items()
            if rate
        }


class RunWide(_Strict):
    """What a recipe says once for all its stages, and a stage may say for itself."""

    seed: int = 0
    bf16: Annotated[Any, AfterValidator(_precision)] = "auto"
    logging_steps: int = Field(default=10, gt=0)
    save_steps: int = Field(default=200, gt=0)
    save_total_limit: int = Field(default=2, gt=0)
    dataloader_num_workers: int = Field(default=0, ge=0)


class TrainStage(RunWide):
    """A stage that trains: data + objective + what trains at which rate + schedule.

    Exactly one of ``max_steps`` and ``num_train_epochs`` is set. ``eval_steps`` 0 measures no held-out loss.
    ``gradient_checkpointing``, ``torch_compile`` and ``compact_attention``: see :mod:`sightling.train.levers`.
    """

    objective: dict[str, Any]
    data: dict[str, Any]
    train: Trains
    learning_rate: float = Field(gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    num_train_epochs: float | None = Field(default=None, gt=0)
    per_device_train_batch_size: int = Field(default=8, gt=0)
    per_device_eval_batch_size: int = Field(default=8, gt=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    optim: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    optim_fused: bool = True
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_shared: bool = True
    muon_short_side: bool = True
    max_grad_norm: float = Field(default=1.0, ge=0)
    lr_scheduler_type: ScheduleName = "linear"
    lr_scheduler_kwargs: ScheduleOptions = ScheduleOptions()
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    eval_steps: int = Field(default=0, ge=0)
    features: FeatureOptions | None = None
    gradient_checkpointing: Annotated[Any, AfterValidator(_checkpointed)] = False
    torch_compile: bool = False
    compact_attention: bool = True


_SECTIONS: dict[str, type[Part]] = {
    "train": Trains, "lr_scheduler_kwargs": ScheduleOptions, "features": FeatureOptions,
}  # fmt: skip
"""What a stage that trains says in sections of its own, beside those of its parts."""


class StepStage(Part):
    """A stage that trains no model: ``type`` names the step, the other keys are the step's own."""

    model_config = ConfigDict(extra="allow")

    type: str

    def options(self) -> dict[str, Any]:
        """Everything the stage says, ``type`` included."""
        return {"type": self.type, **(self.model_extra or {})}


Stage = TrainStage | StepStage


class Recipe(RunWide):
    """A whole recipe in resolved form: every default is filled in, every override applied.

    ``cpu_processes``: on a computer without an accelerator, how many processes share each batch and the cores.
    ``parallel``: how the processes of a run share its model.
    """

    name: str
    description: str = ""
    model: dict[str, Any]
    stages: dict[str, Stage]
    evaluate: dict[str, Any] = Field(default_factory=dict)
    output_dir: str | None = None
    cpu_processes: int = Field(default=1, ge=1, le=64)
    parallel: Annotated[Parallel, BeforeValidator(read_parallel)] = Parallel()
    report_to: Annotated[list[str], BeforeValidator(_names)] = Field(default_factory=lambda: ["tensorboard"])

    _source: str = PrivateAttr("recipe")

    @property
    def source(self) -> str:
        """The file or packaged name it came from, for error messages."""
        return self._source

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain data, in the order of a recipe file."""
        values = self.model_dump(exclude_none=True)
        first = ("name", "description")
        last = ("model", "stages", "evaluate")
        middle = [key for key in values if key not in first + last]
        return {key: values[key] for key in (*first, *middle, *last)}

    def to_yaml(self) -> str:
        """The resolved recipe; :func:`load_recipe` reads it back to one with the same :meth:`to_dict`."""
        return dump_yaml(self.to_dict())


def _section(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a section of keys and values, not {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{where}: the key {key!r} must be a text; put it in quotes")
    return dict(value)


def _train_stage(told: dict[str, Any], where: str) -> TrainStage:
    for key, model in _SECTIONS.items():
        if key in told:
            told[key] = validate(model, _section(told[key], f"{where}.{key}"), f"{where}.{key}")
    stage = validate(TrainStage, told, where)
    if (stage.max_steps is None) == (stage.num_train_epochs is None):
        number = "neither" if stage.max_steps is None else "both"
        raise UserError(f"{where} must say max_steps or num_train_epochs, and it says {number}")
    if stage.warmup_steps and stage.warmup_ratio:
        raise UserError(f"{where} says both warmup_steps and warmup_ratio; keep one")
    if not any(stage.train.rates(stage.learning_rate).values()):
        raise UserError(f"{where}.train freezes every part; give at least one true or a learning rate")
    rates = stage.train.rates(stage.learning_rate)
    if stage.train.layers is not None and not rates["language_model"]:
        raise UserError(f"{where}.train.layers is about the language model, which is frozen; let it train")
    for part in stage.train.only:
        if not rates[part]:
            raise UserError(f"{where}.train.only is about the {part.replace('_', ' ')}, which is frozen; let it train")
    named = stage.gradient_checkpointing if isinstance(stage.gradient_checkpointing, list) else []
    if "encoder" in named and not rates["encoder"]:
        raise UserError(
            f"{where}.gradient_checkpointing names the encoder, which is frozen and keeps nothing; leave it out"
        )
    for key in ("objective", "data"):
        if not isinstance(getattr(stage, key).get("type"), str):
            raise UserError(f"{where}.{key} needs a type, such as {{type: ...}}")
    return stage


def parse_recipe(tree: Any, source: str) -> Recipe:
    """A recipe from plain data, with run-wide keys handed down to its stages.

    Raises:
        UserError: the first thing wrong, with ``source``, the key, and the nearest known one.
    """
    top = _section(tree, f"{source}: the recipe")
    wide = {key: top[key] for key in RunWide.model_fields if key in top}
    validate(RunWide, wide, f"{source}: the recipe")
    stages: dict[str, Stage] = {}
    where = f"{source}: stages"
    told_stages = _section(top.get("stages", {}), where)
    for name, value in told_stages.items():
        if not _STAGE.fullmatch(name):
            raise UserError(f"{where}.{name} is no name for a stage; use letters, digits, '-' and '_'")
        told = _section(value, f"{where}.{name}")
        if "type" in told:
            stages[name] = validate(StepStage, told, f"{where}.{name}")
        else:
            stages[name] = _train_stage({**wide, **told}, f"{where}.{name}")
    if "stages" in top and not stages:
        raise UserError(f"{where} is empty; a recipe needs at least one stage")
    recipe = validate(Recipe, {**top, "stages": stages} if "stages" in top else top, f"{source}: the recipe")
    if not _NAME.fullmatch(recipe.name):
        raise UserError(f"{source}: the recipe.name {recipe.name!r} is no name; use letters, digits, '-', '_' and '.'")
    recipe._source = source
    return recipe


def packaged() -> dict[str, Any]:
    """The recipes that come with the package: name to a readable resource, sorted by name."""
    folder = files("sightling").joinpath("recipes")
    if not folder.is_dir():
        return {}
    found = {entry.name[: -len(".yaml")]: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def list_recipes() -> list[tuple[str, str]]:
    """(name, one line) of every packaged recipe."""
    lines = []
    for name, entry in packaged().items():
        tree = _section(parse_yaml(entry.read_text(encoding="utf-8"), entry.name), entry.name)
        lines.append((name, " ".join(str(tree.get("description", "")).split())))
    return lines


def read_recipe(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """A recipe file's (tree, source) as written, by packaged name or by path.

    What ends in ``.yaml`` or ``.yml`` or holds a slash is a path; everything else is a packaged name.

    Raises:
        UserError: an unknown name, a missing file, or a file that is not YAML.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        path = Path(text)
        if not path.is_file():
            raise UserError(f"there is no recipe file {text}")
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"recipe file {text} is not a text file in UTF-8") from None
        except OSError as error:
            raise UserError(f"recipe file {text} cannot be read: {error.strerror}") from None
        return _section(parse_yaml(content, text), text), text
    known = packaged()
    if text not in known:
        raise UserError(f"there is no recipe {text!r}; {nearest(text, known)}")
    entry = known[text]
    return _section(parse_yaml(entry.read_text(encoding="utf-8"), entry.name), entry.name), entry.name


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """The resolved recipe of that packaged name or file, with ``a.b.c=value`` overrides applied.

    Raises:
        UserError: in one sentence, what is wrong, where, and the nearest known name or key.
    """
    tree, source = read_recipe(name_or_path)
    return parse_recipe(apply_overrides(tree, overrides, source), source)
