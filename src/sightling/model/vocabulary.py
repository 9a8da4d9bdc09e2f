"""Fitting a pretrained tokenizer and language model to a chat template: control tokens, and rows for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from sightling.errors import UserError
from sightling.model.templates import Template

logger = logging.getLogger(__name__)

MULTIPLE = 64
"""A vocabulary of a multiple of this keeps the output head's matrix product at full speed."""


def rounded(size: int) -> int:
    """The next multiple of :data:`MULTIPLE`."""
    return -(-size // MULTIPLE) * MULTIPLE


def add_control_tokens(tokenizer: Any, template: Template, source: Any, marks: Sequence[str] = ()) -> list[str]:
    """Give a tokenizer the template's control tokens, its stop token and a padding token; says so in the log.

    ``marks`` are those that a tiling scheme puts between tiles.

    Returns:
        The tokens that were added; none for a tokenizer that speaks the template already.
    """
    known = set(tokenizer.get_added_vocab())
    missing = [token for token in (*template.control, *marks) if token not in known]
    if missing:
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
        logger.warning(
            "the tokenizer in %s lacks %d control tokens of the chat template %r, which are added to it: %s",
            source, len(missing), template.name, " ".join(missing),
        )  # fmt: skip
    tokenizer.eos_token = template.eos
    if tokenizer.pad_token is None:
        tokenizer.pad_token = template.pad
    # Its own format may be another; what is trained, and what an engine must write, is this one.
    tokenizer.chat_template = template.jinja()
    return missing


@torch.no_grad()
def fit_rows(language_model: Any, known: int, wanted: int, source: Any) -> None:
    """Embeddings for a tokenizer that grew from ``known`` to ``wanted`` tokens, new ones the mean of the old.

    Raises:
        UserError: the tokenizer was larger than the model from the start, so it belongs to another one.
    """
    rows = int(language_model.get_input_embeddings().num_embeddings)
    if known > rows:
        raise UserError(f"the tokenizer has {known} tokens, but {source} has {rows} embeddings; they do not fit")
    if wanted > rows:
        language_model.resize_token_embeddings(rounded(wanted), mean_resizing=False)
    size = int(language_model.get_input_embeddings().num_embeddings)
    if wanted == known and size == rows:
        return
    new = torch.zeros(size, dtype=torch.bool)
    new[known:wanted] = True
    new[rows:] = True
    changed: list[Tensor] = []
    for layer in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
        for tensor in (layer.weight, getattr(layer, "bias", None)):
            if tensor is not None and not any(tensor is other for other in changed):
                tensor[new] = tensor[:known].mean(0)
                changed.append(tensor)
    logger.warning(
        "%s has %d embeddings for a tokenizer of %d tokens; it has %d now, new ones start as the mean of the others",
        source, rows, wanted, size,
    )  # fmt: skip
