"""A small processor for every chat template, and conversations to write with it."""

from __future__ import annotations

from functools import cache
from typing import Any

from kit import WORDS, noise
from sightling.data.sample import Picture, Sample, Turn
from sightling.model import VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

NAMES = TEMPLATES.names()
WORDLESS = [name for name in NAMES if TEMPLATES.get(name).wordless]
WITH_SYSTEM = [name for name in NAMES if "system" in TEMPLATES.get(name).opens]
TEXT_STOP = [name for name in NAMES if TEMPLATES.get(name).stop not in TEMPLATES.get(name).control]
FEW = 4
"""Visual tokens of a picture, whatever its size."""


@cache
def processor_of(name: str) -> VisionLanguageProcessor:
    """A processor of that template with a tokenizer of its own; nobody changes it."""
    pictures = VisionLanguageImageProcessor(16, 4, 0, {"type": "single"}, {"type": "pixel_shuffle", "factor": 2})
    return VisionLanguageProcessor(pictures, train_bpe(WORDS * 5, 330, TEMPLATES.get(name)), template=name)


def shown() -> Picture:
    """A picture of its own identity."""
    return Picture(image=noise(8, 6))


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The sample as transformers writes conversations."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.image}
                for part in turn.parts
            ],
        }
        for turn in sample.turns
    ]


def asks(sample: Sample) -> bool:
    """Whether an assistant would speak next."""
    return sample.turns[-1].role == "user"


def written(name: str, sample: Sample) -> str:
    """The sample as its ids decode, placeholders in the original's spelling."""
    return processor_of(name).prompt_text(sample)


def rendered(name: str, sample: Sample) -> str:
    """The same from the Jinja form, its placeholders expanded, without what follows the last turn's stop."""
    processor, form = processor_of(name), TEMPLATES.get(name)
    told = processor.apply_chat_template(messages(sample), tokenize=False, add_generation_prompt=asks(sample))
    text = str(told).replace(form.image, form.placeholders(FEW))
    if not asks(sample):
        text = text.removesuffix(form.ending()[2])
    return text


def turns(*told: tuple[str, Any]) -> Sample:
    """A sample of (role, part or parts)."""
    return Sample(tuple(Turn(role, parts if isinstance(parts, tuple) else (parts,)) for role, parts in told))  # type: ignore[arg-type]
