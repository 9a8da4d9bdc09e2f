"""Qwen3-VL as transformers holds it. Source: the Qwen3-VL project (2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Qwen3VLConfig

from sightling.errors import UserError
from sightling.interop.base import LAYOUTS
from sightling.interop.qwen_vl import QwenVL
from sightling.model import VisionLanguageConfig


class Qwen3VL(QwenVL):
    """A merger with LayerNorm, and one for each inner layer; layers are counted from 0 there, and from 1 here."""

    name, config_class, architecture = "qwen3_vl", Qwen3VLConfig, "Qwen3VLForConditionalGeneration"
    merger, template, processor, newer = ("norm", "linear_fc1", "linear_fc2"), "qwen3-vl", "Qwen3VLProcessor", True

    def layers_of(self, vision: Any, where: str) -> int | list[int]:
        """The inner layers and the last.

        Raises:
            UserError: layers out of order, which transformers gives to other mergers than are listed.
        """
        told = list(vision.deepstack_visual_indexes)
        if told != sorted({*told}) or not all(0 <= index < vision.depth for index in told):
            raise UserError(
                f"{where}: deepstack_visual_indexes = {told} cannot be followed; layers from 0 to {vision.depth - 1}, "
                "each once and in order, would be right"
            )
        # Said once, by encoder.layer.
        vision.deepstack_visual_indexes = []
        return [*(index + 1 for index in told), -1] if told else -1

    def layers_told(self, config: VisionLanguageConfig, layers: Sequence[int]) -> dict[str, Any]:
        """``deepstack_visual_indexes``.

        Raises:
            UserError: another last layer, or inner ones that are not in order.
        """
        vision: Any = config.vision_config
        inner, last = [index if index >= 0 else vision.depth + 1 + index for index in layers[:-1]], layers[-1]
        if last not in (-1, vision.depth) or inner != sorted({*inner}) or (inner and inner[0] < 1):
            raise self.refuse("encoder.layer", list(layers), "it takes inner layers in order, from 1 on, and the last")
        return {"deepstack_visual_indexes": [index - 1 for index in inner]}


LAYOUTS.register("qwen3_vl")(Qwen3VL())
