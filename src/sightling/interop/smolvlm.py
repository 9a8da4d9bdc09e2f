"""SmolVLM2 as transformers holds it: Idefics3's layout under other names.

Films are not read: what a folder says of them is kept and written back.
"""

from __future__ import annotations

from transformers import SmolVLMConfig

from sightling.interop.base import LAYOUTS
from sightling.interop.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """Idefics3's keys."""

    name, config_class, architecture = "smolvlm", SmolVLMConfig, "SmolVLMForConditionalGeneration"
    prepares = ("SmolVLMProcessor", "SmolVLMImageProcessor")
    speaks = ("smolvlm", "idefics3")


LAYOUTS.register("smolvlm")(SmolVLM())
