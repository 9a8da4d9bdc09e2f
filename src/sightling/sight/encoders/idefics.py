"""The towers of Idefics2, Idefics3 and SmolVLM, as transformers implements them.

Source: Laurençon et al. 2024, "What matters when building vision-language models?" (Idefics2, arXiv:2405.02246). They
are SigLIP's, trained on with patches that take the place of the bucket of the side that they fall into, on their own
square, too; so ``positions: bucketed`` is the one way to use them.
"""

from __future__ import annotations

from transformers import Idefics2VisionConfig, Idefics3VisionConfig, SmolVLMVisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer

from sightling.sight.encoders.clip import Siglip
from sightling.sight.encoders.registry import register


@register("idefics2", "idefics2_vision")
class Idefics2(Siglip):
    """No CLS token; a norm behind the last layer; no table of places that could be resized."""

    config_class, model_class = Idefics2VisionConfig, Idefics2VisionTransformer
    interpolates = False

    def defaults(self) -> dict[str, object]:
        """None: there is no pooling head."""
        return {}


@register("idefics3", "idefics3_vision")
class Idefics3(Idefics2):
    """The same."""

    config_class, model_class = Idefics3VisionConfig, Idefics3VisionTransformer


@register("smolvlm", "smolvlm_vision")
class SmolVLM(Idefics2):
    """The same."""

    config_class, model_class = SmolVLMVisionConfig, SmolVLMVisionTransformer
