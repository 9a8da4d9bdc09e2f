"""Checkpoints that are whole or absent: written aside, flushed to the disk, moved into place in one step.

A checkpoint is a folder: ``weights.safetensors`` (what trains, under the model's own names), ``state.pt``
(optimizer and random states: tensors and plain values, read back with ``weights_only=True``) and
``checkpoint.json`` (what it is, and the sizes of the other two). Parts that are frozen are not written again:
they are what the run built or an earlier stage finished with.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightling.errors import UserError

WEIGHTS, STATE, ABOUT = "weights.safetensors", "state.pt", "checkpoint.json"

SHARDED = "sharded"
"""In ``checkpoint.json`` of one that processes wrote their parts of: how many (:mod:`.sharded_checkpoint`)."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)

# torch's writer meets a full disk with a RuntimeError about itself; these are its words.
TORCH_WRITER = ("PytorchStreamWriter", "unexpected pos")


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, the state that a stage continues from, and plain facts about both."""

    weights: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_the_disk(error: Exception) -> bool:
    """Whether it is the disk that refused, which the user can mend, and not a bug in what was being written."""
    if isinstance(error, OSError):
        return error.errno in DISK
    return isinstance(error, SafetensorError) or any(mark in str(error) for mark in TORCH_WRITER)


def _why(error: Exception) -> str:
    """What went wrong while writing, in a few words."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in str(error):
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the disk is full or takes no more" if isinstance(error, RuntimeError) else str(error)


def failed_for(error: Exception) -> str | None:
    """Why the disk refused, in a few words; ``None`` where it was something else."""
    return _why(error) if _is_the_disk(error) else None


def partial_of(folder: Path) -> Path:
    """Where a folder is written before it is whole."""
    return folder.parent / f".{folder.name}.partial"


def finish(partial: Path, folder: Path) -> None:
    """Flush a folder that is whole to the disk and give it its name, in the place of an older one.

    Raises:
        OSError: the disk refused; the older one stays.
    """
    # A folder's own entry is flushed too: a file is not there after a power cut if only its content is.
    for path in [*(p for p in sorted(partial.rglob("*"))), partial]:
        _flush(path)
    if folder.exists():
        old = folder.parent / f".{folder.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(folder)
    _flush(folder.parent)


def write_whole(folder: Path, write: Callable[[Path], None], what: str) -> None:
    """Let ``write`` fill a folder that appears under its name only when it is whole and on the disk.

    An older folder of that name is replaced in the end; when anything fails it stays as it was.

    Raises:
        UserError: the disk is full or cannot be written; the message says what and why.
    """
    partial = partial_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        finish(partial, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _is_the_disk(error):
            raise
        raise UserError(f"{what} could not be written to {folder}: {_why(error)}; what was saved before is whole, "
                        "so make room and run the same command again to continue") from None  # fmt: skip
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step.

    Raises:
        UserError: the disk is full or cannot be written; the old file stays.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {_why(error)}") from None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        UserError: the disk is full or cannot be written; earlier checkpoints stay as they are.
    """

    def write(into: Path) -> None:
        weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in checkpoint.weights.items()}
        save_file(weights, into / WEIGHTS)
        torch.save(checkpoint.state, into / STATE)
        sizes = {name: (into / name).stat().st_size for name in (WEIGHTS, STATE)}
        (into / ABOUT).write_text(json.dumps({**checkpoint.about, "sizes": sizes}, indent=1), encoding="utf-8")

    write_whole(folder, write, "a checkpoint")


def read_about(folder: Path) -> dict[str, Any]:
    """The facts about a checkpoint, after checking that its files are there in full.

    Raises:
        UserError: a file that is missing, cut short or unreadable.
    """
    advice = "delete that folder to continue from what was saved before it"
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        sizes = dict(about["sizes"])
    except FileNotFoundError:
        raise UserError(f"checkpoint {folder} is incomplete: it has no {ABOUT}; {advice}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"checkpoint {folder} is corrupt: {ABOUT} cannot be read; {advice}") from None
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            has = "is missing" if found is None else f"has {found:,} bytes"
            raise UserError(f"checkpoint {folder} is incomplete: {name} {has}, {size:,} were written; {advice}")
    return about


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint back, on the processor.

    Raises:
        UserError: it is incomplete or corrupt, or processes wrote their parts of it.
    """
    about = read_about(folder)
    if SHARDED in about:
        raise UserError(
            f"checkpoint {folder} was made with parallel: fsdp; take that to go on from it, or delete that folder"
        )
    with _readable(folder, WEIGHTS):
        weights = load_file(folder / WEIGHTS)
    return Checkpoint(weights, read_state(folder), about)


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside weights, on the processor.

    Raises:
        UserError: it is corrupt.
    """
    with _readable(folder, STATE):
        return torch.load(folder / STATE, map_location="cpu", weights_only=True)


@contextmanager
def _readable(folder: Path, name: str) -> Iterator[None]:
    """What is raised for a damaged file becomes one sentence."""
    try:
        yield
    except (SafetensorError, RuntimeError, UnpicklingError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"checkpoint {folder} is corrupt: {name} cannot be read ({str(error).splitlines()[0]}); "
                        "delete that folder to continue from what was saved before it") from None  # fmt: skip


def load_weights(into: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into tensors of the same names, all of them or none.

    Raises:
        UserError: names that are missing or too many, or a shape that differs; the message names them.
    """
    for kind, keys in (("lacks", set(into) - set(weights)), ("holds the unknown", set(weights) - set(into))):
        if keys:
            named = ", ".join(sorted(keys)[:3])
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            word = "key" if len(keys) == 1 else "keys"
            raise UserError(f"{where} does not fit this model: it {kind} {word} {named}{more}")
    for name, tensor in into.items():
        if tensor.shape != weights[name].shape:
            raise UserError(f"{where} does not fit this model: {name} has shape {tuple(weights[name].shape)} there "
                            f"and {tuple(tensor.shape)} here")  # fmt: skip
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(weights[name])


class CheckpointFolder:
    """The checkpoints of one stage, ``step-00000100`` and so on; the newest ``limit`` are kept."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first. What a crash left half-written is not among them."""
        if not self.root.is_dir():
            return []
        names = (path.name for path in self.root.iterdir() if path.is_dir())
        return sorted(int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.root / f"step-{step:08d}"

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Write one and drop the oldest beyond the limit, in this order.

        Raises:
            UserError: the disk is full or cannot be written; earlier checkpoints stay as they are.
        """
        save_checkpoint(self.path(step), checkpoint)
        self.drop()

    def drop(self) -> None:
        """Remove the oldest beyond the limit."""
        for old in self.steps()[: -self.limit]:
            shutil.rmtree(self.path(old))

    def newest(self) -> tuple[int, Checkpoint] | None:
        """The last step saved and its checkpoint; ``None`` when there is none.

        Raises:
            UserError: it is corrupt.
        """
        steps = self.steps()
        return (steps[-1], load_checkpoint(self.path(steps[-1]))) if steps else None

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.root, ignore_errors=True)
