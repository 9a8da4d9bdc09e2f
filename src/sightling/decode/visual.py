"""Pictures to visual tokens for decoding: each picture is encoded once, whatever is asked about it.

Legend: ``V`` visual tokens of a picture, ``D`` the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from sightling.data.sample import Picture
from sightling.model.inputs import Inputs
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.vision import Features

Seen = Tensor | Features
"""What is kept of a picture: its visual tokens_VD; where these depend on what is asked, the encoder's features."""

INPUTS_AT_ONCE = 32
"""Encoder inputs in one pass: enough to fill a core, little enough to stay small in memory."""


def encode_pictures(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, pictures: Sequence[Picture]
) -> list[Seen]:
    """What is kept of each picture, on the model's device.

    Raises:
        UserError: a picture is missing or corrupt.
    """
    found: list[Seen] = []
    see = model.picture_features if model.connector.reads_text else model.picture_tokens
    waiting: list[Inputs] = []
    for index, picture in enumerate(pictures):
        waiting.append(processor.inputs(picture))
        if index == len(pictures) - 1 or sum(len(one.pixels) for one in waiting) >= INPUTS_AT_ONCE:
            # A picture of very many tiles is cut as well.
            found += see(Inputs.join(waiting), INPUTS_AT_ONCE)
            waiting = []
    return found


def visual_tokens(
    model: VisionLanguageModel, seen: Sequence[Seen], words: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    """Visual tokens_VD of each of several pictures, of what is kept of it and the ids of the words it is read with."""
    if not model.connector.reads_text:
        return list(seen)  # type: ignore[arg-type]
    return model.read_features(list(seen), words, INPUTS_AT_ONCE)  # type: ignore[arg-type]


def in_row_order(features: Iterable[Tensor]) -> list[Tensor] | None:
    """Visual tokens_VD of each of several pictures, in order, as the model takes them; None for no picture."""
    return list(features) or None
