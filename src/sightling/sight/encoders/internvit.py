"""InternViT, as transformers' InternVL holds it.

Source: Chen et al. 2024, "InternVL: Scaling up Vision Foundation Models and Aligning for Generic Visual-Linguistic
Tasks".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower


@register("internvit", "internvl_vision")
class InternViT(Tower):
    """A CLS token, layers with learned scales; places are resized (bicubic) for another grid.

    Its layers take no mask, so inputs of several grids run one grid after another.
    """

    config_class, model_class, statistics, mixes = InternVLVisionConfig, InternVLVisionModel, "imagenet", False

    stems = True

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """See the base class."""
        return tower.embeddings.patch_embeddings, "projection"

    def before(self, config: Any) -> int:
        """The CLS token."""
        return 1

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """See the base class."""
        return tower.embeddings(pixels_NCHW)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.encoder.layer

    def step(self, layer: nn.Module, states_NPD: Tensor, mask: Tensor | None, aside: Any) -> Tensor:
        """One layer."""
        return layer(states_NPD)

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm, where there is one."""
        return tower.layernorm(states_NPD)
