"""Qwen2-VL as transformers holds it. Source: Wang et al. 2024, "Qwen2-VL" (arXiv:2409.12191)."""

from __future__ import annotations

from transformers import Qwen2VLConfig

from sightling.interop.base import LAYOUTS
from sightling.interop.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """A merger with LayerNorm."""

    name, config_class, architecture = "qwen2_vl", Qwen2VLConfig, "Qwen2VLForConditionalGeneration"
    out_key, processor = "hidden_size", "Qwen2VLProcessor"


LAYOUTS.register("qwen2_vl")(Qwen2VL())
