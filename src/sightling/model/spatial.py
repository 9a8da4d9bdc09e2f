"""What Qwen-VL's language models are told of pictures: where each visual token lies, and features of inner layers.

Source of the methods: M-RoPE, Wang et al. 2024, "Qwen2-VL" (arXiv:2409.12191): a token has a place in time, by row and
by column; text has the same number in all three, and goes on behind a picture at its largest number and one. DeepStack,
Meng et al. 2024 (arXiv:2406.04334), in Qwen3-VL's form: features of inner layers of the tower are added to what the
language model's first layers have made of the visual tokens.

Legend: ``B`` rows, ``T`` tokens, ``V`` visual tokens, ``D`` the language model's width; 3 is time, row and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from sightling.errors import UserError
from sightling.sight.connectors import ConnectorOptions
from sightling.sight.encoders import EncoderOptions, Grid
from sightling.sight.tiling import Plan, Tiling

SPATIAL = frozenset({"qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"})
"""Language models with places in three directions."""

DEEP = frozenset({"qwen3_vl_text"})
"""Language models that take features behind their first layers."""

Place = tuple[int, int, int]
"""In time, by row and by column."""

Places = tuple[Place, ...]

Position = int | Place
"""A token's number, or its place."""


def is_spatial(text_config: Any) -> bool:
    """Whether a language model's tokens have places in three directions."""
    return text_config.model_type in SPATIAL


def check_spatial(
    text: PreTrainedConfig, connector: ConnectorOptions, tiling: Tiling, encoder: EncoderOptions, where: str
) -> None:
    """Refuse parts that cannot tell a language model of this kind what it wants to know.

    Raises:
        UserError: features of inner layers for a language model that takes none, or another number of layers than
            the connector joins; visual tokens without rows and columns where places are needed.
    """
    kind = text.model_type
    if connector.added:
        if kind not in DEEP:
            raise UserError(
                f"{where}.connector.deepstack: a {kind} takes no features behind its first layers; "
                f"{', '.join(sorted(DEEP))} does"
            )
        if len(encoder.layers) != connector.added + 1:
            raise UserError(
                f"{where}.connector.deepstack = {connector.added} needs {connector.added + 1} layers of the encoder, "
                f"but {where}.encoder.layer names {len(encoder.layers)}"
            )
        if connector.added > text.num_hidden_layers:
            raise UserError(
                f"{where}.connector.deepstack = {connector.added} is more than the language model's "
                f"{text.num_hidden_layers} layers"
            )
    if kind not in SPATIAL:
        return
    if getattr(text, "use_sliding_window", False):
        raise UserError(f"{where}.language_model.use_sliding_window cannot be set for a {kind}")
    if connector.beside or connector.field(0, 0) is None:
        raise UserError(
            f"{where}.connector: a {kind} wants to know the row and the column of each visual token, which this "
            "connector's have not; linear, mlp, merger, concat and pixel_shuffle keep them"
        )
    if tiling.ends_rows:
        raise UserError(f"{where}.tiling: ends of rows have no column for a {kind}; set unpad: false, or choose native")
    if encoder.keep_cls:
        raise UserError(f"{where}.encoder.keep_cls: a CLS token has no row and column for a {kind}")


def share_heads(text: PreTrainedConfig, head_width: int, where: str) -> None:
    """How a head's frequencies are shared between time, row and column, where nothing is told: as published models do.

    Raises:
        UserError: heads too narrow to be shared, or shares that are not all of a head.
    """
    half = head_width // 2
    side = max(1, half * 5 // 16 if text.model_type == "qwen3_vl_text" else half * 3 // 8)
    told = text.rope_parameters.setdefault("mrope_section", [half - 2 * side, side, side])
    if len(told) != 3 or min(told) < 0 or sum(told) != half:
        raise UserError(
            f"{where}.rope_parameters.mrope_section {list(told)} must share the {half} frequencies of heads of width "
            f"{head_width} between time, row and column"
        )


def fields(plan: Plan, connector: ConnectorOptions) -> list[Grid]:
    """(rows, columns) of the visual tokens of each tile of a picture.

    Raises:
        ValueError: a connector whose tokens have no rows.
    """
    found = [connector.field(rows, columns) for rows, columns in plan.patches]
    known = [field for field in found if field is not None]
    if len(known) != len(found):
        raise ValueError("the connector's tokens have no rows and columns")
    return known


def places(here_T: Tensor, fields: Sequence[Grid]) -> Tensor:
    """Places_3T of a row's tokens, from 0 on.

    Args:
        here_T: where placeholders stand.
        fields: (rows, columns) of the visual tokens that they stand for, tile by tile.

    Raises:
        ValueError: placeholders and visual tokens differ in number; both numbers are given.
    """
    count = int(here_T.sum())
    if count != sum(rows * columns for rows, columns in fields):
        told = sum(rows * columns for rows, columns in fields)
        raise ValueError(f"{count} image placeholders in the text, but pictures of {told} visual tokens")
    # What each token moves the next one on by: one, or the longer side of a field behind its last token.
    steps_T = torch.ones(len(here_T), dtype=torch.long)
    if fields:
        sides = [torch.tensor([0] * (rows * columns - 1) + [max(rows, columns)]) for rows, columns in fields]
        steps_T[here_T.cpu()] = torch.cat(sides)
    places_3T = (steps_T.cumsum(0) - steps_T).expand(3, -1).clone()
    if fields:
        inside = [torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(rows), torch.arange(columns))
                  for rows, columns in fields]  # fmt: skip
        places_3T[:, here_T.cpu()] += torch.cat(inside).T
    return places_3T.to(here_T.device)


