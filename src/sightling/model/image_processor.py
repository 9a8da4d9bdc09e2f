"""Pictures to encoder inputs, saved with the model as ``preprocessor_config.json``."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from sightling.data.pictures import to_rgb
from sightling.errors import UserError, nearest
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.preprocess import RESAMPLE, to_pixels
from sightling.sight.tiling import TILINGS, Plan, check_squares


class VisionLanguageImageProcessor(BaseImageProcessor):
    """Plans a picture's encoder inputs from its size, counts its tokens, and cuts its pixels.

    Args:
        image_size: side of an encoder input in pixels.
        patch_size: side of a patch in pixels.
        extra_features: features an encoder input has beside its grid (1 for a kept CLS token).
        tiling: ``{"type": name, ...}`` of a tiling scheme.
        connector: ``{"type": name, ...}`` of a connector; it decides how many tokens a grid makes.
        resample: ``bicubic`` or ``bilinear``.

    Raises:
        UserError: an unknown tiling scheme, connector, option or resampling, or a scheme that the model cannot take.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers' contract)

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
        check_squares(self._scheme, "tiling")
        self._connector = make(CONNECTORS, self.connector, "connector")
        self._counts: dict[tuple[int, int], int] = {}

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the options, not the parts made from them."""
        return {key: value for key, value in super().to_dict().items() if not key.startswith("_")}

    def plan(self, width: int, height: int) -> Plan:
        """The encoder inputs for a picture of that size, in order."""
        return self._scheme.plan(width, height, self.image_size, self.patch_size)

    def count(self, width: int, height: int) -> int:
        """Visual tokens for a picture of that size: arithmetic only, no pixel is decoded."""
        known = self._counts.get((width, height))
        if known is None:
            known = self._counts[width, height] = self.plan(width, height).count(self._tokens)
        return known

    def _tokens(self, rows: int, columns: int) -> int:
        return self._connector.tokens(rows, columns, self.extra_features)

    def pixels(self, image: Image.Image) -> Tensor:
        """``uint8`` pixels_NCHW of one RGB picture."""
        return to_pixels(image, self.plan(*image.size), resample=self.resample)

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """transformers' way in: one picture or a list of them, PIL."""
        listed = images if isinstance(images, (list, tuple)) else [images]
        flat = [image for entry in listed for image in (entry if isinstance(entry, (list, tuple)) else [entry])]
        pixels = [self.pixels(to_rgb(image)) for image in flat]
        return BatchFeature({"pixel_values": torch.cat(pixels)})
