"""A study as data: a question, variants of one recipe, seeds, a budget, and what is claimed of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from sightling.errors import UserError, nearest
from sightling.parts import Part, validate
from sightling.train.overrides import apply_overrides, parse_override
from sightling.train.yamlfile import parse_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

COSTS = ("seconds", "visual_tokens", "parameters")
"""Measures of which less is better."""


def _as_overrides(value: Any) -> Any:
    """``{model.connector: {type: mlp}}`` as ``['model.connector={"type": "mlp"}']``; a list stays what it is."""
    if isinstance(value, Mapping):
        return [f"{key}={json.dumps(told, ensure_ascii=False)}" for key, told in value.items()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise ValueError("overrides are a mapping of dotted keys, or a list of texts such as 'seed=1'")
    for text in value:
        try:
            parse_override(text)
        except UserError as error:
            # So that the key is told, too, in which the text stands.
            raise ValueError(str(error)) from None
    return value


Overrides = Annotated[tuple[str, ...], BeforeValidator(_as_overrides)]
"""Keys of a recipe to set, each as ``key=value``."""


class Budget(Part):
    """How much every variant may take in its recipe's last stage that trains; what is left out the recipe says.

    Attributes:
        steps: updates.
        samples: pictures with their questions, each time they are seen.
        visual_tokens: visual tokens of all pictures that are seen.
        seconds: time, turned into updates by a rehearsal of each variant on this machine.
        at: points of the stage, as shares, at which accuracy is measured; the end is always one of them.
    """

    steps: int | None = Field(default=None, gt=0)
    samples: int | None = Field(default=None, gt=0)
    visual_tokens: int | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    at: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        said = [name for name in ("steps", "samples", "visual_tokens", "seconds") if getattr(self, name) is not None]
        if len(said) > 1:
            raise ValueError(f"it says {' and '.join(said)}; keep one")
        return self

    @field_validator("at")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for share in value:
            if not 0 < share <= 1:
                raise ValueError(f"{share:g} is no share of a training; expected more than 0 and at most 1")
        return tuple(sorted({*value, 1.0}))


class Claim(Part):
    """What is said of two variants, to be held against the numbers.

    Attributes:
        claim: the words.
        better, worse: the variants.
        measure: ``accuracy``; ``mean_accuracy`` over all points, which is high where learning is fast; or a cost,
            of which less is better.
        evaluation: which evaluation; left out, all of them with equal weight.
        family: which question family; left out, all questions.
        at: at which point, for ``accuracy``.
        by: by more than this much; 0.05 are five percentage points.
    """

    claim: str
    better: str
    worse: str
    measure: Literal["accuracy", "mean_accuracy", "seconds", "visual_tokens", "parameters"] = "accuracy"
    evaluation: str | None = None
    family: str | None = None
    at: float = 1.0
    by: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _sensible(self) -> Claim:
        if self.better == self.worse:
            raise ValueError(f"it compares {self.better!r} with itself")
        if self.measure in COSTS and (self.family or self.evaluation or self.at != 1):
            raise ValueError(f"{self.measure} is of a whole training; leave out family, evaluation and at")
        if self.measure == "mean_accuracy" and self.at != 1:
            raise ValueError("mean_accuracy is of all points; leave out at")
        return self


class Study(Part):
    """A whole study.

    Attributes:
        name: letters, digits, '-' and '_'; the folder is ``runs/study-<name>``.
        question: what is to be found out, in a sentence.
        recipe: the packaged name or file of the recipe that all variants start from.
        overrides: keys set for all variants.
        variants: by name, the keys that each sets.
        baseline: the variant that the others are compared with; by default the first.
        seeds: of which each variant is trained with every one.
        budget: see :class:`Budget`.
        evaluate: an ``evaluate`` section as in a recipe, or several by name; left out, the recipe's own.
        compare: what is claimed, see :class:`Claim`.
    """

    name: str
    question: str
    recipe: str
    overrides: Overrides = ()
    variants: dict[str, Overrides]
    baseline: str = ""
    seeds: tuple[Annotated[int, Field(ge=0, lt=1 << 32)], ...] = (0, 1, 2)
    budget: Budget = Budget()
    evaluate: dict[str, Any] = Field(default_factory=dict)
    compare: tuple[Claim, ...] = ()

    _source: str = PrivateAttr("study")

    @property
    def source(self) -> str:
        """The file or packaged name it came from, for error messages."""
        return self._source

    @property
    def against(self) -> str:
        """The variant that the others are compared with."""
        return self.baseline or next(iter(self.variants))

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The evaluate sections by name; empty where the recipe's own is meant."""
        if not self.evaluate:
            return {}
        from sightling.evaluate.section import EvaluateSection

        if set(self.evaluate) & set(EvaluateSection.model_fields):
            return {"all": self.evaluate}
        return self.evaluate

    @property
    def evaluations(self) -> list[str]:
        """The names of the evaluations."""
        return list(self.sections) or ["all"]


