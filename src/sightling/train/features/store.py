"""Tensors by key in a folder: bounded, checked, and safe for several processes that read and write at once.

The folder holds a space for each set of things that features depend on (:mod:`.space`), and a space holds one
safetensors file a key. A file is written aside and renamed, so that it is there whole or not at all; it is mapped into
memory to be read, and its checksum is compared each time. How many bytes a space takes stands in a file beside them,
which is changed under a lock that all processes share. When the bound is reached nothing more is written: what is there
stays, because all pictures of an epoch come equally often and one that made room for another would come again, too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sightling.errors import UserError
from sightling.train.features.space import name_of

NAME, CHECKSUM, KEY = "features", "crc32", "key"
ABOUT, BYTES, LOCK, ENDING, PARTIAL = "space.json", "bytes", ".lock", ".safetensors", ".partial"

TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""What safetensors calls the types that features are kept in."""

LEFT = 2**30
"""Bytes of the disk that are left for others, a run's checkpoints among them."""

OLD = 3600.0
"""Seconds after which what was written aside and never renamed belongs to a process that is gone."""


class FeatureStore:
    """The tensors of one space of a folder.

    Args:
        root: the folder; it is made where it is not there.
        space: what the features depend on, by name.
        most: bytes that all spaces of the folder may take.

    Attributes:
        full: why nothing more is written; empty while there is room.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, root: Path, space: Mapping[str, str], most: int) -> None:
        self.root, self.most, self.full = root, most, ""
        self.folder = root / name_of(space)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                # Counted anew, since a process that was killed, or a person, may have left another number behind.
                self.entries, size = _count(self.folder)
                _put(self.folder / BYTES, str(size))
                _put(self.folder / ABOUT, json.dumps(dict(space), indent=1))
        except OSError as error:
            raise UserError(f"features cannot be kept in {root}: {(error.strerror or str(error)).lower()}") from None

    def path(self, key: str) -> Path:
        """Where the tensor of a key is."""
        return self.folder / key[:2] / f"{key}{ENDING}"

    def others(self) -> Iterator[tuple[Path, dict[str, str], int]]:
        """The folder's other spaces: where, what they depend on, and the bytes that they take; the newest first."""
        found = [path.parent for path in self.root.glob(f"*/{ABOUT}") if path.parent != self.folder]
        for folder in sorted(found, key=lambda one: -(one / ABOUT).stat().st_mtime):
            try:
                about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                about = {}
            yield folder, about if isinstance(about, dict) else {}, _told(folder)

    def read(self, key: str) -> tuple[Tensor | None, str]:
        """The tensor of a key, or None; and what was wrong with the one that was there, which is gone now."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensor = file.get_tensor(NAME)
        except FileNotFoundError:
            return None, ""
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            return None, self._discarded(path, str(error).splitlines()[0])
        if about.get(KEY) != key or about.get(CHECKSUM) != checksum(tensor):
            return None, self._discarded(path, "its checksum is another")
        return tensor, ""

    def write(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor of the CPU, if there is room and no other process has kept it already."""
        path = self.path(key)
        if self.full or path.exists():
            return
        tensor = tensor.contiguous()
        content = save({NAME: tensor}, metadata={KEY: key, CHECKSUM: checksum(tensor)})
        aside = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
        counted = False
        try:
            self.full = self._reserve(len(content))
            if self.full:
                return
            counted = True
            path.parent.mkdir(exist_ok=True)
            aside.write_bytes(content)
            os.replace(aside, path)
        except OSError as error:
            # The features are known, and training needs no disk for them.
            aside.unlink(missing_ok=True)
            self._add(-len(content) if counted else 0)
            self.full = f"the disk takes no more ({(error.strerror or str(error)).lower()})"

    def bytes(self) -> int:
        """What all spaces of the folder take."""
        return held_bytes(self.root)

    def _reserve(self, size: int) -> str:
        """Count bytes that are about to be written; or say why they are not."""
        if shutil.disk_usage(self.root).free < LEFT + size:
            return "the disk is almost full"
        with self._lock():
            if self.bytes() + size > self.most:
                return "max_gib is reached"
            _put(self.folder / BYTES, str(_told(self.folder) + size))
        return ""

    def _add(self, size: int) -> None:
        try:
            with self._lock():
                _put(self.folder / BYTES, str(max(0, _told(self.folder) + size)))
        except OSError:
            # It is counted anew when the folder is opened again; until then it counts too much, never too little.
            return

    def _discarded(self, path: Path, why: str) -> str:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError:
            # Another process was faster.
            return f"{path}: {why}"
        self._add(-size)
        return f"{path}: {why}"

    def _lock(self) -> FileLock:
        return FileLock(self.root / LOCK)


def held_bytes(root: Path) -> int:
    """What all spaces of a folder take; 0 where it is not there."""
    return sum(_told(path.parent) for path in root.glob(f"*/{BYTES}"))


def entry_bytes(key: str, shape: Sequence[int], dtype: torch.dtype) -> int:
    """What a tensor's file takes, without the tensor: its header's length, the header, and the values.

    safetensors fills the header up with spaces to a multiple of 8 bytes.
    """
    size = math.prod(shape) * dtype.itemsize
    about = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [0, size]}
    header = {"__metadata__": {KEY: key, CHECKSUM: "00000000"}, NAME: about}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8 + size


def _put(path: Path, text: str) -> None:
    # Not flushed to the disk: it is written with every picture, and counted anew at the next start.
    aside = path.with_name(f".{path.name}{PARTIAL}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def checksum(tensor: Tensor) -> str:
    """A CRC-32 of a contiguous CPU tensor's bytes."""
    content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return f"{zlib.crc32(content):08x}"


def _told(folder: Path) -> int:
    """The bytes that a space is said to take."""
    try:
        return int((folder / BYTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _count(folder)[1]


def _count(folder: Path) -> tuple[int, int]:
    """(files, bytes) of a space; what processes that are gone left half-written is removed."""
    number = size = 0
    now = time.time()
    for inner in (entry for entry in os.scandir(folder) if entry.is_dir()):
        for file in os.scandir(inner):
            try:
                about = file.stat()
                if file.name.endswith(ENDING):
                    number, size = number + 1, size + about.st_size
                elif now - about.st_mtime > OLD:
                    os.unlink(file)
            except FileNotFoundError:
                # Renamed or removed by another process since the folder was listed.
                continue
    return number, size
