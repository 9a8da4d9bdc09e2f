"""``qformer``: learned queries in a BERT that attends to the features in every second layer.

Source of the method: BLIP-2 (Li et al. 2023, arXiv:2301.12597) and InstructBLIP (Dai et al. 2023, arXiv:2305.06500),
where the instruction's words go through the same layers and tell the queries what to look for. The layers are
transformers' own. Parameters carry the names of the published checkpoints: ``query_tokens``, ``qformer``,
``language_projection``.

Legend: ``N`` encoder inputs, ``P`` features an input, ``Q`` queries, ``T`` tokens of an instruction, ``D`` width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from pydantic import Field, model_validator
from torch import Tensor
from transformers import Blip2QFormerConfig, InstructBlipQFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel

from sightling.parts import Part
from sightling.sight.connectors.attending import Grids, real_features
from sightling.sight.connectors.base import CONNECTORS, Connector, ConnectorOptions


class Instruction(Part):
    """The words that an InstructBLIP Q-Former reads: its own vocabulary, BERT's, not the language model's."""

    vocab_size: int = Field(default=30523, ge=1)
    max_position_embeddings: int = Field(default=512, ge=1)


@CONNECTORS.register("qformer")
class QFormerOptions(ConnectorOptions):
    """``queries`` tokens, whatever the grid; the sizes are BLIP-2's unless told otherwise.

    ``width``, ``depth`` and ``heads`` are the Q-Former's own; the queries attend to each other in every layer and to
    the features in every ``cross_attention_frequency``-th, the first among them. ``initializer_range``: the standard
    deviation of new queries and matrices, BERT's unless told otherwise. ``instruction``: InstructBLIP's.
    """

    queries: int = Field(default=32, ge=1)
    width: int = Field(default=768, ge=1)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    cross_attention_frequency: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    initializer_range: float = Field(default=0.02, gt=0)
    instruction: Instruction | None = None

    @model_validator(mode="after")
    def _heads(self) -> QFormerOptions:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} is not divisible by {self.heads} heads")
        return self

    @property
    def reads_text(self) -> bool:
        """Whether there is an instruction."""
        return self.instruction is not None

    def tokens(self, rows: int, columns: int, extra: int = 0) -> int:
        """As many as there are queries."""
        return self.queries

    def build(self, in_width: int, out_width: int) -> QFormer:
        """See :class:`QFormer`."""
        return QFormer(in_width, out_width, self)


class QFormer(Connector):
    """Queries through the Q-Former, then Linear. It knows no places but those the features bring."""

    pads = True

    def __init__(self, in_width: int, out_width: int, options: QFormerOptions) -> None:
        super().__init__()
        self.options = options
        self.reads_text = options.reads_text
        sizes: dict[str, Any] = {
            "hidden_size": options.width,
            "num_hidden_layers": options.depth,
            "num_attention_heads": options.heads,
            "intermediate_size": 4 * options.width,
            "cross_attention_frequency": options.cross_attention_frequency,
            "encoder_hidden_size": in_width,
            "hidden_dropout_prob": options.dropout,
            "attention_probs_dropout_prob": options.dropout,
            "initializer_range": options.initializer_range,
        }
        # All alike, the queries would all learn the same at first.
        drawn = torch.empty(1, options.queries, options.width).normal_(std=options.initializer_range)
        self.query_tokens = nn.Parameter(drawn)
        if options.instruction is None:
            self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**sizes))
        else:
            config = InstructBlipQFormerConfig(**sizes, **options.instruction.model_dump())
            self.qformer = InstructBlipQFormerModel(config)
        self.language_projection = nn.Linear(options.width, out_width)

    def forward(
        self,
        features_NPD: Tensor,
        grid: Grids,
        instruction_ids_NT: Tensor | None = None,
        instruction_mask_NT: Tensor | None = None,
    ) -> Tensor:
        """Shapes: features_NPD to tokens_NQD.

        Padding among the features and, where the mask is 0, among the instruction's tokens is never looked at.

        Raises:
            ValueError: grids that the features do not fill, or an instruction given to a Q-Former that reads none or
                withheld from one that does.
        """
        real_NP = real_features(features_NPD, grid)
        if (instruction_ids_NT is None) == self.options.reads_text:
            raise ValueError(
                "this Q-Former reads an instruction with each picture, and none was given"
                if self.options.reads_text
                else "this Q-Former reads no instruction, and one was given"
            )
        count, queries = len(features_NPD), self.options.queries
        told: dict[str, Any] = {}
        if instruction_ids_NT is not None:
            if len(instruction_ids_NT) != count:
                raise ValueError(f"{len(instruction_ids_NT)} instructions for {count} encoder inputs")
            told["input_ids"] = instruction_ids_NT
            if instruction_mask_NT is not None:
                seen_NQ = instruction_mask_NT.new_ones(count, queries)
                told["attention_mask"] = torch.cat([seen_NQ, instruction_mask_NT], dim=1)
        states = self.qformer(
            query_embeds=self.query_tokens.expand(count, -1, -1),
            encoder_hidden_states=features_NPD,
            encoder_attention_mask=None if real_NP is None else real_NP.long(),
            **told,
        ).last_hidden_state
        return self.language_projection(states[:, :queries])
