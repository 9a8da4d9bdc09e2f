"""``cross_attention``: pictures stay outside the text; gated layers inside the language model look at them.

Source of the method: Flamingo (Alayrac et al. 2022, arXiv:2204.14198) and Llama 3.2 Vision (Grattafiori et al. 2024,
arXiv:2407.21783, section 7; "Mllama" in transformers). Here are the options and what stands before the gated layers:
one linear layer, as Mllama's projector, or a perceiver, as Flamingo's. The layers themselves are
:mod:`sightling.model.gated`.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` visual tokens an input, ``D`` width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn as nn
from pydantic import Field, model_validator
from torch import Tensor

from sightling.errors import UserError
from sightling.sight.connectors.attending import Grids
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions
from sightling.sight.connectors.perceiver import PerceiverOptions

EVERY = 4
"""A gated layer stands before every so many layers where nothing is told: Llama 3.2 Vision's, and Flamingo-9B's."""


@CONNECTORS.register("cross_attention")
class CrossAttentionOptions(ConnectorOptions):
    """One placeholder in the text for each picture, however many tiles and visual tokens it has.

    ``every``: gated layers stand before each layer of the language model whose number, counted from 1, is a multiple
    of it (4); or ``layers`` lists the layers, counted from 0. ``form``: ``mllama`` or ``flamingo``.
    ``sees``: a token looks at the ``last`` picture before it (pictures whose placeholders touch count as one), or at
    ``all`` before it. ``before``: a token before the first picture looks at ``nothing``, or, as in transformers'
    Mllama, at ``all`` pictures of its row; attention alone is added to it then, and no feed-forward. ``gate``: ``tanh``
    of one number a sublayer, or of one number a channel (``tanh_channels``, as IDEFICS has it); all begin at 0, and the
    model as the language model alone.
    ``heads``, ``head_dim`` and ``intermediate_size`` are those of the language model for ``mllama``; for ``flamingo``
    8 heads of width 64 and four times the model's width. Mllama only: ``kv_heads``. Flamingo only: ``activation``
    (``relu2``, squared ReLU). ``perceiver``: the options of a perceiver that takes the place of the linear layer.
    """

    form: Literal["mllama", "flamingo"] = "mllama"
    every: int | None = Field(default=None, ge=1)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    sees: Literal["last", "all"] = "last"
    before: Literal["nothing", "all"] = "nothing"
    gate: Literal["tanh", "tanh_channels"] = "tanh"
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    head_dim: int | None = Field(default=None, ge=1)
    intermediate_size: int | None = Field(default=None, ge=1)
    activation: Literal["relu2", "relu", "gelu"] | None = None
    perceiver: PerceiverOptions | None = None

    @model_validator(mode="after")
    def _fit(self) -> CrossAttentionOptions:
        if self.every is not None and self.layers is not None:
            raise ValueError("every and layers both say where the gated layers stand; one of them is right")
        if self.layers is not None and list(self.layers) != sorted({*self.layers}):
            raise ValueError(f"layers {list(self.layers)} must ascend, and name each layer once")
        other = "kv_heads" if self.form == "flamingo" else "activation"
        if getattr(self, other) is not None:
            raise ValueError(f"form {self.form} has no {other}")
        return self

    @property
    def beside(self) -> bool:
        """Yes."""
        return True

    @property
    def ahead(self) -> bool:
        """With ``before: all``."""
        return self.before == "all"

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """What gated layers look at: as many as there are features, or as the perceiver has queries."""
        return rows * columns + extra if self.perceiver is None else self.perceiver.tokens(rows, columns, extra)

    def places(self, depth: int) -> tuple[int, ...]:
        """Which of a language model's ``depth`` layers, counted from 0, have a gated layer before them.

        Raises:
            UserError: a layer that the language model has not, or none at all.
        """
        if self.layers is not None:
            if self.layers[-1] >= depth:
                raise UserError(
                    f"connector.layers names {self.layers[-1]}, but the language model's layers are counted from 0 to "
                    f"{depth - 1}"
                )
            return self.layers
        every = self.every or EVERY
        if every > depth:
            raise UserError(f"connector.every is {every}, but the language model has only {depth} layers")
        return tuple(range(every - 1, depth, every))

    def build(self, in_width: int, out_width: int) -> CrossAttention:
        """See :class:`CrossAttention`."""
        return CrossAttention(in_width, out_width, self)


class CrossAttention(Connector):
    """From the encoder's width to what gated layers look at, in the language model's width.

    ``gated`` holds those layers once the language model is known; they are parts of the connector because they are
    trained while the language model rests.
    """

    gated: nn.Module | None

    def __init__(self, in_width: int, out_width: int, options: CrossAttentionOptions) -> None:
        super().__init__()
        self.options = options
        told = options.perceiver
        self.projection = nn.Linear(in_width, out_width) if told is None else told.build(in_width, out_width)
        self.resamples = told is not None
        self.gated = None

    def forward(self, features_NPD: Tensor, grid: Grids) -> Tensor:
        """Shapes: features_NPD to tokens_NPD, or tokens_NQD with Q queries of a perceiver."""
        return self.projection(features_NPD, grid) if self.resamples else self.projection(features_NPD)
