"""What every foreign layout offers, and the one way in which all of them are read and written.

A layout is one file: a :class:`Layout` that says how its ``config.json`` becomes ours and back, what its weights are
called (:mod:`sightling.interop.keys`), and how its pictures and prompts are prepared. It is registered here under its
name, and in :data:`sightling.foreign.LAYOUTS` under the ``model_type`` of its checkpoints.

What a checkpoint says that our configuration has no place for is kept in ``config.origin`` and written back.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from sightling.errors import UserError, nearest
from sightling.foreign import FILE_LAYOUTS
from sightling.foreign import LAYOUTS as FILES
from sightling.interop.keys import Rule
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.pretrained import load_tokenizer
from sightling.registry import Registry

CONFIG = "config.json"

SPOKEN = (
    "preprocessor_config.json", "processor_config.json", "generation_config.json", "chat_template.json",
    "video_preprocessor_config.json",
)  # fmt: skip
"""What else a checkpoint's folder says, as JSON; kept and written back."""

TEXTS = ("chat_template.jinja",)
"""The same, as text."""


class Folder:
    """A checkpoint's folder: its JSON files, each read once; or what a model remembers of them (``files``)."""

    def __init__(self, path: Path, files: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.path = path
        self._remembered = files is not None
        self._known: dict[str, dict[str, Any] | None] = dict(files or {})

    def __str__(self) -> str:
        return str(self.path)

    def json(self, name: str) -> dict[str, Any] | None:
        """A file's object; ``None`` where there is no such file.

        Raises:
            UserError: the file holds something else.
        """
        if name not in self._known and not self._remembered:
            file = self.path / name
            self._known[name] = _json(file) if file.is_file() else None
        return self._known.get(name)

    def text(self, name: str) -> str | None:
        """A file's text; ``None`` where there is no such file.

        Raises:
            UserError: the file is no text.
        """
        if self._remembered:
            found = self._known.get(name)
            return None if found is None else str(found["text"])
        file = self.path / name
        try:
            return file.read_text(encoding="utf-8") if file.is_file() else None
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            UserError: there is none.
        """
        found = self.json(CONFIG)
        if found is None:
            raise UserError(f"{self.path} holds no model: there is no {CONFIG}")
        return found

    @property
    def images(self) -> dict[str, Any]:
        """How pictures are prepared: ``preprocessor_config.json``, or the part of ``processor_config.json``.

        Raises:
            UserError: the folder does not say it.
        """
        inside = (self.json("processor_config.json") or {}).get("image_processor")
        found = self.json("preprocessor_config.json") or inside
        if not isinstance(found, dict):
            raise UserError(f"the model in {self.path} lacks its image processor: there is no preprocessor_config.json")
        return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged or cut short: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} must hold a JSON object, not {type(found).__name__}")
    return found


class Layout(ABC):
    """A foreign layout. An instance holds no state.

    Attributes:
        name: what ``--layout`` calls it, and the name of its file.
        config_class: transformers' configuration of its checkpoints; fills in what a ``config.json`` leaves out.
        architecture: what its ``config.json`` lists under ``architectures``.
    """

    name: str
    config_class: type[PreTrainedConfig]
    architecture: str

    # ---- what a layout says

    @abstractmethod
    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """Our configuration of a checkpoint; ``told`` is its own, as ``config_class``.

        Raises:
            UserError: it describes what our model cannot be, by the key that says so.
        """

    @abstractmethod
    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """The keys of ``config.json`` that follow from our configuration.

        Raises:
            UserError: a part or an option that the layout cannot hold, by its name.
        """

    @abstractmethod
    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """What its checkpoints call our weights."""

    @abstractmethod
    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """Our processor, which prepares pictures and prompts as the checkpoint says.

        Raises:
            UserError: it prepares them in a way that ours cannot follow, by the key that says so.
        """

    @abstractmethod
    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """What its JSON files beside ``config.json`` say, by file.

        Raises:
            UserError: a tiling or an option that the layout cannot hold, by its name.
        """

    def aside(self, config: VisionLanguageConfig) -> Mapping[str, Callable[[], Tensor]]:
        """Keys of its checkpoints that are no weights of ours, and what each holds: they may be there or not."""
        return {}

    def tokenizer(self, path: Path) -> PreTrainedTokenizerFast:
        """The tokenizer of a folder.

        Raises:
            UserError: there is none, or none of the kind that can be used.
        """
        loaded: PreTrainedTokenizerFast = load_tokenizer(path)
        return loaded

    # ---- what layouts share

    def parse(self, folder: Folder) -> Any:
        """A checkpoint's configuration as ``config_class``.

        Raises:
            UserError: it cannot be one, in one sentence.
        """
        # A copy: some classes take out of what they are given what they do not need.
        told = deepcopy({key: value for key, value in folder.config.items() if key != "transformers_version"})
        try:
            return self.config_class.from_dict(told)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
            raise UserError(f"{folder.path / CONFIG} describes no {self.name} model: {' '.join(lines)[:200]}") from None

    def refuse(self, what: str, value: Any, wanted: str) -> UserError:
        """The error for an option of ours that the layout has no place for."""
        return UserError(f"the layout {self.name!r} cannot hold {what} = {value!r}; {wanted}")


LAYOUTS: Registry[Layout] = Registry("layout")


def layout_named(name: str) -> Layout:
    """The layout of that name; its file is imported.

    Raises:
        UserError: there is none, with the nearest known one.
    """
    if name not in FILES.values():
        raise UserError(f"there is no layout {name!r}; {nearest(name, {*FILES.values(), *FILE_LAYOUTS})}")
    import_module(f"sightling.interop.{name}")
    return LAYOUTS.get(name)


def expect(told: Any, where: str, **allowed: Any) -> None:
    """Refuse a configuration whose keys have other values than the ones our model follows.

    Args:
        told: a configuration or a mapping; a key that is not there is fine.
        where: how the message names it.
        allowed: for each key the value, or a tuple of values, that can be read.

    Raises:
        UserError: the key, its value and what would be right.
    """
    for key, wanted in allowed.items():
        values = wanted if isinstance(wanted, tuple) else (wanted,)
        value = told.get(key, values[0]) if isinstance(told, Mapping) else getattr(told, key, values[0])
        if value not in values:
            right = " or ".join(map(repr, values))
            raise UserError(f"{where}: {key} = {value!r} cannot be followed; {right} would be right")


def part_config(told: Any, where: str) -> PreTrainedConfig:
    """A part's configuration as its own class: transformers may have parsed it already, or not.

    Raises:
        UserError: a part of a type that transformers does not know.
    """
    if isinstance(told, PreTrainedConfig):
        return told
    rest = dict(told)
    try:
        return AutoConfig.for_model(rest.pop("model_type"), **rest)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} describes no part that transformers knows: {str(error).splitlines()[0]}") from None


def sparse(config: PreTrainedConfig, without: Iterable[str] = ()) -> dict[str, Any]:
    """A part's configuration as JSON, without what only describes the file it was read from."""
    dropped = {"_name_or_path", "transformers_version", "architectures", "dtype", *without}
    return {key: value for key, value in config.to_dict().items() if key not in dropped}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Every key with its shape."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def positions(count: int) -> Callable[[], Tensor]:
    """The table of positions that older checkpoints hold beside their weights: ids of (1, count)."""
    return lambda: torch.arange(count)[None]
