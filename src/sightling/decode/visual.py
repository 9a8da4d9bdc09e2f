"""Pictures to visual tokens for decoding: each picture is encoded once.

Legend: ``N`` encoder inputs (tiles), ``Q`` visual tokens an input, ``D`` the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sightling.data.sample import Picture
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor

INPUTS_AT_ONCE = 32
"""Encoder inputs in one pass: enough to fill a core, little enough to stay small in memory."""


def encode_pictures(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, pictures: Sequence[Picture]
) -> list[Tensor]:
    """Visual tokens_NQD of each picture, on the model's device.

    Raises:
        UserError: a picture is missing or corrupt.
    """
    found: list[Tensor] = []
    waiting: list[Tensor] = []
    for index, picture in enumerate(pictures):
        waiting.append(processor.pixels(picture))
        if index == len(pictures) - 1 or sum(pixels.shape[0] for pixels in waiting) >= INPUTS_AT_ONCE:
            sizes = [pixels.shape[0] for pixels in waiting]
            # A picture of very many tiles is cut as well.
            parts = torch.cat(waiting).split(INPUTS_AT_ONCE)
            features_NQD = torch.cat([model.get_image_features(part.to(model.device)) for part in parts])
            found += features_NQD.split(sizes)
            waiting = []
    return found


def in_row_order(features: Iterable[Tensor]) -> Tensor | None:
    """Visual tokens of several pictures, in order, as one tensor_1QD; None for no picture."""
    flat = [part_NQD.reshape(1, -1, part_NQD.shape[-1]) for part_NQD in features]
    return torch.cat(flat, dim=1) if flat else None
