"""What every way of decoding needs to know: the prompt, where an answer ends, how long it may grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.nn as nn

from sightling.data.sample import Sample
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import Encoded, VisionLanguageProcessor
from sightling.model.room import pictures_told


class ContextFull(UserError):
    """The prompt leaves no room for an answer in the model's context."""


def prompt_of(sample: Sample) -> Sample:
    """The sample without a closing assistant turn: what is asked, not what would be right."""
    if sample.turns and sample.turns[-1].role == "assistant":
        return Sample(sample.turns[:-1], sample.meta)
    return sample


def encode_prompt(processor: VisionLanguageProcessor, sample: Sample) -> Encoded:
    """A prompt as tokens, up to and with the opening of the assistant's turn.

    Where words look at pictures behind them, a prompt with pictures behind its trunk shares none: the words before the
    first picture have looked at the last one.

    Raises:
        UserError: the sample has no turn to answer, or a picture of it cannot be read.
    """
    prompt = processor.encode(prompt_of(sample), prompt_only=True)
    if processor.image_processor.ahead and prompt.trunk_pictures < len(prompt.pictures):
        return replace(prompt, trunk=0, trunk_pictures=0)
    return prompt


def stop_ids(model: VisionLanguageModel, processor: VisionLanguageProcessor) -> frozenset[int]:
    """The tokens that end an answer: the template's, and those that the generation configuration names."""
    return frozenset({processor.stop_token_id, *_listed(model.generation_config.eos_token_id)})


def forbidden_ids(model: VisionLanguageModel) -> tuple[int, ...]:
    """The tokens an answer never holds.

    The image placeholder stands for a picture, and an answer brings none: without this a badly trained
    model could ask for a visual token that does not exist. Further ones by ``suppress_tokens``. A token behind the
    output head's last row cannot be written in any case, and is not among them.
    """
    told = {model.config.image_token_id, *_listed(model.generation_config.suppress_tokens)}
    head: Any = model.get_output_embeddings()
    rows = len(head.weight)
    return tuple(sorted(token for token in told if token < rows))


def _listed(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def context_limit(model: VisionLanguageModel) -> int | None:
    """How many tokens, visual ones included, the language model can hold; None where its kind has no limit."""
    limit = getattr(model.language_model.config, "max_position_embeddings", None)
    return int(limit) if limit else None


def room(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, prompt: Encoded, max_new_tokens: int
) -> int:
    """How many new tokens, ``max_new_tokens`` at most, fit behind a prompt.

    Raises:
        ContextFull: none does; what each picture needs, and what there is room for, are told.
        UserError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens = {max_new_tokens} is too few; at least 1 is needed")
    limit = context_limit(model)
    if limit is None:
        return max_new_tokens
    length = len(prompt.input_ids)
    if length >= limit:
        # An answer has one token at least.
        pictures = pictures_told(processor, prompt.pictures, length, limit - 1)
        raise ContextFull(
            f"the conversation holds {length:,} tokens, visual ones included, and leaves no room for an answer: the "
            f"model's context is {limit:,} tokens{pictures}"
        )
    return min(max_new_tokens, limit - length)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode (no dropout); every part is put back as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
