"""EVA-CLIP's tower as BLIP-2, InstructBLIP and MiniGPT-4 have it, in transformers' form.

Source: Fang et al. 2022, "EVA" (arXiv:2211.07636); Li et al. 2023, "BLIP-2" (arXiv:2301.12597).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import Blip2VisionConfig, InstructBlipVisionConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2VisionModel
from transformers.models.instructblip.modeling_instructblip import InstructBlipVisionModel

from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower

PREFIX = {r"^vision_model\.": ""}
"""How whole models call a tower's weights; transformers knows no prefix of theirs."""


class _OfWhole:
    """A tower that can be read from a whole model, too."""

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, with the names that whole models use."""
        return super().from_pretrained(path, *args, **{"key_mapping": PREFIX, **kwargs})  # type: ignore[misc]


class EvaTower(_OfWhole, Blip2VisionModel):
    """BLIP-2's."""


class EvaInstructTower(_OfWhole, InstructBlipVisionModel):
    """InstructBLIP's."""


@register("eva", "blip_2_vision_model")
class Eva(Tower):
    """A CLS token; a table of places, resized (bicubic) for another grid; a norm behind the last layer.

    Its layers take no mask, so inputs of several grids run one grid after another.
    """

    config_class, model_class, statistics, mixes = Blip2VisionConfig, EvaTower, "clip", False

    stems = True

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """See the base class."""
        return tower.embeddings, "patch_embedding"

    def before(self, config: Any) -> int:
        """The CLS token."""
        return 1

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """See the base class."""
        size = self.image_size(tower.config)
        return tower.embeddings(pixels_NCHW, interpolate_pos_encoding=tuple(pixels_NCHW.shape[-2:]) != (size, size))

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.encoder.layers

    def step(self, layer: nn.Module, states_NPD: Tensor, mask: Tensor | None, aside: Any) -> Tensor:
        """One layer."""
        result = layer(states_NPD)
        return result[0] if isinstance(result, tuple) else result

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm."""
        return tower.post_layernorm(states_NPD)


@register("eva_instruct", "instructblip_vision_model")
class EvaInstruct(Eva):
    """The same under the name that InstructBLIP's checkpoints give it."""

    config_class, model_class = InstructBlipVisionConfig, EvaInstructTower
