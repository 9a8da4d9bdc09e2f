"""What the pictures of a text that is too long cost, told in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from sightling.data.sample import Picture
from sightling.model.processor import VisionLanguageProcessor

LISTED = 6
"""So many pictures of different costs are told one by one; of more, the least and the most."""


def pictures_told(processor: VisionLanguageProcessor, pictures: Sequence[Picture], length: int, limit: int) -> str:
    """The rest of a sentence about a text of ``length`` tokens where ``limit`` are the most; empty without pictures.

    It says how many visual tokens each picture needs and how many there is room for beside what is no picture.
    """
    if not pictures:
        return ""
    images = processor.image_processor
    costs = [images.count(*picture.size(), picture.tiles) for picture in pictures]
    if len(costs) == 1:
        needs = f"its picture needs {costs[0]:,} visual tokens"
    elif len({*costs}) == 1:
        needs = f"its {len(costs)} pictures need {costs[0]:,} visual tokens each, {sum(costs):,} in all"
    elif len(costs) <= LISTED:
        listed = ", ".join(f"{cost:,}" for cost in costs[:-1])
        needs = f"its {len(costs)} pictures need {listed} and {costs[-1]:,} visual tokens, {sum(costs):,} in all"
    else:
        spread = f"{min(costs):,} to {max(costs):,}"
        needs = f"its {len(costs)} pictures need {spread} visual tokens each, {sum(costs):,} in all"
    words = length - sum(costs)
    return f"; {needs}, and beside the {words:,} other tokens there is room for {max(0, limit - words):,}"
