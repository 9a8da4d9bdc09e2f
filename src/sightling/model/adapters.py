"""Low-rank adapters of a model's parts through PEFT: which matrices they are of, and how they are merged into them.

An adapter is of one part and knows that part's names only, so that "all linear layers of the language model" can
touch neither tower nor connector. PEFT is imported where an adapter is made or written, not before.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sightling.errors import UserError, nearest
from sightling.model.quantised import QuantisedLinear

NAME = "default"
"""What PEFT calls the one adapter of a layer."""

BEFORE = "base_model.model."
"""What stands before every name in PEFT's files."""

WEIGHTS = "adapter_model.safetensors"

QUANTIZE, DOUBLE = "quantize", "double_quantize"
"""In the header of that file where the adapter learnt over a quantised base: how it was rounded. PEFT reads past it."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that is attached.

    Attributes:
        part: the part's name.
        names: the matrices that it is of, by their names in the whole model.
        config: PEFT's ``LoraConfig``.
    """

    part: str
    names: tuple[str, ...]
    config: Any


def adapted_names(
    model: Any,
    parts: Mapping[str, nn.Module],
    part: str,
    wanted: str | list[str],
    without: str | list[str] | None,
    free: Collection[nn.Parameter],
    where: str,
) -> list[str]:
    """The linear layers of a part that an adapter is of, by their names within the part, in the part's order.

    Args:
        model: the whole model, which knows its output head.
        parts: its parts by name.
        part: the one to adapt.
        wanted: ``"all-linear"``, which leaves the output head out; names as they end; or a regular expression.
        without: of these, the ones to leave alone, in the same form.
        free: weights that may change.
        where: the key of the adapter, for messages.

    Raises:
        UserError: a name that no linear layer has, the output head, or nothing left to adapt.
    """
    owner = part.replace("_", " ")
    linear = {name: module for name, module in parts[part].named_modules() if name and isinstance(module, nn.Linear)}
    # torch's own attention reads these weights without calling the layer, which an adapter would never notice.
    unheard = {id(inner) for one in parts[part].modules() if isinstance(one, nn.MultiheadAttention)
               for inner in one.modules()}  # fmt: skip
    linear = {name: module for name, module in linear.items() if id(module) not in unheard}
    if not linear:
        raise UserError(f"{where}: the {owner} has no linear layer that an adapter could be of; train it in full")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if wanted == "all-linear":
        found = [name for name, module in linear.items() if module is not head]
    else:
        found = _fitting(linear, wanted, f"{where}.target_modules", owner)
        if any(linear[name] is head for name in found):
            raise UserError(
                f"{where}.target_modules names the output head, which takes no adapter; name the layers before it"
            )
    if without is not None:
        left_alone = set(_fitting(linear, without, f"{where}.exclude_modules", owner))
        found = [name for name in found if name not in left_alone]
    found = [name for name in found if linear[name].weight in free]
    if not found:
        raise UserError(f"{where} leaves no linear layer of the {owner} to adapt; name others, or train it in full")
    return found


def _fitting(names: Collection[str], told: str | list[str], where: str, owner: str) -> list[str]:
    """The names that are told; each one of a list, and a regular expression, must fit one at least."""
    if isinstance(told, str):
        found = [name for name in names if re.fullmatch(told, name)]
        if not found:
            raise UserError(
                f"{where} = {told!r} fits no linear layer of the {owner}; they are called like {min(names)}"
            )
        return found
    for one in told:
        if not any(name == one or name.endswith(f".{one}") for name in names):
            raise UserError(
                f"{where}: the {owner} has no linear layer called {one!r}; "
                f"{nearest(one, {name.rsplit('.', 1)[-1] for name in names})}"
            )
    return [name for name in names if any(name == one or name.endswith(f".{one}") for one in told)]


