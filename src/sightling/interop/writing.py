"""Our model and processor to a foreign folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from sightling.errors import UserError
from sightling.foreign import FILE_LAYOUTS
from sightling.interop.base import CONFIG, TEXTS, Folder, Layout, layout_named
from sightling.interop.keys import Table
from sightling.interop.weights import store
from sightling.model import VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor
from sightling.model.instruction import FOLDER as INSTRUCTION
from sightling.model.templates import TEMPLATES
from sightling.train.checkpoint import write_whole

TOKENIZER = "tokenizer_config.json"
"""What a layout adds to what the tokenizer itself writes there."""


def save(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    folder: str | os.PathLike[str],
    layout: str | None = None,
) -> None:
    """Save a model and its processor, whole or not at all: as our own, or in a foreign layout.

    A model that was read from that layout gets back what its files said beside, with every weight under the name
    that it had there.

    Args:
        model: the model.
        processor: its processor.
        folder: where to; made if it is not there. For a layout that is one file, the file.
        layout: a layout's name; without it, our own.

    Raises:
        UserError: an unknown layout, a part or an option that the layout cannot hold (by its name), a folder that
            holds something already, or a disk that cannot be written.
    """
    # Absolute, so that what is written aside has a name even for the folder one stands in.
    target = Path(folder).absolute()
    check_target(target, layout)
    if layout is not None and processor.experts:
        raise UserError(f"the layout {layout!r} cannot hold model.experts: nobody would say what is in a picture")
    if layout in FILE_LAYOUTS:
        import_module(f"sightling.interop.{layout}").write(model, target)
        return
    if layout is None:
        _whole(target, lambda at: _write_ours(model, processor, at))
        return
    known = layout_named(layout)
    config, files = described(known, model.config, processor)
    tensors = foreign_state(known, model.config, model.state_dict())
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = str(model.dtype).removeprefix("torch.")

    def write(at: Path) -> None:
        processor.tokenizer.save_pretrained(at)
        if processor.instruction is not None:
            processor.instruction.save(at / INSTRUCTION)
        for name, told in {CONFIG: config, **files, **_generation(model, files)}.items():
            if name == TOKENIZER:
                told = _over(json.loads((at / name).read_text(encoding="utf-8")), told)
            text = told["text"] if name in TEXTS else json.dumps(told, indent=2, ensure_ascii=False) + "\n"
            (at / name).write_text(text, encoding="utf-8")
        store(tensors, at)

    _whole(target, write)


def _whole(target: Path, write: Callable[[Path], None]) -> None:
    """Nothing but files is written, so whatever the system refuses is a matter of where they go."""
    try:
        write_whole(target, write, "the model")
    except OSError as error:
        raise UserError(f"the model could not be written to {target}: {error.strerror or error}") from None


def _write_ours(model: VisionLanguageModel, processor: VisionLanguageProcessor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def check_target(target: Path, layout: str | None) -> None:
    """What can be told before a model is read.

    Raises:
        UserError: an unknown layout, or a target that holds something already.
    """
    if layout is not None and layout not in FILE_LAYOUTS:
        layout_named(layout)
    if target.exists() and (layout in FILE_LAYOUTS or not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already and not empty; give another name")


def described(
    layout: Layout, config: VisionLanguageConfig, processor: VisionLanguageProcessor
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """``config.json`` and the other JSON files, in the layout's own form.

    Raises:
        UserError: a part or an option that the layout cannot hold, by its name.
    """
    made, files = layout.write_config(config, processor), layout.write_processor(config, processor)
    origin = _origin(layout, config)
    if origin is None:
        spoken = {"chat_template.jinja": {"text": TEMPLATES.get(processor.template).jinja()}}
        whose = {"architectures": [layout.architecture], "model_type": layout.config_class.model_type, "dtype": None}
        return {**whose, **made}, {**spoken, **files}
    # What the checkpoint said is written as it was; only what is another thing now than when it was read is set.
    folder = Folder(Path(), {CONFIG: origin["config"], **origin["files"]})
    then = layout.read_config(layout.parse(folder), folder)
    prepared = layout.read_processor(then, processor.tokenizer, folder)
    made = _since(layout.write_config(then, prepared), made)
    files = _since(layout.write_processor(then, prepared), files)
    return _over(origin["config"], made), _over(origin["files"], files)


def _since(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``now`` is another thing than ``then``, deep within."""
    changed = {}
    for key, value in now.items():
        before = then.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = _since(before, value)
            changed.update({key: inner} if inner else {})
        elif key not in then or before != value:
            changed[key] = value
    return changed


def _over(kept: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """``kept`` with the values of ``changed``, deep within."""
    result = dict(kept)
    for key, value in changed.items():
        before = result.get(key)
        result[key] = _over(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def foreign_state(layout: Layout, config: VisionLanguageConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the layout's names.

    Raises:
        UserError: weights for which the layout has no name.
    """
    origin = _origin(layout, config) or {}
    made = Table(layout.name, layout.rules(config)).write(state, origin.get("names", {}))
    for key in origin.get("absent", ()):
        made.pop(key, None)
    aside = layout.aside(config)
    made.update((key, aside[key]()) for key in origin.get("aside", ()))
    return made


def _origin(layout: Layout, config: VisionLanguageConfig) -> dict[str, Any] | None:
    """What the checkpoint said that the model was read from, if it was of this layout."""
    origin = config.origin
    return origin if origin is not None and origin["layout"] == layout.name else None


def _generation(model: VisionLanguageModel, files: Mapping[str, Any]) -> dict[str, Any]:
    if "generation_config.json" in files:
        return {}
    told = json.loads(model.generation_config.to_json_string(use_diff=True))
    return {"generation_config.json": {key: value for key, value in told.items() if key != "suppress_tokens"}}
