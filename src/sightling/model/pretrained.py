"""Reading pretrained parts strictly: a path that leads nowhere or weights that do not fit are one clear sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from sightling.errors import UserError

KINDS = (
    ("missing_keys", "lack the key"),
    ("unexpected_keys", "hold an unknown key"),
    ("mismatched_keys", "hold a key of another shape"),
)
"""What transformers calls the ways in which weights do not fit, and how a person is told."""


@contextmanager
def readable(path: Any, what: str, *also: type[Exception]) -> Iterator[None]:
    """Turns what transformers raises for a path that holds no readable ``what`` into one sentence.

    Its own report of keys is silenced meanwhile; who loads says it in one line. ``also`` are further errors
    that mean bad input here.

    Raises:
        UserError: nothing there, not reachable, or corrupt.
    """
    before, hub = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    # A hub that cannot be reached is told in the one sentence, not at each try.
    hub_logging.set_verbosity_error()
    try:
        yield
    except (OSError, *also) as error:  # type: ignore[misc]
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if lines[0].endswith(":"):
            # What would follow is a list of what else could have been there.
            lines = [f"what is there is no whole {what}"]
        if not Path(path).exists() and (isinstance(path, Path) or str(path).startswith((".", "/", "~"))):
            raise UserError(f"{path} does not exist; a {what} was to be read from there") from None
        raise UserError(f"no {what} can be read from {path}: {lines[0]}") from None
    except SafetensorError as error:
        raise UserError(f"the weights in {path} are corrupt: {error}") from None
    finally:
        logging.set_verbosity(before)
        hub_logging.set_verbosity(hub)


def check_keys(info: Mapping[str, Any], path: Any, *, other_parts: bool = False) -> None:
    """Refuse weights that do not fit the model.

    Args:
        info: transformers' ``output_loading_info``.
        path: where they came from.
        other_parts: whether the weights may hold parts that this model has not (the text half of a CLIP model).

    Raises:
        UserError: a missing, unknown or misshapen key, by its name.
    """
    for kind, phrase in KINDS:
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[kind])
        if not keys or (other_parts and kind == "unexpected_keys"):
            continue
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        shapes = ""
        if kind == "mismatched_keys":
            _, saved, wanted = min(info[kind])
            shapes = f", {tuple(saved)} where the model has {tuple(wanted)}"
        raise UserError(f"the weights in {path} {phrase}: {keys[0]}{shapes}{more}; they belong to another model")


def load_weights(kind: Any, path: str, config: PreTrainedConfig) -> Any:
    """``kind.from_pretrained(path)`` in float32, with every weight of the model found there.

    Keys of the checkpoint that belong to another tower are left aside. Only safetensors are read.

    Raises:
        UserError: no model there, or a missing or misshapen key.
    """
    with readable(path, "model"):
        # Precision is the training's choice, made by autocast: weights that train are float32.
        model, info = kind.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    check_keys(info, path, other_parts=True)
    return model


def load_config(path: str) -> PreTrainedConfig:
    """The configuration of a pretrained model.

    Raises:
        UserError: there is none.
    """
    with readable(path, "model configuration", ValueError):
        return AutoConfig.from_pretrained(path)


def load_tokenizer(path: Any) -> Any:
    """A pretrained tokenizer.

    Raises:
        UserError: there is none, or none of the kind that the ``tokenizers`` library runs.
    """
    written = Path(path) / "tokenizer.json"
    with readable(path, "tokenizer", ValueError, KeyError, TypeError, AttributeError):
        if written.is_file():
            # The library would tell a broken file by a bare Exception.
            json.loads(written.read_text(encoding="utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"the tokenizer in {path} has no tokenizer.json; only tokenizers in that form can be used")
    return tokenizer


def load_preprocessing(path: str) -> dict[str, Any]:
    """What a checkpoint says of how its pictures were prepared; empty where it says nothing.

    Raises:
        UserError: it says something that cannot be read.
    """
    written = [name for name in ("preprocessor_config.json", "processor_config.json") if (Path(path) / name).is_file()]
    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError:
        if written:
            raise UserError(f"{written[0]} in {path} cannot be read; it must hold JSON") from None
        return {}
    return dict(told)
