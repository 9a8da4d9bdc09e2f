"""What each process holds of a stage whose model is cut among several, without the processes.

:class:`~sightling.train.sharding.Sharded` cuts the model and says what is gathered when; its units are counted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sightling.train.plans import ShardPlan
from sightling.train.recipe import Recipe
from sightling.train.trained import Whole

ALONE = (
    "parallel: fsdp is told for one process, which holds the whole model; say --processes N for a model that is cut "
    "among N"
)


@dataclass(frozen=True)
class Cut:
    """Among how many processes each copy of a model is cut, and how many copies there are."""

    shards: int = 1
    copies: int = 1


def cut_of(recipe: Recipe, ranks: int) -> Cut | None:
    """How so many processes cut a recipe's model; None where each holds all of it.

    Raises:
        UserError: their number is no multiple of the copies, or the recipe asks for what a model in parts cannot do.
    """
    if not recipe.parallel.sharded:
        return None
    from sightling.train.sharding import check_run

    check_run(recipe, keep=False, profile=False)
    copies = recipe.parallel.replicate or 1
    return Cut(ranks // copies, copies) if recipe.parallel.cuts(ranks, f"{recipe.source}: parallel") else None


@dataclass(frozen=True)
class Gathering:
    """What a stage gathers, and the ids of the weights that are gathered in the type that they are computed with."""

    plan: ShardPlan
    as_computed: frozenset[int]


def plan_shards(whole: Whole, cut: Cut, bf16: bool) -> Gathering:
    """What is gathered of a stage's model that stands whole on the meta device, told what trains."""
    from sightling.train.sharding import exact, gathered_together

    plain = not bf16
    units = [_parameters(members) for members in gathered_together(whole.model)]
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    seen = {id(parameter) for unit in units for parameter in unit}
    rest = [parameter for parameter in whole.parameters() if id(parameter) not in seen]
    largest = max(units, key=lambda unit: _bytes(unit, plain) + _gradients(unit, plain))
    in_full = plain or exact(whole)
    plan = ShardPlan(
        shards=cut.shards,
        copies=cut.copies,
        rest=tuple(dict.fromkeys(_part(names[id(parameter)]) for parameter in rest if parameter.numel())),
        rest_weights=_bytes(rest, in_full),
        rest_gradients=_gradients(rest, in_full),
        unit=_common([names[id(parameter)] for parameter in largest]),
        unit_weights=_bytes(largest, plain),
        unit_gradients=_gradients(largest, plain),
    )
    cast = set() if plain else seen | (set() if in_full else {id(parameter) for parameter in rest})
    return Gathering(plan, frozenset(cast))


def _parameters(members: Iterable[nn.Module]) -> list[nn.Parameter]:
    return list({id(one): one for member in members for one in member.parameters()}.values())


def _bytes(parameters: Iterable[nn.Parameter], plain: bool) -> int:
    """Of parameters in full, in their own type or gathered in bfloat16."""
    return sum(one.numel() * (one.element_size() if plain else torch.bfloat16.itemsize) for one in parameters)


def _gradients(parameters: Iterable[nn.Parameter], plain: bool) -> int:
    return _bytes((one for one in parameters if one.requires_grad), plain)


def _part(name: str) -> str:
    """The part that a parameter of a whole stage belongs to: ``model.connector.linear.weight`` is the connector's."""
    first, *more = name.split(".")
    return more[0] if first == "model" else "objective"


def _common(names: list[str]) -> str:
    """The module that parameters have in common, of the first one's part: a guest stands elsewhere."""
    part = [name.split(".")[1:-1] for name in names if _part(name) == _part(names[0])]
    shared = []
    for steps in zip(*part):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return ".".join(shared)
