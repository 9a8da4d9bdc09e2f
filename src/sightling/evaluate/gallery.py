"""Which answers a report shows, and their pictures as data URIs: the first in order, never picked by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from sightling.data.sample import Picture
from sightling.evaluate.results import Prediction, Results

SIDE = 224
"""Pictures are shrunk to this many pixels; smaller ones stay as they are."""

SMALL = 160 * 160
"""Pictures of at most so many pixels are kept without loss."""

WRONG, RIGHT, CAPTIONS = 8, 4, 6
"""How many answers of a family are shown."""


@dataclass(frozen=True)
class Shown:
    """An answer with its pictures."""

    prediction: Prediction
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class FamilyGallery:
    """A family's answers, wrong ones first; ``wrong`` of ``total`` were wrong."""

    family: str
    wrong: int
    total: int
    shown: tuple[Shown, ...]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return 1 - self.wrong / self.total


def galleries(results: Results) -> list[FamilyGallery]:
    """Families with exact answers, the worst first."""
    uris = _Uris()
    found = []
    for family in results.families:
        own = [one for one in results.predictions if one.item.family == family and one.caption is None]
        wrong = [one for one in own if not one.right]
        right = [one for one in own if one.right]
        chosen = [*_in_turn(wrong, WRONG), *_in_turn(right, RIGHT)]
        found.append(FamilyGallery(family, len(wrong), len(own), tuple(Shown(one, uris.of(one)) for one in chosen)))
    return sorted(found, key=lambda gallery: gallery.accuracy)


def caption_gallery(results: Results) -> list[Shown]:
    """Captions with something made up or missed first, then true ones."""
    uris = _Uris()
    own = [one for one in results.predictions if one.caption is not None]
    wrong = _in_turn([one for one in own if not one.right], CAPTIONS)
    right = _in_turn([one for one in own if one.right], CAPTIONS // 2)
    return [Shown(one, uris.of(one)) for one in (*wrong, *right)]


def _in_turn(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """The first of each language and family in turn, each picture at most once where there are enough."""
    queues: dict[tuple[str, str], list[Prediction]] = {}
    for one in predictions:
        queues.setdefault((one.item.family, one.item.language), []).append(one)
    chosen: list[Prediction] = []
    seen: set[int] = set()
    for fresh in (True, False):
        waiting = [list(queue) for queue in queues.values()]
        while any(waiting) and len(chosen) < count:
            for queue in waiting:
                while queue and (queue[0] in chosen or (fresh and queue[0].item.picture in seen)):
                    queue.pop(0)
                if queue and len(chosen) < count:
                    chosen.append(queue.pop(0))
                    seen.add(chosen[-1].item.picture)
    return chosen


class _Uris:
    """Data URIs by picture object."""

    def __init__(self) -> None:
        self._known: dict[Picture, str] = {}

    def of(self, prediction: Prediction) -> tuple[str, ...]:
        """The pictures of a question, in order."""
        found = []
        for picture in prediction.item.sample.pictures():
            if picture not in self._known:
                self._known[picture] = data_uri(picture.load())
            found.append(self._known[picture])
        return tuple(found)


def data_uri(image: Image.Image) -> str:
    """A picture, at most :data:`SIDE` pixels a side, as a data URI: PNG when small, else JPEG."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small.width * small.height <= SMALL:
        small.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        small.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
