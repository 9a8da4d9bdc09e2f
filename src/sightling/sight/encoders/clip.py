"""CLIP's and SigLIP's towers, as transformers implements them.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP); Zhai
et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (SigLIP). SigLIP2's towers of one resolution are SigLIP's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, SiglipVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from sightling.sight.encoders.registry import register
from sightling.sight.encoders.tower import Fractions, Tower, buckets


class _Classic(Tower):
    """What the two share: a table of places, resized for another grid, and layers that take a mask."""

    buckets = stems = True

    def inner(self, tower: Any) -> Any:
        """The module that holds embeddings, layers and norms."""
        return getattr(tower, "vision_model", tower)

    def cutter(self, tower: Any) -> tuple[nn.Module, str]:
        """See the base class."""
        return self.inner(tower).embeddings, "patch_embedding"

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Patches with their places; for another size than the tower's own the table is resized (bicubic)."""
        embeddings, config = self.inner(tower).embeddings, tower.config
        size = self.image_size(config)
        if bucketed is None:
            return embeddings(pixels_NCHW, interpolate_pos_encoding=tuple(pixels_NCHW.shape[-2:]) != (size, size))
        patches_NDhw = embeddings.patch_embedding(pixels_NCHW)
        first = self.before(config)
        rows, columns = patches_NDhw.shape[-2:]
        ids_P = first + buckets(rows, columns, size // self.patch_size(config), bucketed)
        states_NPD = patches_NDhw.flatten(2).transpose(1, 2)
        if first:
            cls_N1D = embeddings.class_embedding.expand(len(states_NPD), 1, -1)
            states_NPD = torch.cat([cls_N1D.to(states_NPD.dtype), states_NPD], dim=1)
            ids_P = torch.cat([torch.zeros(first, dtype=torch.long), ids_P])
        return states_NPD + embeddings.position_embedding(ids_P.to(states_NPD.device))

    def layers(self, tower: Any) -> Iterable[nn.Module]:
        """See the base class."""
        return self.inner(tower).encoder.layers


@register("clip", "clip_vision_model")
class Clip(_Classic):
    """A CLS token before the patches, a norm before the first layer, none behind the last."""

    config_class, model_class, statistics = CLIPVisionConfig, CLIPVisionModel, "clip"

    def before(self, config: Any) -> int:
        """The CLS token."""
        return 1

    def embed(self, tower: Any, pixels_NCHW: Tensor, bucketed: Fractions | None) -> Tensor:
        """Normed, as transformers counts its hidden states."""
        return self.inner(tower).pre_layrnorm(super().embed(tower, pixels_NCHW, bucketed))


@register("siglip", "siglip_vision_model")
class Siglip(_Classic):
    """No CLS token; a norm behind the last layer."""

    config_class, model_class = SiglipVisionConfig, SiglipVisionModel

    def defaults(self) -> dict[str, Any]:
        """The pooling head is not on the way to the language model; computing it would be thrown away."""
        return {"vision_use_head": False}

    def finish(self, tower: Any, states_NPD: Tensor) -> Tensor:
        """The last norm."""
        return self.inner(tower).post_layernorm(states_NPD)
