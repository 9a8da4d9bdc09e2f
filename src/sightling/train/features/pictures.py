"""The pictures of a batch: each distinct one once, by its pixels or by the features that are kept of it.

Legend: ``I`` distinct pictures, ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels, ``S`` features of all of a
picture's inputs, ``D`` width; ``B`` pictures of pairs, ``P`` features of a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sightling.data.sample import Picture
from sightling.model.inputs import OWN, Inputs, words_of
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.vision import Features
from sightling.sight.tiling import Plan, Single
from sightling.train.features.cache import FeatureCache
from sightling.train.features.space import View
from sightling.train.features.store import FeatureStore

PIXELS = ("pixel_values", "image_sizes", "qformer_input_ids", "qformer_attention_mask")
"""What a model's loss is given where no picture appears twice and none is kept."""

KEYS = (*PIXELS, "appearances", "picture_keys", "kept", "kept_rows", "damage")

GLANCE = 512
"""Pixel values that two pictures are told apart by before all of them are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A picture as a document shows it.

    Attributes:
        size: (height, width, budget in tiles or 0).
        pixels: ``uint8`` pixels_NCHW of its encoder inputs; None where its features are kept.
        kept: its features_SD; None where the encoder has to see it.
        key: names its content where features are kept; empty elsewhere.
        words: the ids of the words that it is read with.
        damage: what was wrong with features that were kept of it.
        alone: whether it stands for a picture unlike any other.
    """

    size: tuple[int, int, int]
    pixels: Tensor | None
    kept: Tensor | None = None
    key: str = ""
    words: tuple[int, ...] = ()
    damage: str = ""
    alone: bool = False

    def read_with(self, words: tuple[int, ...]) -> Shown:
        """The same picture, read with words."""
        return replace(self, words=words) if words else self


def show(
    picture: Picture, processor: VisionLanguageProcessor, store: FeatureStore | None, view: View = "tiles"
) -> Shown:  # fmt: skip
    """A picture by its features, if they are kept; else by its pixels, which are decoded and cut only then.

    Raises:
        UserError: the picture cannot be read.
    """
    key, damage = "", ""
    if store is not None:
        key = picture.key()
        kept, damage = store.read(key)
        if kept is not None:
            width, height = picture.size()
            return Shown((height, width, picture.tiles or OWN), None, kept, key)
    image = picture.load()
    images = processor.image_processor
    pixels = images.whole(image) if view == "whole" else images.pixels(image, picture.tiles)
    return Shown((image.height, image.width, picture.tiles or OWN), pixels, key=key, damage=damage)


def gather(shown: Sequence[Shown], once: bool = True) -> dict[str, Any]:
    """Pictures in the order of their placeholders, by the names of :data:`KEYS`.

    Without ``once`` every place's picture counts as distinct.

    ``pixel_values`` are of the distinct pictures that the encoder has to see, ``image_sizes`` of all distinct ones,
    ``picture_keys`` too, where features are kept; ``kept`` are all that were found, one picture's behind another's, and
    ``kept_rows`` how many each picture has. ``appearances`` says of each place which distinct picture it shows, None
    where each shows its own. Words are of each place, because a picture may be read with several.
    """
    batch: dict[str, Any] = dict.fromkeys(KEYS)
    if not shown:
        return batch
    places: dict[Any, list[Shown]] = {}
    distinct: list[Shown] = []
    numbers: dict[int, int] = {}
    appearances = []
    for one in shown:
        alike = places.setdefault(_glance(one), [])
        known = next((other for other in alike if once and _same(one, other)), None)
        if known is None:
            alike.append(one)
            numbers[id(one)] = len(distinct)
            distinct.append(one)
        appearances.append(numbers[id(one if known is None else known)])
    sizes_I3 = torch.tensor([one.size for one in distinct])
    unseen = [Inputs(one.pixels, sizes_I3[:0]) for one in distinct if one.pixels is not None]
    batch["pixel_values"] = Inputs.join(unseen).pixels if unseen else None
    batch["image_sizes"] = sizes_I3
    if any(one.words for one in shown):
        batch |= words_of([one.words for one in shown])
    if len(distinct) < len(shown):
        batch["appearances"] = appearances
    if any(one.key for one in shown):
        found = [one.kept for one in distinct if one.kept is not None]
        # One tensor, since each that a data worker sends takes an open file.
        batch["kept"] = torch.cat(found) if found else None
        batch["kept_rows"] = [0 if one.kept is None else len(one.kept) for one in distinct]
        batch["picture_keys"] = [one.key for one in distinct]
        batch["damage"] = [one.damage for one in distinct]
    return batch


