"""A transformers configuration from a recipe's keys, with every mistake told in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from sightling.errors import UserError, nearest

SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "image_size", "patch_size", "max_position_embeddings", "embed_dim", "depth", "num_heads", "spatial_merge_size",
    "temporal_patch_size",
)  # fmt: skip
"""Keys that count something and so are at least 1 where they are given."""


def own_names(kind: type[PreTrainedConfig], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options, where a usual name stands for another of the class' own (``num_hidden_layers`` for ``depth``).

    Raises:
        UserError: both names of a key.
    """
    for usual, own in kind.attribute_map.items():
        if usual in options and own in options:
            raise UserError(f"{where}.{usual} and {where}.{own} are one key; set one of them")
    return {kind.attribute_map.get(key, key): value for key, value in options.items()}


def make_config(kind: type[PreTrainedConfig], options: Mapping[str, Any], where: str) -> PreTrainedConfig:
    """``kind(**options)``.

    Raises:
        UserError: an unknown key (with the nearest known one) or a wrong value.
    """
    known = {key for key in kind().to_dict() if not key.startswith("_") and key != "transformers_version"}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{where} has no key {key!r}; {nearest(str(key), known)}")
        if key in SIZES and value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{where}.{key} = {value!r} is wrong: it must be a whole number, at least 1")
    try:
        return kind(**options)
    except StrictDataclassError as error:
        # transformers' message has a line for the field and a line for the reason; the last one says it all.
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{where} is wrong: {reason.split(': ', 1)[-1].split('. Errors: ')[0]}") from None
