"""Weights on disk: safetensors in one file or in shards, read a tensor at a time, and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sightling.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Source:
    """The tensors of a folder by name; shapes are known before a tensor is read. A context manager.

    Raises:
        UserError: no weights, a shard that is missing or damaged, or one that lacks what the index says it has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Any] = []
        self._homes: dict[str, Any] = {}
        promised = self._index()
        for name in sorted(set(promised.values())) if promised is not None else [WEIGHTS]:
            file = self._open(folder / name)
            self._homes.update((key, file) for key in file.keys())  # noqa: SIM118 (a file is no mapping)
        if promised is not None:
            for key, name in promised.items():
                if key not in self._homes:
                    raise UserError(f"{folder / INDEX} says that {name} holds {key}, but it does not")

    def _index(self) -> dict[str, str] | None:
        file = self.folder / INDEX
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file} is damaged: it must hold a JSON object with a 'weight_map'") from None
        return dict(found)

    def _open(self, file: Path) -> Any:
        if not file.is_file():
            raise UserError(f"the model in {self.folder} lacks its weights: there is no {file.name}")
        try:
            opened = safe_open(file, "pt")
            opened.__enter__()
        except SafetensorError as error:
            raise UserError(f"the weights {file} are damaged or cut short: {error}") from None
        self._files.append(opened)
        return opened

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.__exit__(kind, error, at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every name with its shape."""
        return {key: tuple(file.get_slice(key).get_shape()) for key, file in self._homes.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype of the file."""
        tensor: Tensor = self._homes[name].get_tensor(name)
        return tensor


def compare(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], path: Any) -> None:
    """Refuse weights that are not exactly those of the model.

    Raises:
        UserError: a missing, unknown or misshapen key, by its name (both shapes).
    """
    for phrase, keys in (
        ("lack the key", sorted(wanted.keys() - found.keys())),
        ("hold an unknown key", sorted(found.keys() - wanted.keys())),
        ("hold a key of another shape", sorted(key for key in wanted if wanted[key] != found.get(key, wanted[key]))),
    ):
        if keys:
            key = keys[0]
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            shapes = f", {found[key]} where the model has {wanted[key]}" if key in found and key in wanted else ""
            raise UserError(f"the weights in {path} {phrase}: {key}{shapes}{more}; they belong to another model")


def store(tensors: Mapping[str, Tensor], folder: Path, shard_size: str = "5GB") -> None:
    """Write tensors as safetensors, in shards where they are more than ``shard_size``."""
    held: set[int] = set()
    ready = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # A file holds every key for itself: a part of another tensor, or the same one once more, is copied.
        shared = tensor.untyped_storage()
        if shared.nbytes() != tensor.nbytes or shared.data_ptr() in held:
            tensor = tensor.clone()
        held.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    plan = split_torch_state_dict_into_shards(ready, max_shard_size=shard_size)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: ready[name] for name in names}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
