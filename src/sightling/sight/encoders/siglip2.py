"""SigLIP2's tower of native aspect ratios (NaFlex), as transformers implements it.

Source: Tschannen et al. 2025, "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding,
Localization, and Dense Features" (arXiv:2502.14786). Its towers of one resolution are SigLIP's (``siglip``).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Siglip2VisionConfig
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel

from sightling.errors import UserError
from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower


@register("siglip2", "siglip2_vision_model")
class Siglip2(Tower):
    """Patches through one matrix; a square table of places, resized (bilinear, antialiased) to each input's grid."""

    config_class, model_class = Siglip2VisionConfig, Siglip2VisionModel

    def defaults(self) -> dict[str, Any]:
        """The pooling head is not on the way to the language model; computing it would be thrown away."""
        return {"vision_use_head": False}

    def image_size(self, config: Any) -> int:
        """The square that its table of places is made for."""
        return isqrt(int(config.num_patches)) * self.patch_size(config)

    def check(self, config: Any, where: str) -> None:
        """See the base class.

        Raises:
            UserError: a table of places that is no square.
        """
        super().check(config, where)
        if isqrt(config.num_patches) ** 2 != config.num_patches:
            raise UserError(f"{where}.num_patches = {config.num_patches} is no square; its table of positions must be")

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """See the base class."""
        size = self.patch_size(tower.config)
        laid_NChwpp = pixels_NCHW.unfold(2, size, size).unfold(3, size, size)
        count, _, rows, columns = laid_NChwpp.shape[:4]
        # A patch's pixels stand row by row, the channels of each together.
        patches_NPK = laid_NChwpp.permute(0, 2, 3, 4, 5, 1).reshape(count, rows * columns, -1)
        shapes_N2 = torch.tensor([[rows, columns]] * count, device=pixels_NCHW.device)
        return tower.embeddings(patches_NPK, shapes_N2)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.encoder.layers

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm."""
        return tower.post_layernorm(states_NPD)
