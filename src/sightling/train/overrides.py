"""Any key of a recipe from the command line: ``stages.align.learning_rate=1e-3``."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from sightling.errors import UserError, nearest
from sightling.train.yamlfile import parse_yaml


def parse_override(text: str) -> tuple[list[str], Any]:
    """``"a.b=1e-3"`` to ``(["a", "b"], 0.001)``; the value is read as YAML.

    Raises:
        UserError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise UserError(f"{text!r} is not of the form key=value, such as stages.align.learning_rate=1e-3")
    return steps, parse_yaml(value, f"the value of {key.strip()}")


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str], where: str) -> dict[str, Any]:
    """A copy of a recipe's tree with the overrides set, in order.

    A section that is absent is made, so that what has a default can be set; a stage is never made.

    Raises:
        UserError: a malformed override, an unknown stage, or a path through something that is no section.
    """
    result = deepcopy(tree)
    for text in overrides:
        steps, value = parse_override(text)
        here: Any = result
        for depth, step in enumerate(steps[:-1]):
            below = ".".join(steps[: depth + 1])
            if steps[:depth] == ["stages"] and step not in here:
                raise UserError(f"{where} has no stage {step!r}, which {text!r} sets; {nearest(step, map(str, here))}")
            here = here.setdefault(step, {})
            if not isinstance(here, dict):
                raise UserError(f"{where}: {below} is {here!r}, not a section, so {text!r} cannot be set; set {below}")
        here[steps[-1]] = value
    return result
