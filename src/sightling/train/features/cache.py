"""A frozen encoder's features during a stage: where they are kept, what is told of them, and which are new.

Legend: ``S`` features of all of a picture's encoder inputs, one after another, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from sightling.errors import UserError
from sightling.train.features.options import FOLDER, FeatureOptions
from sightling.train.features.space import View, differences, space_of
from sightling.train.features.store import FeatureStore
from sightling.train.progress import short_bytes

Say = Callable[[str], None]


class FeatureCache:
    """The features of one stage, as its training process sees them; the data workers see the :attr:`store` alone.

    Attributes:
        store: the disk.
        read: pictures whose features were read, once a micro-batch.
        computed: pictures that the encoder saw, once a micro-batch.
        damaged: entries that were there and could not be used.
    """

    def __init__(self, store: FeatureStore, dtype: torch.dtype, say: Say) -> None:
        self.store, self.dtype, self.say = store, dtype, say
        self.read = self.computed = self.damaged = 0
        self._told_full = False

    def __getstate__(self) -> dict[str, Any]:
        """Data workers are given it with the objective, and say nothing themselves."""
        return {**self.__dict__, "say": None}

    def ask(self, key: str) -> Tensor | None:
        """Features_SD of a picture that a data worker did not find, if they have come since."""
        found, damage = self.store.read(key)
        self.note_damage([damage])
        return found

    def note_damage(self, told: list[str]) -> None:
        """Count entries that could not be used, and tell of the first."""
        for damage in filter(None, told):
            if not self.damaged:
                self.say(f"kept features are damaged and are computed anew ({damage})")
            self.damaged += 1

    def keep(self, key: str, features_SD: Tensor) -> Tensor:
        """Write what the encoder made of a picture; returns it as it will be read, on its own device.

        Raises:
            UserError: values that are beyond what it is kept in.
        """
        kept_SD = features_SD.detach().to(self.dtype)
        if not bool(torch.isfinite(kept_SD).all()) and bool(torch.isfinite(features_SD).all()):
            most = float(features_SD.abs().max())
            raise UserError(f"the encoder's features reach {most:.3g}, which {self.dtype} cannot hold; set "
                            "features.dtype to bfloat16 or float32")  # fmt: skip
        self.store.write(key, kept_SD.cpu())
        if self.store.full and not self._told_full:
            self._told_full = True
            self.say(f"no more features are kept in {self.store.root}: {self.store.full}; pictures that are not there "
                     "go through the encoder each time")  # fmt: skip
        return kept_SD

    def report(self, stage: str, accelerator: Accelerator) -> None:
        """Tell how often features were read and computed in a stage, over all processes."""
        mine = [(self.read, self.computed, self.damaged)]
        told = gather_object(mine) if accelerator.num_processes > 1 else mine
        read, computed, damaged = map(sum, zip(*told, strict=True))
        broken = f" ({damaged:,} were damaged)" if damaged else ""
        self.say(f"features of stage {stage}: {read:,} read, {computed:,} computed{broken}; "
                 f"{short_bytes(self.store.bytes())} in {self.store.root}")  # fmt: skip


def check_encoder(model: Any, where: str) -> None:
    """Refuse to keep features of a model that has no encoder.

    Raises:
        UserError: it has none.
    """
    if not model.encoder.width:
        raise UserError(f"{where}.features keeps what an encoder makes of pictures, and this model has none")


def open_features(
    options: FeatureOptions | None, model: Any, processor: Any, view: View, bf16: bool, run: Path, say: Say, where: str
) -> FeatureCache | None:
    """The cache that a stage asks for, told of in a line; None where it asks for none.

    Args:
        options: the stage's ``features``.
        model: the model, whose encoder is frozen.
        processor: its processor.
        view: how the stage's objective has the encoder see pictures.
        bf16: whether the stage's matrix products are in bfloat16.
        run: the run's folder.
        say: prints a line, on the first process alone.
        where: the stage, for what is wrong.

    Raises:
        UserError: a model without an encoder, or a folder that cannot be written to.
    """
    if options is None or not options.cache:
        return None
    check_encoder(model, where)
    root = run / FOLDER if options.cache is True else Path(str(options.cache)).expanduser()
    space = space_of(model, processor, view, bf16, options.dtype)
    try:
        store = FeatureStore(root, space, int(options.max_gib * 2**30))
    except UserError as error:
        raise UserError(f"{where}.{error}") from None
    dtype: torch.dtype = getattr(torch, options.dtype)
    if store.entries:
        word = "picture" if store.entries == 1 else "pictures"
        say(f"features of {store.entries:,} {word} are kept in {root}, as {options.dtype}")
    else:
        say(f"features are kept in {root}, as {options.dtype}, {options.max_gib:g} GiB at most")
        for folder, about, size in store.others():
            say(f"{short_bytes(size)} of features there are not this stage's, which computes its own: "
                f"{differences(space, about)} differ; delete {folder} to make room")  # fmt: skip
            break
    return FeatureCache(store, dtype, say)
