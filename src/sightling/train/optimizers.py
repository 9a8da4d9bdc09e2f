"""Which parameter is updated how: AdamW, or Muon for hidden matrices with AdamW for the rest.

Groups go by part, so that each part learns at its own rate. Norms, biases, embeddings and free parameters
are never decayed; the weights of linear layers and convolutions are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from sightling.train.muon import Muon
from sightling.train.parallel import count_held
from sightling.train.recipe import TrainStage


@dataclass(frozen=True)
class Kind:
    """How a parameter is updated."""

    muon: bool
    decay: bool


def parameter_kinds(part: nn.Module) -> dict[nn.Parameter, Kind]:
    """Every parameter of a part that trains, with its kind, in the order of ``named_parameters``.

    Hidden matrices are the 2-D weights of linear layers inside a repeated block (an element of a
    ``ModuleList``, as transformers keeps its layers). Embeddings, output heads, first convolutions and
    what stands between towers are not, a matrix that an embedding shares is an embedding, and the factors of an
    adapter are no matrices of the network themselves.
    """
    kinds: dict[nn.Parameter, Kind] = {}
    embeddings = {
        parameter
        for module in part.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    blocks = {name for name, module in part.named_modules() if isinstance(module, nn.ModuleList)}
    for name, module in part.named_modules():
        steps = name.split(".")
        # The list itself is a proper prefix, so its elements' inner modules are in a block and it is not.
        in_block = any(".".join(steps[:depth]) in blocks for depth in range(1, len(steps)))
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in kinds:
                continue
            weight = own_name == "weight" and parameter.ndim >= 2 and parameter not in embeddings
            factor = "lora_A" in steps or "lora_B" in steps
            hidden = weight and in_block and isinstance(module, nn.Linear) and parameter.ndim == 2 and not factor
            kinds[parameter] = Kind(muon=hidden, decay=weight)
    return kinds


class Optimizers:
    """One or two torch optimizers that act as one.

    ``param_groups`` are theirs; each group carries its part's name (``part``) and full rate (``initial_lr``).
    """

    def __init__(self, inner: dict[str, torch.optim.Optimizer]) -> None:
        self.inner = inner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups of all inner optimizers."""
        return [group for optimizer in self.inner.values() for group in optimizer.param_groups]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is updated."""
        for group in self.param_groups:
            yield from group["params"]

    def scale(self, factor: float) -> None:
        """Set every group's rate to ``factor`` times its full one."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self) -> None:
        """One update."""
        for optimizer in self.inner.values():
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.inner.values():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizers' states by name: tensors and plain values only."""
        return {name: optimizer.state_dict() for name, optimizer in self.inner.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            ValueError: other optimizers, or groups of another size.
        """
        if set(state) != set(self.inner):
            raise ValueError(f"the state is of {sorted(state)}, the optimizers are {sorted(self.inner)}")
        for name, optimizer in self.inner.items():
            optimizer.load_state_dict(state[name])

    def state_bytes(self, part: str | None = None, shards: int = 1) -> int:
        """Bytes of this process's states once the first update is done; of one part alone where it is named.

        ``shards``: among how many processes parameters that are whole here would be cut.
        """
        return sum(
            count_held(parameter, shards) * parameter.element_size() * (1 if name == "muon" else 2)
            # AdamW counts its updates in a float32 scalar for each parameter.
            + (0 if name == "muon" else 4)
            for name, optimizer in self.inner.items()
            for group in optimizer.param_groups
            if part in (None, group["part"])
            for parameter in group["params"]
        )

    def described(self, part: str) -> str:
        """The optimizers of a part with their parameters, such as ``"Muon 1.2M + AdamW 0.1M"``."""
        used: dict[str, int] = {}
        for name, label in (("muon", "Muon"), ("adamw", "AdamW")):
            groups = self.inner[name].param_groups if name in self.inner else []
            count = sum(p.numel() for group in groups if group["part"] == part for p in group["params"])
            if count:
                used[label] = count
        if len(used) == 1:
            return next(iter(used))
        return " + ".join(f"{label} {short_number(count)}" for label, count in used.items())


def short_number(count: int) -> str:
    """A count for a person: 950, 12.3k, 4.5M, 1.2B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def build_optimizers(stage: TrainStage, parts: Mapping[str, nn.Module], rates: Mapping[str, float]) -> Optimizers:
    """The optimizers of a stage over the parts whose rate is above 0, on the device where they are.

    Raises:
        ValueError: nothing trains.
    """
    taken: set[nn.Parameter] = set()
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for part, rate in rates.items():
        if rate <= 0:
            continue
        for parameter, kind in parameter_kinds(parts[part]).items():
            if parameter in taken:
                continue
            taken.add(parameter)
            muon = kind.muon and stage.optim == "muon"
            decay = stage.weight_decay if kind.decay else 0.0
            fresh = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay, "part": part}
            groups.setdefault((part, muon, kind.decay), fresh)["params"].append(parameter)
    inner: dict[str, torch.optim.Optimizer] = {}
    adamw = [group for (_, muon, _), group in groups.items() if not muon]
    if adamw:
        # Fused kernels exist for these two device types; elsewhere torch picks its fastest loop.
        able = all(parameter.device.type in ("cpu", "cuda") for group in adamw for parameter in group["params"])
        fused = (able or None) if stage.optim_fused else False
        inner["adamw"] = torch.optim.AdamW(
            adamw, betas=(stage.adam_beta1, stage.adam_beta2), eps=stage.adam_epsilon, fused=fused
        )
    matrices = [group for (_, muon, _), group in groups.items() if muon]
    if matrices:
        inner["muon"] = Muon(
            matrices, momentum=stage.muon_momentum, shared=stage.muon_shared, short_side=stage.muon_short_side
        )
    if not inner:
        raise ValueError("there is nothing to train: every part is frozen or has no parameters")
    return Optimizers(inner)
