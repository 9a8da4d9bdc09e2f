"""Pictures to encoder inputs, saved with the model as ``preprocessor_config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from sightling.data.pictures import to_rgb
from sightling.errors import UserError, nearest
from sightling.model.inputs import Inputs
from sightling.model.spatial import fields
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.encoders import Grid
from sightling.sight.preprocess import RESAMPLE, to_pixels
from sightling.sight.tiling import TILINGS, Plan, Single


class VisionLanguageImageProcessor(BaseImageProcessor):
    """Plans a picture's encoder inputs from its size, counts its tokens, and cuts its pixels.

    Args:
        image_size: side of an encoder input in pixels.
        patch_size: side of a patch in pixels.
        extra_features: features an encoder input has beside its grid (1 for a kept CLS token).
        tiling: ``{"type": name, ...}`` of a tiling scheme.
        connector: ``{"type": name, ...}`` of a connector; it decides how many tokens a grid makes.
        resample: ``bicubic``, ``bilinear`` or ``lanczos``.

    Raises:
        UserError: an unknown tiling scheme, connector, option or resampling, or a scheme that the model cannot take.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012 (transformers' contract)

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        extra_features: int = 0,
        tiling: dict | None = None,
        connector: dict | None = None,
        resample: str = "bicubic",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.extra_features = extra_features
        self.tiling = dict(tiling or {"type": "single"})
        self.connector = dict(connector or {"type": "linear"})
        self.resample = resample
        if resample not in RESAMPLE:
            raise UserError(f"there is no resampling {resample!r}; {nearest(resample, RESAMPLE)}")
        self._scheme = make(TILINGS, self.tiling, "tiling")
        self._connector = make(CONNECTORS, self.connector, "connector")
        self._known: dict[tuple[int, int, int | None], tuple[int | str, ...]] = {}

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the options, not the parts made from them."""
        return {key: value for key, value in super().to_dict().items() if not key.startswith("_")}

    @property
    def marks(self) -> tuple[str, ...]:
        """The control tokens that the tiling scheme puts between tiles."""
        return self._scheme.marks()

    @property
    def reads_text(self) -> bool:
        """Whether a picture's tokens depend on the words beside it."""
        return self._connector.reads_text

    @property
    def tile_tokens(self) -> int:
        """Visual tokens of one square of the encoder's size."""
        side = self.image_size // self.patch_size
        return self._connector.tokens(side, side, self.extra_features)

    @property
    def ahead(self) -> bool:
        """Whether words look at pictures behind them."""
        return self._connector.ahead

    def plan(self, width: int, height: int, tiles: int | None = None) -> Plan:
        """The encoder inputs for a picture of that size, in order; ``tiles`` is the picture's own budget."""
        return self._scheme.plan(width, height, self.image_size, self.patch_size, tiles)

    def pieces(self, width: int, height: int, tiles: int | None = None) -> tuple[int | str, ...]:
        """A picture in the sequence: numbers of placeholders, and words around them, in order.

        Arithmetic only, no pixel is decoded.
        """
        key = (width, height, tiles)
        if key not in self._known:
            self._known[key] = self._connector.pieces(self.plan(*key), self.extra_features)
        return self._known[key]

    def count(self, width: int, height: int, tiles: int | None = None) -> int:
        """Placeholders of a picture of that size, one a visual token in the sequence; words between are not counted."""
        return sum(piece for piece in self.pieces(width, height, tiles) if isinstance(piece, int))

    def fields(self, width: int, height: int, tiles: int | None = None) -> list[Grid]:
        """(rows, columns) of each encoder input's visual tokens."""
        return fields(self.plan(width, height, tiles), self._connector)

    def pixels(self, image: Image.Image, tiles: int | None = None) -> Tensor:
        """``uint8`` pixels_NCHW of one RGB picture; smaller inputs fill the upper left of their places."""
        return to_pixels(image, self.plan(*image.size, tiles), resample=self.resample)

    def whole(self, image: Image.Image) -> Tensor:
        """``uint8`` pixels_1CHW of one RGB picture as one square of the encoder's size, stretched; no tiling."""
        return to_pixels(image, Single().plan(*image.size, self.image_size, self.patch_size), resample=self.resample)

    def inputs(self, image: Image.Image, tiles: int | None = None) -> Inputs:
        """The same with the picture's size, as the model takes them."""
        return Inputs.of(self.pixels(image, tiles), image.size, tiles)

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """transformers' way in: one picture or a list of them, PIL."""
        listed = images if isinstance(images, (list, tuple)) else [images]
        flat = [image for entry in listed for image in (entry if isinstance(entry, (list, tuple)) else [entry])]
        return BatchFeature(Inputs.join([self.inputs(to_rgb(image)) for image in flat]).tensors())


def opens(pieces: Sequence[int | str]) -> bool:
    """Whether the tiling's own words stand before a picture's first placeholder."""
    return bool(pieces) and isinstance(pieces[0], str)