def look(model: Any, batch: dict[str, Any], cache: FeatureCache | None) -> dict[str, Any]:
    """The batch's pictures as arguments of ``supervised_loss``: pixels, or visual tokens where the encoder was spared.

    Args:
        model: a :class:`~sightling.model.modeling.VisionLanguageModel`.
        batch: what :func:`gather` made, among others.
        cache: where features are kept; None where they are not.
    """
    if batch["picture_keys"] is None and batch["appearances"] is None:
        return {name: batch[name] for name in PIXELS}
    seen = _seen(model, batch, cache, model.plans(batch["image_sizes"]))
    appearances = batch["appearances"] or range(len(seen))
    words = batch["qformer_input_ids"], batch["qformer_attention_mask"]
    return {"image_features": model.connected([seen[number] for number in appearances], *words)}


def squares(shown: Sequence[Shown]) -> Tensor:
    """``uint8`` pixels_BCHW of pictures that are shown whole, where none are kept."""
    return torch.cat([one.pixels for one in shown if one.pixels is not None])


def square_features(model: Any, batch: dict[str, Any], cache: FeatureCache | None) -> Tensor:
    """Features_BPD of the batch's pictures, which the encoder sees as squares (:data:`.space.View`), in their order.

    Args:
        model: a :class:`~sightling.model.modeling.VisionLanguageModel`.
        batch: what :func:`gather` made of pictures shown whole, among others.
        cache: where features are kept; None where they are not.
    """
    if batch["picture_keys"] is None and batch["appearances"] is None:
        return model.encoder(batch["pixel_values"])
    side, patch = model.encoder.image_size, model.encoder.patch_size
    plans = [Single().plan(width, height, side, patch) for height, width, _ in batch["image_sizes"].tolist()]
    features_IPD = torch.stack([one.tiles[0] for one in _seen(model, batch, cache, plans)])
    return features_IPD if batch["appearances"] is None else features_IPD[batch["appearances"]]


def _seen(model: Any, batch: dict[str, Any], cache: FeatureCache | None, plans: Sequence[Plan]) -> list[Features]:
    """What the encoder makes, or made, of each distinct picture, cut by these plans."""
    if cache is None:
        return model.encoded(batch["pixel_values"], plans, len(batch["pixel_values"]))
    cache.note_damage(batch["damage"])
    keys, rows = batch["picture_keys"], batch["kept_rows"]
    unseen = [number for number, count in enumerate(rows) if not count]
    parts = batch["kept"].split([count for count in rows if count]) if batch["kept"] is not None else ()
    found: dict[int, Tensor] = dict(zip([number for number, count in enumerate(rows) if count], parts))
    pixels = dict(zip(unseen, batch["pixel_values"].split([len(plans[number]) for number in unseen]))) if unseen else {}
    for number in unseen:
        # It may have been kept since a data worker looked, which is several batches ahead.
        late_SD = cache.ask(keys[number])
        if late_SD is not None:
            found[number] = late_SD
    unseen = [number for number in unseen if number not in found]
    if unseen:
        pixels_NCHW = torch.cat([pixels[number] for number in unseen])
        with torch.no_grad():
            new = model.encoded(pixels_NCHW, [plans[number] for number in unseen], len(pixels_NCHW))
        for number, features in zip(unseen, new, strict=True):
            found[number] = cache.keep(keys[number], torch.cat(features.tiles))
    cache.read += len(plans) - len(unseen)
    cache.computed += len(unseen)
    # Under autocast an encoder may give another type, which the connector's first product would make the same of.
    dtype = next(model.encoder.parameters()).dtype
    features_I = [found[number].to(model.device, dtype) for number in range(len(plans))]
    return [
        Features(list(features_SD.split(model.feature_rows(plan))), plan)
        for features_SD, plan in zip(features_I, plans, strict=True)
    ]


def _glance(one: Shown) -> Any:
    """What equal pictures have equal, quickly told."""
    if one.alone or one.key or one.pixels is None:
        return one.key or object()
    flat = one.pixels.reshape(-1)
    return one.size, one.pixels.shape, flat[:: max(1, len(flat) // GLANCE)].numpy().tobytes()


def _same(one: Shown, other: Shown) -> bool:
    """Whether two pictures at which one glances alike are the same; those with keys are."""
    if one is other or one.key:
        return True
    return one.pixels is not None and other.pixels is not None and torch.equal(one.pixels, other.pixels)
