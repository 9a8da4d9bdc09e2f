"""LLaVA-NeXT as transformers holds it: LLaVA-1.5 on tiles of a preset shape, whose tokens become one field.

Source: the LLaVA-NeXT project (Liu et al. 2024, "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge") and
transformers' ``LlavaNextConfig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import LlavaNextConfig

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, expect
from sightling.interop.keys import Rule, same
from sightling.interop.llava import Llava
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.sight.tiling import Anyres

PINS = "image_grid_pinpoints"


class LlavaNext(Llava):
    """LLaVA's keys, and ``image_newline``. The first of the tiles is the whole picture."""

    name, config_class, architecture = "llava_next", LlavaNextConfig, "LlavaNextForConditionalGeneration"
    prepares = ("LlavaNextProcessor", "LlavaNextImageProcessor")
    speaks: tuple[str, ...] = (
        "llava-next-vicuna", "llava-next-mistral", "llava-next-chatml", "llava-next-qwen", "llava-1.5-hf",
        "llava-next-chatml-hf", "llava-next-qwen-hf",
    )  # fmt: skip

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        config = super().read_config(told, folder)
        if config.encoder_options().keep_cls:
            raise UserError(
                f"{folder}/config.json: vision_feature_select_strategy 'full' keeps the CLS token, but only a square "
                "of features can be laid into one field; 'default' would be right"
            )
        return config

    def read_tiling(self, told: Any, folder: Folder, side: int) -> dict[str, Any]:
        """See the base class."""
        prepared, said = folder.images, f"{folder}/{images.FILE}"
        expect(prepared, said, do_resize=True, do_convert_rgb=(True, None))
        for key in ("size", "crop_size"):
            size = prepared.get(key)
            if isinstance(size, int):
                size = {"shortest_edge": size}
            if size is not None and (not isinstance(size, dict) or set(size.values()) != {side}):
                raise UserError(f"{said}: {key} = {size!r} does not make the tower's square of {side} pixels")
        pins = told.image_grid_pinpoints
        expect(prepared, said, image_grid_pinpoints=[list(pin) for pin in pins])
        for pin in pins:
            if len(pin) != 2 or any(length < side or length % side for length in pin):
                raise UserError(
                    f"{folder}/config.json: {PINS} holds {list(pin)}, which is no grid of squares of {side} pixels"
                )
        shapes = [[height // side, width // side] for height, width in pins]
        return {"type": "anyres", "shapes": shapes, "unpad": True}

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        told = super().write_config(config, processor)
        return {**told, PINS: self._pins(config, processor)}

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        return [same("connector.row_end", "image_newline", "model.image_newline"), *super().rules(config)]

    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        side = processor.image_processor.image_size
        square = {"height": side, "width": side}
        return {
            PINS: self._pins(config, processor),
            "size": {"shortest_edge": side},
            "crop_size": square,
            "do_center_crop": True,
            "do_pad": True,
        }

    def scheme(self, config: VisionLanguageConfig) -> Anyres:
        """The tiling.

        Raises:
            UserError: another than the layout holds.
        """
        scheme = config.tiling_scheme()
        if not isinstance(scheme, Anyres) or not scheme.unpad or scheme.limit is not None or scheme.ground is not None:
            raise self.refuse("tiling", config.tiling, "it takes anyres with unpad, without limit and ground")
        return scheme

    def _pins(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> list[list[int]]:
        side = processor.image_processor.image_size
        return [[rows * side, columns * side] for rows, columns in self.scheme(config).listed()]


LAYOUTS.register("llava_next")(LlavaNext())
