"""Holding samples out for evaluation: by what they share, never row by row.

Rows about one picture answer one another's questions, and NLVR's pictures come in families that differ only in the
order of the boxes; a split at random rows would measure memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from sightling.data.sample import Picture, Sample
from sightling.errors import UserError, nearest
from sightling.parts import Part

PICTURE = "picture"


class HoldOut(Part):
    """Which side of a split to read, see :func:`hold_out`.

    Attributes:
        fraction: the share of pictures (or of values of ``by``) that is held out.
        by: ``"picture"`` or a key of ``meta``.
        seed: which ones; the same seed in training and evaluation gives two sides of one split.
        part: ``"kept"`` for training, ``"held"`` for evaluation.
    """

    fraction: float = Field(gt=0, lt=1)
    by: str = PICTURE
    seed: int = 0
    part: Literal["kept", "held"] = "kept"


def hold_out(
    samples: Sequence[Sample], fraction: float, by: str = PICTURE, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Split samples into (kept, held out) such that no value of ``by`` is on both sides.

    Which values are held out depends on the values and the seed alone, not on the samples' order, so a split stays
    what it was when a file is sorted anew. ``fraction`` is of the values, not of the samples.

    Args:
        samples: what to split; both parts keep their order.
        fraction: the share of values to hold out, in (0, 1); at least one value is held out and one kept.
        by: ``"picture"``, or a key of ``meta``. By picture, samples that share any picture (crops of one file are
            one picture) stay together, and samples without pictures are kept.
        seed: which values.

    Raises:
        UserError: a fraction outside (0, 1), a sample without the key, or fewer than two values.
    """
    keys = picture_groups(samples) if by == PICTURE else [meta_value(sample, by, n) for n, sample in enumerate(samples)]
    held = chosen(keys, fraction, by, seed)
    kept_part = [sample for sample, key in zip(samples, keys) if key is None or key not in held]
    held_part = [sample for sample, key in zip(samples, keys) if key is not None and key in held]
    return kept_part, held_part


def side(sample: Sample, split: HoldOut, root: Path | None) -> Literal["kept", "held"] | None:
    """The side of a split that a sample is on, told from itself alone, where no one sees all samples at once.

    Each value of ``by`` draws a lot of its own, so that of many values about ``fraction`` are held out. By picture, a
    sample is on a side when all of its pictures are; one with pictures of both sides is on none, so that no picture is
    on both. A picture file is told by its path from ``root``, bytes by their content.

    Raises:
        UserError: the sample lacks the key.
    """
    if split.by == PICTURE:
        values: set[Hashable] = {_name_of(picture, root) for picture in sample.pictures()}
    else:
        values = {meta_value(sample, split.by, 0)}
    held = {_lot(value, split.seed) < split.fraction for value in values}
    if len(held) == 2:
        return None
    return "held" if held == {True} else "kept"


def _name_of(picture: Picture, root: Path | None) -> str:
    """The picture's identity, wherever the data set was unpacked."""
    identity = picture_identity(picture)
    if isinstance(identity, Path):
        return Path(os.path.relpath(identity, root)).as_posix() if root is not None else str(identity)
    return identity


def _lot(value: Hashable, seed: int) -> float:
    """A number from 0 to 1 that value and seed decide."""
    return int.from_bytes(_digest(value, seed)[:8], "big") / 2**64


def _digest(value: Hashable, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{value!r}".encode()).digest()


def chosen(keys: Iterable[Hashable | None], fraction: float, by: str, seed: int) -> set[Hashable]:
    """The values to hold out; arguments and errors as :func:`hold_out`, ``None`` is never held out."""
    if not 0 < fraction < 1:
        raise UserError(f"the fraction to hold out is {fraction}; expected one between 0 and 1")
    values = {key for key in keys if key is not None}
    if len(values) < 2:
        raise UserError(f"cannot hold out by {by!r}: the samples have {len(values)} different values, and 2 are needed")
    count = min(max(1, round(fraction * len(values))), len(values) - 1)
    lots = sorted(values, key=lambda value: _digest(value, seed))
    return set(lots[:count])


def meta_value(sample: Sample, key: str, number: int) -> Hashable:
    """``sample.meta[key]``; sample ``number`` without it raises a :class:`UserError` that lists its keys."""
    if key not in sample.meta:
        known = [*sample.meta, PICTURE]
        raise UserError(f"cannot split by {key!r}: sample {number} has no such meta key; {nearest(key, known)}")
    value = sample.meta[key]
    return value if isinstance(value, (str, int, float, bool, tuple)) else repr(value)


def picture_identity(picture: Picture) -> Path | str:
    """What makes two pictures one, whatever their crop: the file, or a hash of the bytes or pixels."""
    if picture.path is not None:
        return picture.path
    if picture.data is not None:
        return hashlib.sha256(picture.data).hexdigest()
    assert picture.image is not None  # Picture holds exactly one of the three.
    image = picture.image
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def picture_groups(samples: Iterable[Sample]) -> list[str | None]:
    """A name for each sample's group: samples linked by shared pictures have the same; ``None`` without pictures."""
    # Readers share Picture objects, so most are hashed once; keeping them in the table keeps their ids theirs.
    known: dict[Picture, Path | str] = {}
    own = []
    for sample in samples:
        for picture in sample.pictures():
            if picture not in known:
                known[picture] = picture_identity(picture)
        own.append([known[picture] for picture in sample.pictures()])
    return linked(own)


def linked(pictures: Sequence[Sequence[Path | str]]) -> list[str | None]:
    """For each list of picture identities the name of its group: lists that share any, however indirectly, share it.

    Files are named relative to the folder that all of them lie in, so that a split does not depend on where a data
    set was unpacked. An empty list has no group: ``None``.
    """
    root = common_folder({one.parent for each in pictures for one in each if isinstance(one, Path)})
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        top = name
        while leader[top] != top:
            top = leader[top]
        while leader[name] != top:
            leader[name], name = top, leader[name]
        return top

    firsts: list[str | None] = []
    for each in pictures:
        names = [
            Path(os.path.relpath(one, root)).as_posix() if isinstance(one, Path) and root else str(one) for one in each
        ]
        for name in names:
            leader.setdefault(name, name)
            # The smaller name leads, so that groups are named alike in whatever order samples come.
            one_top, other_top = sorted((find(names[0]), find(name)))
            leader[other_top] = one_top
        firsts.append(names[0] if names else None)
    return [None if first is None else find(first) for first in firsts]


def common_folder(folders: Iterable[Path]) -> str:
    """The deepest folder that all the folders lie in; empty when there is none (other drives, or no folders)."""
    try:
        return os.path.commonpath([str(folder) for folder in folders])
    except ValueError:
        return ""
