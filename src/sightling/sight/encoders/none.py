"""``{type: none}``: no encoder, for a model that is told in words what its pictures show.

Legend: ``N`` encoder inputs, ``C`` = 3, ``H`` ``W`` pixels, ``P`` features an input, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from sightling.errors import UserError
from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower


class NoneConfig(PreTrainedConfig):
    """A tower without layers, width and weights; its sizes are those of a picture that is never cut."""

    model_type = "sightling_none"

    hidden_size: int = 0
    num_hidden_layers: int = 0
    image_size: int = 224
    patch_size: int = 224


AutoConfig.register(NoneConfig.model_type, NoneConfig)


class NoTower(nn.Module):
    """Nothing."""

    def __init__(self, config: NoneConfig) -> None:
        super().__init__()
        self.config = config


@register("none", NoneConfig.model_type)
class NoneTower(Tower):
    """What a recipe writes as ``encoder: {type: none}``."""

    config_class, model_class, uses = NoneConfig, NoTower, False

    def configured(self, told: Mapping[str, Any], where: str) -> PreTrainedConfig:
        """See the base class.

        Raises:
            UserError: a size; there is nothing that could have one.
        """
        for key in told:
            raise UserError(f"{where} has no key {key!r}; an encoder of the type 'none' has no sizes")
        return NoneConfig()

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Features_NPD without width."""
        return pixels_NCHW.new_zeros(len(pixels_NCHW), 1, 0)

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """None."""
        return ()
