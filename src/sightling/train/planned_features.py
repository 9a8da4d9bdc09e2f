"""What keeping a frozen encoder's features makes of a stage that is planned, without an encoder and without a disk.

The stage's own data and its own loss ask a store that remembers shapes. It knows nothing at first, so that the encoder
sees every picture, as in the first epoch; then everything, so that it sees none, as in all epochs after it.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightling.train.features.cache import FeatureCache, check_encoder
from sightling.train.features.options import FOLDER, FeatureOptions
from sightling.train.features.store import LEFT, FeatureStore, checksum, entry_bytes, held_bytes
from sightling.train.objectives.base import Batch
from sightling.train.plans import FeaturePlan
from sightling.train.preparing import Sampled, seconds_to_make
from sightling.train.recipe import Recipe, TrainStage

STAND_IN = "0" * 64
"""As long as a picture's key."""


class ShapeStore(FeatureStore):
    """A store without a disk: it remembers shapes, and gives zeros of them once it is told to.

    Attributes:
        known: the shape of each picture's features, by the picture's key.
        reading: whether what is known is given.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        # Not the real one's, which makes its folder.
        self.dtype, self.reading = dtype, False
        self.known: dict[str, tuple[int, ...]] = {}

    def read(self, key: str) -> tuple[Tensor | None, str]:
        """Zeros in the place of features, whose checksum takes its time as it does of real ones."""
        if not self.reading or key not in self.known:
            return None, ""
        tensor = torch.zeros(self.known[key], dtype=self.dtype)
        checksum(tensor)
        return tensor, ""

    def bytes(self) -> int:
        """What the files of all that is known would take."""
        return sum(entry_bytes(key, shape, self.dtype) for key, shape in self.known.items())


class ShapeCache(FeatureCache):
    """The features of a stage that is run dry: each picture is new, whatever an earlier micro-batch showed."""

    store: ShapeStore

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(ShapeStore(dtype), dtype, lambda line: None)

    def ask(self, key: str) -> Tensor | None:
        """Nothing: no step came before."""
        return None

    def keep(self, key: str, features_SD: Tensor) -> Tensor:
        """Remember the shape; returns what would be read."""
        self.store.known[key] = tuple(features_SD.shape)
        return features_SD.detach().to(self.dtype)


def shape_cache(stage: TrainStage, model: Any, where: str) -> ShapeCache | None:
    """What stands for the cache that a stage asks for; None where it asks for none.

    Raises:
        UserError: a model without an encoder.
    """
    options = stage.features
    if options is None or not options.cache:
        return None
    check_encoder(model, where)
    return ShapeCache(getattr(torch, options.dtype))


def with_keys(batch: Batch) -> Batch:
    """A micro-batch whose pictures have keys, as those of real data have: of stand-ins each is a picture of its own."""
    sizes = batch.get("image_sizes")
    if batch.get("picture_keys") is not None or not isinstance(sizes, Tensor):
        return batch
    keys = [f"{number:0{len(STAND_IN)}x}" for number in range(len(sizes))]
    return {**batch, "picture_keys": keys, "kept_rows": [0] * len(keys), "damage": [""] * len(keys)}


def reading(batch: Batch, cache: ShapeCache) -> Batch:
    """The same micro-batch with the features of all its pictures in the place of pixels."""
    keys = batch.get("picture_keys")
    if keys is None:
        return batch
    shapes = [cache.store.known[key] for key in keys]
    rows = [shape[0] for shape in shapes]
    kept = torch.empty(sum(rows), *shapes[0][1:], dtype=cache.dtype, device="meta")
    return {**batch, "pixel_values": None, "kept": kept, "kept_rows": rows}


def seconds_to_read(cache: ShapeCache, sampled: Sampled) -> float:
    """To make one of the micro-batches that were looked at, now that its pictures need no decoding; 0 of stand-ins."""
    if sampled.made is None:
        return 0.0
    cache.store.reading = True
    try:
        return seconds_to_make(sampled.made, len(sampled.batches))
    finally:
        cache.store.reading = False


class Rooms:
    """The bytes that the stages of a recipe may fill, folder by folder, one stage after another."""

    def __init__(self, recipe: Recipe) -> None:
        self.own = Path(recipe.output_dir or Path("runs") / recipe.name) / FOLDER
        self._taken: dict[Path, int] = {}

    def folder(self, options: FeatureOptions) -> Path:
        """Where a stage keeps its features."""
        return self.own if options.cache is True else Path(str(options.cache)).expanduser()

    def left(self, options: FeatureOptions) -> tuple[int, int]:
        """(bytes that a stage may still take, bytes that its folder holds from before)."""
        folder = self.folder(options)
        # A run's own folder is made by the run.
        held = 0 if options.cache is True else held_bytes(folder)
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
        most = min(int(options.max_gib * 2**30) - held, shutil.disk_usage(there).free - LEFT)
        return max(0, most - self._taken.get(folder, 0)), held

    def take(self, options: FeatureOptions, size: int) -> None:
        """A stage leaves so many bytes behind."""
        folder = self.folder(options)
        self._taken[folder] = self._taken.get(folder, 0) + size


def plan_features(
    options: FeatureOptions, cache: ShapeCache, sampled: Sampled, rooms: Rooms, *,
    steps: int | None, size: int, a_step: int, flops: int,
) -> FeaturePlan:  # fmt: skip
    """What keeping features makes of a stage whose micro-batches were run dry.

    Args:
        options: the stage's ``features``.
        cache: what the dry run asked.
        sampled: the micro-batches.
        rooms: where earlier stages left theirs; this one's are added.
        steps: updates; None where their number is not known.
        size: items of a micro-batch.
        a_step: micro-batches of an update, over all processes.
        flops: of an update that reads all its pictures' features.
    """
    looked, found = len(cache.store.known), cache.store.bytes()
    each = found / looked if looked else 0.0
    room, held = rooms.left(options)
    items, endless = sampled.items, sampled.items is None and not sampled.note
    encoding, pictures, needed, kept = None, None, None, 1.0
    if steps is not None and not sampled.note:
        # In each epoch the same pictures come again; data that never end show others all the time.
        shown = steps * a_step * size
        epoch = shown if items is None else min(items, shown)
        encoding = math.ceil(epoch / (a_step * size))
        seen = len(sampled.batches) * size
        seen = seen if items is None else min(items, seen)
        pictures, needed = round(looked * epoch / seen), round(found * epoch / seen)
        fitting = min(pictures, int(room // each)) if each else pictures
        kept = fitting / pictures if pictures else 1.0
        rooms.take(options, round(kept * needed))
    return FeaturePlan(
        folder="" if options.cache is True else str(rooms.folder(options)),
        dtype=options.dtype,
        looked=looked,
        pictures=pictures,
        picture_bytes=each,
        needed=needed,
        room=room,
        held=held,
        kept=kept,
        encoding_steps=encoding,
        reading_steps=None if steps is None or encoding is None else steps - encoding,
        endless=endless,
        flops=flops,
    )
