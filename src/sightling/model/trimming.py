"""The last layer's feed-forward at supervised positions only: what other positions become there, nothing reads.

Behind the last layer's attention each position goes its own way, and those that no loss is taken of end there. Where
answers are short, most positions are such. Products and gradients are those of all positions but for rounding.

Legend: ``B`` rows, ``T`` tokens, ``D`` width, ``S`` supervised positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn as nn
from torch import Tensor

MOST = 0.75
"""The share of positions that are supervised above which picking them out costs more than it saves."""

GATED = ("gate_proj", "up_proj", "down_proj")
"""What a feed-forward is made of that treats each position alone and gives hidden states and nothing else."""


def last_feed_forward(decoder: Any) -> Any:
    """The last layer's feed-forward; None where there is none of the known kind, or the layer is not run as it is.

    A compiled layer has its shapes in its graph, and a checkpointed one is run once more when positions are forgotten.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return None
    layer: Any = layers[-1]
    block = getattr(layer, "mlp", None)
    plain = isinstance(block, nn.Module) and {name for name, _ in block.named_children()} >= set(GATED)
    own = "forward" in vars(layer) or getattr(layer, "gradient_checkpointing", False)
    return block if plain and not own and "forward" not in vars(block) else None


@contextmanager
def trimmed(decoder: Any, learnt_BT: Tensor) -> Iterator[None]:
    """In the body the last layer's feed-forward gives zeros at positions that are not marked in ``learnt_BT``.

    Raises:
        ValueError: in the body, hidden states_BTD of another number of rows or tokens than were marked.
    """
    block = last_feed_forward(decoder)
    if block is None or int(learnt_BT.sum()) > MOST * learnt_BT.numel():
        yield
        return
    usual = block.forward

    def forward(hidden_BTD: Tensor) -> Tensor:
        if hidden_BTD.shape[:2] != learnt_BT.shape:
            raise ValueError(f"hidden states of {tuple(hidden_BTD.shape[:2])}, marked were {tuple(learnt_BT.shape)}")
        given_SD = usual(hidden_BTD[learnt_BT])
        whole_BTD: Tensor = given_SD.new_zeros(hidden_BTD.shape)
        whole_BTD[learnt_BT] = given_SD
        return whole_BTD

    block.forward = forward
    try:
        yield
    finally:
        del block.forward