def attach(part: str, module: nn.Module, names: Collection[str], options: Mapping[str, Any]) -> Adapter:
    """Put an adapter around the named linear layers of a part, in place; it changes no output yet.

    Its matrices A are drawn from torch's generator, B is zero.

    Args:
        part: the part's name.
        module: the part.
        names: its linear layers, by their names within it.
        options: of PEFT's ``LoraConfig``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    whole = tuple(f"{part}.{name}" for name in names)
    # A list's names would be taken for ends of other names, too.
    config = LoraConfig(**options, target_modules="|".join(map(re.escape, whole)))
    # Held by a module that has no configuration: names are the whole model's, and PEFT changes nothing by its kind.
    inject_adapter_in_model(config, nn.ModuleDict({part: module}), NAME)
    return Adapter(part, whole, config)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """The layers with an adapter around them, by name; told by what they hold, so that PEFT need not be there."""
    found = dict(module.named_modules())
    return {name: layer for name, layer in found.items() if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")}


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """What the adapters of a module hold and the module without them does not."""
    found: list[nn.Parameter] = []
    for layer in adapted_layers(module).values():
        base = {id(parameter) for parameter in layer.base_layer.parameters()}
        found += [parameter for parameter in layer.parameters() if id(parameter) not in base]
    return found


def described(module: nn.Module) -> str:
    """For a person: the adapter of a part, such as ``"LoRA, r 8, of 14 matrices in nf4"``; ``""`` if there is none."""
    layers = list(adapted_layers(module).values())
    if not layers:
        return ""
    method = "DoRA" if any(len(layer.lora_magnitude_vector) for layer in layers) else "LoRA"
    many = "1 matrix" if len(layers) == 1 else f"{len(layers)} matrices"
    base = layers[0].get_base_layer()
    held = f" in {base.kind}" if isinstance(base, QuantisedLinear) else ""
    return f"{method}, r {layers[0].r[NAME]}, of {many}{held}"


def rest(module: nn.Module) -> None:
    """Put an adapted part into evaluation mode, as what is frozen; its adapters alone train, with their dropout."""
    module.eval()
    for layer in adapted_layers(module).values():
        layer.train()


def _merged(layer: Any) -> Tensor:
    """The weight of an adapted layer with the adapter in it, computed in float32. A quantised one is as it is made."""
    alone = copy.deepcopy(layer).float()
    base = alone.get_base_layer()
    if isinstance(base, QuantisedLinear):
        alone.base_layer = base.plain(base.weight).float()
    alone.merge(safe_merge=True)
    return alone.get_base_layer().weight.detach()


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Put all adapters into the weights that they are of: the model is a plain one again, with the parameters it had.

    Sums are made in float32, whatever the weights are held in. What was quantised is a float again, with the weights
    that the adapter learnt to change: the rounded ones, not those before.
    """
    for name, layer in adapted_layers(model).items():
        base = layer.get_base_layer()
        if isinstance(base, QuantisedLinear):
            base = base.give_back(_merged(layer))
        else:
            base.weight.copy_(_merged(layer))
        model.set_submodule(name, base)


def detach(model: nn.Module) -> None:
    """Take all adapters off: the model is the one that they were put around, quantised weights rounded."""
    for name, layer in adapted_layers(model).items():
        base = layer.get_base_layer()
        model.set_submodule(name, base.give_back(base.weight) if isinstance(base, QuantisedLinear) else base)


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model is what :func:`merge` would make of it; afterwards it is as it was, bit for bit."""
    layers = adapted_layers(model)
    for name, layer in layers.items():
        base = layer.get_base_layer()
        if isinstance(base, QuantisedLinear):
            alone: nn.Module = base.plain(_merged(layer))
        else:
            alone = copy.deepcopy(base)
            alone.weight.data = _merged(layer).to(base.weight.dtype)
        model.set_submodule(name, alone)
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def write(adapter: Adapter, module: nn.Module, folder: Path) -> None:
    """Write an attached adapter in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``PeftModel.from_pretrained`` puts it around the model that it was trained on; where that was quantised, around the
    floats before, which are near it.

    Args:
        adapter: the adapter.
        module: the part that it is attached to.
        folder: where to; made if it is not there.
    """
    from peft import get_peft_model_state_dict

    holder: Any = nn.ModuleDict({adapter.part: module})
    holder.peft_config = {NAME: adapter.config}
    tensors = get_peft_model_state_dict(holder, adapter_name=NAME, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt"}
    for layer in adapted_layers(module).values():
        base = layer.get_base_layer()
        if isinstance(base, QuantisedLinear):
            header |= {QUANTIZE: base.kind, DOUBLE: str(base.doubly).lower()}
    save_file({f"{BEFORE}{key}": tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
              folder / WEIGHTS, metadata=header)  # fmt: skip
    config = copy.copy(adapter.config)
    config.target_modules, config.inference_mode = list(adapter.names), True
    config.save_pretrained(str(folder))