def position_ids(rows: Sequence[Sequence[Position]]) -> Tensor:
    """Positions_BT of rows of equal length, or places_3BT."""
    told = torch.tensor([list(row) for row in rows])
    return told if told.ndim == 2 else told.permute(2, 0, 1)


class TellsPlaces:
    """What :class:`~sightling.model.modeling.VisionLanguageModel` tells such a language model."""

    if TYPE_CHECKING:
        # The model that this is a part of has them.
        config: Any
        connector: Any

        def plans(self, image_sizes_I3: Tensor) -> list[Plan]:
            """How each picture was cut."""

        def _rows_of(self, placeholders: Sequence[int], marks_B: Sequence[int]) -> list[list[int]]:
            """Which pictures stand in each row."""

    def places(
        self,
        input_ids_BT: Tensor,
        attention_mask: Any = None,
        image_sizes: Tensor | None = None,
        past_key_values: Any = None,
    ) -> Tensor | None:
        """Places_3BT of whole rows; None for a language model that numbers its tokens itself. Padding gets 0.

        Raises:
            ValueError: tokens behind a cache, whose pictures are not known here, or pictures without sizes.
        """
        text = self.config.text_config
        if not is_spatial(text):
            return None
        if past_key_values is not None and past_key_values.get_seq_length():
            raise ValueError(
                f"position_ids is missing: a cache does not tell a {text.model_type} where the pictures in it end"
            )
        here_BT = input_ids_BT == self.config.image_token_id
        marks_B = here_BT.sum(1).tolist()
        connector = self.config.connector_options()
        pictures: list[list[Grid]] = []
        if any(marks_B):
            if image_sizes is None:
                raise ValueError(f"image_sizes is missing: a {text.model_type} asks for each token's row and column")
            pictures = [fields(plan, connector) for plan in self.plans(image_sizes)]
        counts = [sum(rows * columns for rows, columns in picture) for picture in pictures]
        upcoming = iter(pictures)
        rows = [list(islice(upcoming, len(row))) for row in self._rows_of(counts, marks_B)]
        padded = attention_mask is not None and getattr(attention_mask, "dim", lambda: 0)() == 2
        real_BT = attention_mask.bool() if padded else torch.ones_like(here_BT)
        found_3BT = input_ids_BT.new_zeros(3, *input_ids_BT.shape)
        for number, row in enumerate(rows):
            real_T = real_BT[number]
            found_3BT[:, number, real_T] = places(here_BT[number, real_T], [field for one in row for field in one])
        return found_3BT

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """transformers asks once, with the whole prompt, and counts on from the last place of each row."""
        if not is_spatial(self.config.text_config):
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[misc]
        ids_BT = model_kwargs.get("input_ids")
        ids_BT = inputs_tensor if ids_BT is None or not ids_BT.shape[1] else ids_BT
        found = self.places(ids_BT, model_kwargs.get("attention_mask"), model_kwargs.get("image_sizes"))
        assert found is not None
        return found

    def deepstack(self, input_ids_BT: Tensor, features: Tensor | Sequence[Tensor] | None, width: int) -> dict[str, Any]:
        """What the language model's first layers are given behind the first ``width`` channels of visual tokens."""
        if not self.connector.added or features is None:
            return {}
        flat_VD = features if isinstance(features, Tensor) else torch.cat(list(features))
        flat_VD = flat_VD.reshape(-1, flat_VD.shape[-1])
        return {
            "visual_pos_masks": input_ids_BT == self.config.image_token_id,
            "deepstack_visual_embeds": list(flat_VD[:, width:].split(width, dim=1)),
        }
