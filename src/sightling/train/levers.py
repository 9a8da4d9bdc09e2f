"""What a stage trades for memory or speed, and takes back when it is done; it learns the same but for rounding.

``gradient_checkpointing``: layers keep their input alone and are computed once more on the way back
(:mod:`sightling.model.recomputing`); true is all layers that can, or a list names parts.
``torch_compile``: the language model's layers are compiled (:mod:`sightling.train.compiling`).
``compact_attention``: scores between documents of a row are not computed where that saves much
(:mod:`sightling.model.tree`); false computes and masks them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sightling.errors import UserError
from sightling.model.recomputing import checkpoint_layers
from sightling.train.compiling import compiled_layers, graphs
from sightling.train.recipe import PARTS, TrainStage


@contextmanager
def levers(
    model: Any, stage: TrainStage, device: torch.device, where: str, say: Callable[[str], None]
) -> Iterator[None]:
    """In the body the stage's levers are pulled. The parts must have been told to train or to rest before.

    Raises:
        UserError: a part or a model without layers that could, or no compiler.
    """
    with ExitStack() as stack:
        kinds: dict[type, Callable[..., Any]] = {}
        before = 0
        if not stage.compact_attention:
            stack.callback(setattr, model, "compact", model.compact)
            model.compact = False
        if stage.torch_compile:
            kinds = stack.enter_context(compiled_layers(model, device, where))
            before = graphs()
            count = len(model.get_decoder().layers)
            say(f"torch.compile: {count} layers of the language model; the first steps take long, for they compile")
        if stage.gradient_checkpointing:
            stack.callback(checkpoint_layers, model, ())
            say(checkpointed(model, stage, where, kinds))
        yield
        if stage.torch_compile:
            say(f"torch.compile: {graphs() - before} graphs were compiled")


def checkpointed(
    model: Any, stage: TrainStage, where: str, kinds: dict[type, Callable[..., Any]] | None = None
) -> str:
    """Checkpoint what a stage says; ``kinds`` are compiled forward passes. Returns what is told of it.

    Raises:
        UserError: nothing that could be.
    """
    told = stage.gradient_checkpointing
    # Nothing goes back through a frozen encoder, so that nothing of it is kept.
    frozen = stage.train.encoder == "frozen"
    names = [name for name in PARTS if not (name == "encoder" and frozen)] if told is True else told
    known = kinds or {}

    def compiled(layer: Any) -> Callable[..., Any] | None:
        found = known.get(type(layer))
        if found is not None:
            # The compiled pass is called by the checkpoint from now on, not the checkpoint by it.
            vars(layer).pop("forward", None)
        return found

    counts = checkpoint_layers(model, names, compiled)
    for name in told if told is not True else ():
        if not counts.get(name):
            raise UserError(f"{where}.gradient_checkpointing: the {name.replace('_', ' ')} has no layers that could")
    shown = [f"{count} of the {name.replace('_', ' ')}" for name, count in counts.items() if count]
    if not shown:
        raise UserError(f"{where}.gradient_checkpointing is true, but the model has no layers that could")
    return f"gradient checkpointing: layers that are computed once more on the way back, {', '.join(shown)}"
