"""Qwen2.5-VL as transformers holds it. Source: Bai et al. 2025, "Qwen2.5-VL" (arXiv:2502.13923)."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

from sightling.interop.base import LAYOUTS
from sightling.interop.qwen_vl import QwenVL


class Qwen25VL(QwenVL):
    """A merger with RMSNorm."""

    name, config_class, architecture = "qwen2_5_vl", Qwen2_5_VLConfig, "Qwen2_5_VLForConditionalGeneration"
    norm, processor = "rms", "Qwen2_5_VLProcessor"


LAYOUTS.register("qwen2_5_vl")(Qwen25VL())
