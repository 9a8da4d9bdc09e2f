"""What a recipe says of several processes: each holds the whole model, or each a part of every matrix.

PyTorch calls a matrix of which each process holds a part a ``DTensor``. Its package is not loaded where nothing is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field
from pydantic_core import PydanticCustomError

from sightling.errors import UserError
from sightling.parts import Part, validate

if TYPE_CHECKING:
    from torch import Tensor


class Parallel(Part):
    """How the processes of a run share its model.

    ``ddp``: each holds the whole of it. ``fsdp``: weights, gradients and optimizer states are cut among them
    (:mod:`sightling.train.sharding`). ``replicate``: so many whole copies, each cut among the processes of one group;
    only gradients go from group to group. Left out, there is one.
    """

    model_config = ConfigDict(strict=True)

    type: Literal["ddp", "fsdp"] = "ddp"
    replicate: int | None = Field(default=None, ge=1)

    @property
    def sharded(self) -> bool:
        """Whether the model is cut among the processes."""
        return self.type == "fsdp"

    def described(self, ranks: int) -> str:
        """For a person: what each of several processes holds, to stand behind their number."""
        if not self.sharded or ranks == 1:
            return ""
        copies = self.replicate or 1
        parts = ranks // copies
        word = "part" if parts == 1 else "parts"
        return f", {copies} copies of the model in {parts} {word}" if copies > 1 else " with a part each"

    def cuts(self, ranks: int, where: str) -> bool:
        """Whether so many processes hold parts: one holds all of a model anyway.

        Raises:
            UserError: their number is no multiple of ``replicate``.
        """
        if ranks % (self.replicate or 1):
            raise UserError(
                f"{where}.replicate = {self.replicate} does not divide the number of processes, which is {ranks}; "
                "choose a divisor"
            )
        return self.sharded and ranks > 1


def read_parallel(value: Any) -> Any:
    """The options from a name or a section.

    Raises:
        UserError: an unknown name or key, or copies of a model that is not cut.
    """
    if isinstance(value, Parallel):
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError("parallel", "it must be ddp, fsdp or {{type: fsdp, replicate: N}}")
    found = validate(Parallel, value, "parallel")
    if found.replicate is not None and not found.sharded:
        raise UserError("parallel.replicate is about copies of a model that is cut; say type: fsdp")
    return found


def is_cut(tensor: Tensor) -> bool:
    """Whether this process holds only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of one that is not cut."""
    cut: Any = tensor
    return cut.to_local() if is_cut(tensor) else tensor


def count_held(tensor: Tensor, shards: int = 1) -> int:
    """How many numbers this process holds of a tensor, or the first of so many processes would if it were cut by rows.

    What does not go up in equal parts leaves the first process as much as any, and the last one less.
    """
    if shards == 1 or not tensor.ndim or not tensor.numel():
        return local(tensor).numel()
    return -(-tensor.shape[0] // shards) * (tensor.numel() // tensor.shape[0])


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor in full. All processes must ask for one that is cut."""
    cut: Any = tensor
    return cut.full_tensor() if is_cut(tensor) else tensor