def parse_study(tree: Any, source: str) -> Study:
    """A study from plain data, whatever can be wrong in it but its recipes.

    Raises:
        UserError: the first thing wrong, with ``source``, the key, and the nearest known one.
    """
    where = f"{source}: the study"
    if not isinstance(tree, Mapping):
        raise UserError(f"{where} must be a section of keys and values, not {tree!r}")
    study = validate(Study, {str(key): value for key, value in tree.items()}, where)
    study._source = source
    if not _NAME.fullmatch(study.name):
        raise UserError(f"{where}.name {study.name!r} is no name; use letters, digits, '-' and '_'")
    if not study.variants:
        raise UserError(f"{where}.variants is empty; a study needs at least one variant")
    if not study.seeds:
        raise UserError(f"{where}.seeds is empty; a study needs at least one seed")
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"{where}.seeds {list(study.seeds)} names a seed twice")
    for kind, names in (("variants", list(study.variants)), ("evaluate", study.evaluations)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise UserError(f"{where}.{kind}.{name} is no name; use letters, digits, '-' and '_'")
    for name, section in study.sections.items():
        if not isinstance(section, Mapping):
            raise UserError(f"{where}.evaluate.{name} must be a section of keys and values, not {section!r}")
    if study.baseline:
        _known(study.baseline, study.variants, f"{where}.baseline", "variant")
    for number, claim in enumerate(study.compare, start=1):
        at = f"{where}.compare, claim {number}"
        for variant in (claim.better, claim.worse):
            _known(variant, study.variants, at, "variant")
        if claim.evaluation is not None:
            _known(claim.evaluation, study.evaluations, at, "evaluation")
        if claim.at not in study.budget.at:
            shares = ", ".join(f"{share:g}" for share in study.budget.at)
            raise UserError(f"{at} is about {claim.at:g} of the training, not measured; budget.at has {shares}")
    return study


def _known(name: str, known: Iterable[str], where: str, kind: str) -> None:
    names = list(known)
    if name not in names:
        raise UserError(f"{where}: there is no {kind} {name!r}; {nearest(name, names)}")


def packaged_studies() -> dict[str, Any]:
    """The studies that come with the package: name to a readable resource, sorted by name."""
    folder = files("sightling").joinpath("studies")
    found = {entry.name[: -len(".yaml")]: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def list_studies() -> list[tuple[str, str]]:
    """(name, question) of every packaged study."""
    lines = []
    for name, entry in packaged_studies().items():
        tree = parse_yaml(entry.read_text(encoding="utf-8"), entry.name)
        lines.append((name, " ".join(str(tree["question"]).split())))
    return lines


def load_study(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Study:
    """The study of that packaged name or file, with ``key=value`` overrides of its own keys applied.

    What ends in ``.yaml`` or ``.yml`` or holds a slash is a path; everything else is a packaged name.

    Raises:
        UserError: in one sentence, what is wrong, where, and the nearest known name or key.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        if not Path(text).is_file():
            raise UserError(f"there is no study file {text}")
        try:
            content, source = Path(text).read_text(encoding="utf-8"), text
        except UnicodeDecodeError:
            raise UserError(f"study file {text} is not a text file in UTF-8") from None
        except OSError as error:
            raise UserError(f"study file {text} cannot be read: {error.strerror}") from None
    else:
        known = packaged_studies()
        if text not in known:
            raise UserError(f"there is no study {text!r}; {nearest(text, known)}")
        content, source = known[text].read_text(encoding="utf-8"), known[text].name
    tree = parse_yaml(content, source)
    if not isinstance(tree, dict):
        raise UserError(f"{source}: the study must be a section of keys and values, not {tree!r}")
    return parse_study(apply_overrides(tree, overrides, source), source)
