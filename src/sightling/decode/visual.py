"""Pictures to visual tokens for decoding: each picture is encoded once.

Legend: ``V`` visual tokens of a picture, ``D`` the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from sightling.data.sample import Picture
from sightling.model.inputs import Inputs
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor

INPUTS_AT_ONCE = 32
"""Encoder inputs in one pass: enough to fill a core, little enough to stay small in memory."""


def encode_pictures(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, pictures: Sequence[Picture]
) -> list[Tensor]:
    """Visual tokens_VD of each picture, on the model's device.

    Raises:
        UserError: a picture is missing or corrupt.
    """
    found: list[Tensor] = []
    waiting: list[Inputs] = []
    for index, picture in enumerate(pictures):
        waiting.append(processor.inputs(picture))
        if index == len(pictures) - 1 or sum(len(one.pixels) for one in waiting) >= INPUTS_AT_ONCE:
            # A picture of very many tiles is cut as well.
            found += model.picture_tokens(Inputs.join(waiting), INPUTS_AT_ONCE)
            waiting = []
    return found


def in_row_order(features: Iterable[Tensor]) -> list[Tensor] | None:
    """Visual tokens_VD of each of several pictures, in order, as the model takes them; None for no picture."""
    return list(features) or None
