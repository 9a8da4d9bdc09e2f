"""DINOv2's and DINOv3's towers, as transformers implements them.

Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision" (arXiv:2304.07193); Darcet et
al. 2023, "Vision Transformers Need Registers" (arXiv:2309.16588); Siméoni et al. 2025, "DINOv3" (arXiv:2508.10104).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower


class _Dino(Tower):
    """What they share: ImageNet's statistics, a CLS token, a norm behind the last layer."""

    statistics = "imagenet"

    def before(self, config: Any) -> int:
        """The CLS token, and registers where there are any."""
        return 1 + int(getattr(config, "num_register_tokens", 0))

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Patches with their places, CLS token and registers before them."""
        return tower.embeddings(pixels_NCHW)


@register("dinov2", "dinov2")
class Dinov2(_Dino):
    """A table of places, resized (bicubic) for another grid; layers with learned scales."""

    config_class, model_class, stems = Dinov2Config, Dinov2Model, True

    def completed(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The feed-forward's width is told as a ratio here."""
        rest = super().completed(told)
        if "intermediate_size" not in told:
            rest.pop("intermediate_size", None)
        return rest

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """See the base class."""
        return tower.embeddings.patch_embeddings, "projection"

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.encoder.layer

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm."""
        return tower.layernorm(states_NPD)


@register("dinov2_registers", "dinov2_with_registers")
class Dinov2WithRegisters(Dinov2):
    """DINOv2 with registers behind its CLS token."""

    config_class, model_class = Dinov2WithRegistersConfig, Dinov2WithRegistersModel
    mixes = False

    def step(self, layer: nn.Module, states_NPD: Tensor, mask: Tensor | None, aside: Any) -> Tensor:
        """One layer; they take no mask."""
        result = layer(states_NPD)
        return result[0] if isinstance(result, tuple) else result


@register("dinov3", "dinov3_vit")
class Dinov3(_Dino):
    """Rotary places, which belong to one grid: inputs of several run one grid after another."""

    config_class, model_class, mixes = DINOv3ViTConfig, DINOv3ViTModel, False

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return tower.model.layer

    def aside(self, tower: Any, pixels_NCHW: Tensor) -> Any:
        """Cosines and sines of the patches' places."""
        return tower.rope_embeddings(pixels_NCHW)

    def step(self, layer: nn.Module, states_NPD: Tensor, mask: Tensor | None, aside: Any) -> Tensor:
        """One layer."""
        return layer(states_NPD, position_embeddings=aside)

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm."""
        return tower.norm(states_NPD)
