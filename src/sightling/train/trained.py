"""What of a model trains in a stage, under which names it is saved, and the model and its objective as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from torch import Tensor

from sightling.errors import UserError, nearest
from sightling.model.adapters import adapted_layers, adapted_names, adapter_parameters, rest
from sightling.train.objectives.base import Batch, Objective
from sightling.train.recipe import Trains

EXTRA = "objective"
"""The name, as a part, of what an objective trains besides the model."""


def model_parts(model: Any) -> dict[str, nn.Module]:
    """``model.parts()``, after checking that every parameter belongs to one of them.

    Raises:
        ValueError: parameters outside the parts, which could be neither frozen nor trained by name.
    """
    parts: dict[str, nn.Module] = model.parts()
    owned = {parameter for part in parts.values() for parameter in part.parameters()}
    orphans = [name for name, parameter in model.named_parameters() if parameter not in owned]
    if orphans:
        raise ValueError(f"parameters of the model that are in none of its parts {sorted(parts)}: {orphans[:5]}")
    return parts


def able_to_learn(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of a freshly built model that may ever train: not empty ones, nor those it holds fixed itself."""
    return {parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()}


def set_training(
    model: nn.Module,
    parts: Mapping[str, nn.Module],
    rates: Mapping[str, float],
    able: set[nn.Parameter],
    where: str,
    train: Trains | None = None,
) -> None:
    """Frozen parts take no gradients and run in evaluation mode, so that dropout and statistics rest too.

    ``train`` says which layers or modules of a part that trains do; without it, all. Of a part with an adapter the
    adapter trains where it is attached; before and after, the matrices count that it changes.

    Raises:
        UserError: a rate for a part that this model does not have, or for one with nothing to train, or a layer
            or name that a part has not.
    """
    told = train.adapters() if train is not None else {}
    chosen = _chosen(model, parts, train, where) if train is not None else {}
    for name, rate in rates.items():
        if rate > 0 and name not in parts:
            raise UserError(f"{where}.train names {name!r}, which this model has not; {nearest(name, parts)}")
    model.train()
    model.requires_grad_(False)
    for name, part in parts.items():
        if rates.get(name, 0.0) <= 0:
            part.eval()
        elif name in told:
            rest(part)
    for name, part in parts.items():
        if rates.get(name, 0.0) <= 0:
            continue
        learning = adapter_parameters(part)
        if name in told and train is not None and not learning:
            names = adapter_targets(model, parts, name, able, where, train)
            learning = [part.get_parameter(f"{one}.weight") for one in names]
        elif name not in told:
            learning = [parameter for parameter in part.parameters() if parameter in able]
            if name in chosen:
                learning = [parameter for parameter in learning if parameter in chosen[name]]
        if not learning:
            raise UserError(f"{where}.train trains {name!r}, which has no parameters that can; set it to frozen")
        for parameter in learning:
            parameter.requires_grad_(True)


def adapter_targets(
    model: Any, parts: Mapping[str, nn.Module], name: str, able: set[nn.Parameter], where: str, train: Trains
) -> list[str]:
    """The linear layers that a part's adapter is of, by their names within the part, which has none attached yet.

    Raises:
        UserError: names that the part has not, or nothing left to adapt.
    """
    lora = train.adapters()[name]
    if name not in parts:
        raise UserError(f"{where}.train names {name!r}, which this model has not; {nearest(name, parts)}")
    free = able & _chosen(model, parts, train, where).get(name, able)
    key = f"{where}.train.{name}"
    return adapted_names(model, parts, name, lora.target_modules, lora.exclude_modules, free, key)


def _chosen(model: Any, parts: Mapping[str, nn.Module], train: Trains, where: str) -> dict[str, set[nn.Parameter]]:
    """The parameters that train of each part of which not all do."""
    chosen: dict[str, set[nn.Parameter]] = {}
    if train.layers is not None:
        known = model.get_decoder().layers
        for number in train.layers:
            if not -len(known) <= number < len(known):
                raise UserError(
                    f"{where}.train.layers names layer {number}, but the language model's are 0 to {len(known) - 1}"
                )
        chosen["language_model"] = {one for number in train.layers for one in known[number].parameters()}
    for name, beginnings in train.only.items():
        if adapted_layers(parts[name]):
            # Its names are other ones while an adapter is around them, and its matrices were chosen before.
            continue
        own = dict(parts[name].named_parameters())
        found: set[nn.Parameter] = set()
        for beginning in beginnings:
            fitting = {one for key, one in own.items() if key == beginning or key.startswith(f"{beginning}.")}
            if not fitting:
                raise UserError(
                    f"{where}.train.only: the {name} has nothing called {beginning!r}; "
                    f"{nearest(beginning, {key.split('.')[0] for key in own})}"
                )
            found |= fitting
        chosen[name] = chosen[name] & found if name in chosen else found
    return chosen


def trained_tensors(model: nn.Module, parts: Mapping[str, nn.Module], rates: Mapping[str, float]) -> dict[str, Tensor]:
    """What a stage changes, by the model's own names: trained parameters, and saved buffers of parts that train."""
    saved = set(model.state_dict())
    trained = [part for name, part in parts.items() if rates.get(name, 0.0) > 0]
    buffers = {id(buffer) for part in trained for buffer in part.buffers()}
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found.update({name: b for name, b in model.named_buffers() if id(b) in buffers and name in saved})
    return found


class Whole(nn.Module):
    """Model and objective as one module whose forward pass is the loss.

    Whatever the objective calls inside, it passes through this module, so gradients are averaged over ranks.
    """

    def __init__(self, model: nn.Module, objective: Objective, extra: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.extra = extra
        # An objective is no module, but it may hold some; they must not be counted twice.
        object.__setattr__(self, "_objective", objective)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over the batch's supervised units, and metrics."""
        objective: Objective = self._objective  # type: ignore[assignment]
        return objective.loss(self.model, batch)
