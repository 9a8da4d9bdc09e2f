"""The adapters of a stage: put around the parts that say so, and merged into them when the stage is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sightling.errors import UserError
from sightling.model import adapters
from sightling.model.quantised import quantise, rounded
from sightling.train.checkpoint import load_weights
from sightling.train.order import seed_everything
from sightling.train.recipe import Trains, TrainStage
from sightling.train.trained import adapter_targets, model_parts, set_training, trained_tensors


def attach_adapters(
    model: nn.Module, train: Trains, able: set[nn.Parameter], where: str, seed: int
) -> list[adapters.Adapter]:
    """Put around each part the adapter that its stage gives it; the same for the same seed.

    Raises:
        UserError: an adapter of what a part has not, a rank above a matrix's own, DoRA of a matrix with a row of zeros,
            or a matrix to quantise that another layer shares.
    """
    told = train.adapters()
    if not told:
        return []
    seed_everything(seed)
    parts = model_parts(model)
    # All of them before the first, so that a model whose stage is refused stays as it is.
    names = {part: adapter_targets(model, parts, part, able, where, train) for part in told}
    for part, lora in told.items():
        _check_rank(parts[part], names[part], lora.r, f"{where}.train.{part}.r")
    _check_unshared(model, parts, names, {part for part, lora in told.items() if lora.quantize is not None}, where)
    for part, lora in ((part, lora) for part, lora in told.items() if lora.use_dora):
        for name in names[part]:
            weight = parts[part].get_parameter(f"{name}.weight").detach()
            if weight.is_meta:
                continue
            if lora.quantize is not None:
                # A row that is small beside its neighbours may be rounded to zeros.
                weight = rounded(weight, lora.quantize, lora.double_quantize)
            # A fresh model's last matrices are such; the size of a row is divided by.
            if not bool(weight.any(dim=1).all()):
                raise UserError(
                    f"{where}.train.{part}: {name} has a row of zeros, which DoRA cannot scale; "
                    "train it in full first, or leave use_dora out"
                )
    attached = []
    for part, lora in told.items():
        if lora.quantize is not None and lora.use_dora:
            # It begins with the sizes of the rows that it changes, which are the rounded ones.
            quantise(parts[part], names[part], lora.quantize, lora.double_quantize)
        attached.append(adapters.attach(part, parts[part], names[part], lora.options()))
        if lora.quantize is not None and not lora.use_dora:
            # PEFT asks each layer for its matrix several times, which a quantised one makes anew.
            inner = [f"{name}.base_layer" for name in names[part]]
            quantise(parts[part], inner, lora.quantize, lora.double_quantize)
    return attached


def _check_rank(part: nn.Module, names: Sequence[str], rank: int, key: str) -> None:
    """Beyond a matrix's smaller side a rank adds weights, but no change that it could not make before."""
    for name in names:
        side = min(part.get_parameter(f"{name}.weight").shape)
        if rank > side:
            raise UserError(
                f"{key} = {rank} is above {side}, the smaller side of {name}; lower it to {side} at most, "
                "or leave that layer out with exclude_modules"
            )


def _check_unshared(
    model: nn.Module, parts: Mapping[str, nn.Module], names: Mapping[str, list[str]], quantised: set[str], where: str
) -> None:
    """A matrix that is freed must be nobody else's."""
    owners: dict[int, int] = {}
    for module in model.modules() if quantised else ():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for part in quantised:
        for name in names[part]:
            if owners[id(parts[part].get_parameter(f"{name}.weight"))] > 1:
                raise UserError(
                    f"{where}.train.{part}.quantize: {name} shares its weight with another layer, which would lose it; "
                    "name it in exclude_modules, or leave quantize out"
                )


def attach_again(
    model: nn.Module,
    stage: TrainStage,
    able: set[nn.Parameter],
    where: str,
    seed: int,
    weights: Mapping[str, Tensor] | None,
) -> list[adapters.Adapter]:
    """Put the adapters of a stage around a model as it was before it, with the ``weights`` of all that it learnt.

    A process that has none attaches what is not learnt.

    Raises:
        UserError: weights of another model.
    """
    attached = attach_adapters(model, stage.train, able, where, seed)
    parts, rates = model_parts(model), stage.train.rates(stage.learning_rate)
    set_training(model, parts, rates, able, where, stage.train)
    if weights is not None:
        load_weights(trained_tensors(model, parts, rates), weights, "what the stage learnt")
    return attached


def write_adapters(model: nn.Module, attached: Sequence[adapters.Adapter], folder: Path) -> None:
    """Write each in PEFT's format, in a folder of its part's name."""
    parts = model_parts(model)
    for adapter in attached:
        adapters.write(adapter, parts[adapter.part], folder / adapter.part)


def merge_adapters(
    model: nn.Module, train: Trains, rates: Mapping[str, float], able: set[nn.Parameter], where: str
) -> dict[str, Tensor]:
    """Merge what the stage adapted. Returns what the stage changed, by the plain model's names."""
    adapters.merge(model)
    parts: dict[str, Any] = model_parts(model)
    set_training(model, parts, rates, able, where, train)
    return trained_tensors(model, parts, rates)
