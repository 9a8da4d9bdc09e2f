"""Opening a saved model: strictly, quietly, and with one clear sentence when it cannot be opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, __version__
from transformers.utils import logging

from sightling.errors import UserError, nearest
from sightling.foreign import layout_of, reader
from sightling.model import VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor
from sightling.model.devices import find_device
from sightling.model.language_models import embedding_rows
from sightling.model.spatial import is_spatial

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A model and its processor, ready to answer.

    Args:
        path: a model's folder, or a run's (then its ``model/``); also one in a foreign layout that is known
            (:mod:`sightling.interop`). Nothing is downloaded.
        device: where to; without it an accelerator where there is one, else the CPU.
        dtype: "float32", "bfloat16", "float16" or a torch dtype; without it, as it was saved.

    Raises:
        UserError: no such folder, no model in it, a damaged file, weights with missing, extra or misshapen keys,
            a tokenizer of another model, or a device or dtype that does not exist.
    """
    folder = find_model(Path(path))
    place, precision = _device(device), _dtype(dtype)
    layout = layout_of(folder)
    if layout is not None:
        with quiet():
            model, processor = reader(layout).load(folder, precision)
        return model.to(place).eval(), processor
    _check_files(folder)
    config, processor = _described(folder)
    with quiet():
        model = VisionLanguageModel.from_pretrained(folder, config=config, dtype=precision, local_files_only=True)
    return model.to(place).eval(), processor


def load_processor(path: str | os.PathLike[str]) -> VisionLanguageProcessor:
    """A model's processor alone: no weights are read, though they must be there.

    Raises:
        UserError: what :func:`load` refuses, except for what is wrong in the weights.
    """
    folder = find_model(Path(path))
    layout = layout_of(folder)
    if layout is not None:
        with quiet():
            processor: VisionLanguageProcessor = reader(layout).load_processor(folder)
        return processor
    _check_files(folder)
    return _described(folder)[1]


def _described(folder: Path) -> tuple[VisionLanguageConfig, VisionLanguageProcessor]:
    """What a folder says of its model, and the processor that fits it."""
    with quiet():
        try:
            config = VisionLanguageConfig.from_pretrained(folder, local_files_only=True)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise UserError(f"{folder / CONFIG} describes no model that can be built: {_reason(error)}") from None
        try:
            config.encoder_options(), config.connector_options(), config.tiling_scheme()
        except UserError as error:
            raise UserError(f"{folder / CONFIG}: {error}") from None
        try:
            processor = VisionLanguageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"the processor or tokenizer in {folder} is damaged: {_reason(error)}") from None
    _check_match(folder, config, processor)
    return config, processor


def find_model(path: Path) -> Path:
    """The folder that holds the model: ``path`` itself, or a run's ``model/``.

    Raises:
        UserError: there is none; the message says what is there instead.
    """
    if not path.exists():
        raise UserError(f"there is no folder {path}; give a model's folder or a run's")
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder that holds the model")
    if (path / CONFIG).is_file():
        return path
    if (path / "model" / CONFIG).is_file():
        return path / "model"
    if (path / "run.json").is_file():
        raise UserError(f"the run in {path} has no finished model yet; the command that started it goes on with it")
    raise UserError(f"the folder {path} holds no model: it has neither {CONFIG} nor model/{CONFIG}")


def _check_files(folder: Path) -> None:
    """What would fail deep inside a library, or worse, pass in silence."""
    config = _json(folder / CONFIG)
    kind = config.get("model_type")
    if kind != VisionLanguageConfig.model_type:
        raise UserError(
            f"{folder} holds a model of the type {kind!r}, not one of the type {VisionLanguageConfig.model_type!r}"
        )
    for part in ("vision_config", "text_config"):
        described = config.get(part)
        inner = described.get("model_type") if isinstance(described, dict) else None
        if not isinstance(inner, str) or inner not in CONFIG_MAPPING:
            unknown = f"is {inner!r}, a type that transformers {__version__} does not know"
            raise UserError(f"{folder / CONFIG}: {part}.model_type {unknown}")
    if not any((folder / name).is_file() for name in PROCESSOR):
        raise UserError(f"the model in {folder} lacks its processor: there is no {PROCESSOR[0]}")
    for name in TOKENIZER:
        if not (folder / name).is_file():
            raise UserError(f"the model in {folder} lacks its tokenizer: there is no {name}")
    for name in (*PROCESSOR, *TOKENIZER, "generation_config.json"):
        if (folder / name).is_file():
            _json(folder / name)
    for shard in _shards(folder):
        _check_weights(shard)


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        named = _json(folder / INDEX).get("weight_map")
        if not isinstance(named, dict):
            raise UserError(f"{folder / INDEX} names no weights: it has no 'weight_map'")
        return [folder / name for name in sorted(set(named.values()))]
    return [folder / WEIGHTS]


def _check_weights(shard: Path) -> None:
    if not shard.is_file():
        raise UserError(f"the model in {shard.parent} lacks its weights: there is no {shard.name}")
    try:
        with safe_open(shard, "pt"):
            pass
    except SafetensorError as error:
        raise UserError(f"the weights {shard} are damaged or cut short: {_first_line(error)}") from None
    except OSError as error:
        raise UserError(f"the weights {shard} cannot be read: {error.strerror or error}") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is damaged: it is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is damaged or cut short: {error.msg} at line {error.lineno}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} must hold a JSON object, not {type(found).__name__}")
    return found


def _check_match(folder: Path, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> None:
    rows, words = embedding_rows(config.get_text_config()), len(processor.tokenizer)
    if words > rows:
        raise UserError(
            f"the tokenizer in {folder} belongs to another model: it has {words:,} tokens, the model knows {rows:,}"
        )
    if processor.image_token_id != config.image_token_id:
        raise UserError(
            f"the tokenizer in {folder} belongs to another model: its image placeholder is token "
            f"{processor.image_token_id}, the model's is {config.image_token_id}"
        )
    text = config.get_text_config()
    if processor.spatial != is_spatial(text):
        does = "is told" if is_spatial(text) else "is not told"
        raise UserError(
            f"the processor in {folder} belongs to another model: a {text.model_type} {does} the row and the column of "
            "each visual token"
        )


def _device(name: str | torch.device | None) -> torch.device:
    if name is not None:
        return find_device(name)
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found


def _dtype(name: str | torch.dtype | None) -> str | torch.dtype:
    if name is None or name == "auto":
        return "auto"
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise UserError(f"there is no dtype {name!r}; {nearest(str(name), DTYPES)}")
    return DTYPES[name]


def _reason(error: BaseException) -> str:
    """Why a library refused a file, without its advice."""
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    if isinstance(error, OSError):
        return "it describes none of a known kind"
    if isinstance(error, StrictDataclassError):
        # A line for the field, and one for the reason.
        return ", ".join(line.strip().rstrip(":") for line in str(error).strip().splitlines())
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= 200 else line[:200] + " ..."


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and notices; afterwards it is as its user had set it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
