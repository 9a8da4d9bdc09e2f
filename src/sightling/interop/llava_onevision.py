"""LLaVA-OneVision as transformers holds it: LLaVA-NeXT with more shapes, and a field that is shrunk past a limit.

Source: Li et al. 2024, "LLaVA-OneVision: Easy Visual Task Transfer", and transformers' ``LlavaOnevisionConfig``.

Where a conversation holds several pictures, transformers' processor shows each of them as one square, filled up to it
with the mean colour; a picture with a budget of one tile is shown so here. Tokens of a video's frames are not pooled
two by two: what the files say of videos is kept and written back, but frames are pictures like others.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import LlavaOnevisionConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, expect
from sightling.interop.llava_next import LlavaNext
from sightling.interop.parts import encoder_written, tower_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.sight.encoders import STATISTICS, Statistics
from sightling.sight.tiling import Anyres

LIMIT = re.compile(r"anyres_max_([1-9][0-9]*)")


class LlavaOnevision(LlavaNext):
    """LLaVA-NeXT's keys."""

    name, config_class = "llava_onevision", LlavaOnevisionConfig
    architecture = "LlavaOnevisionForConditionalGeneration"
    prepares = ("LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor")
    speaks = ("llava-onevision-hf", "llava-next-qwen-hf", "llava-next-qwen")

    def read_tiling(self, told: Any, folder: Folder, side: int) -> dict[str, Any]:
        """See the base class."""
        found = LIMIT.fullmatch(told.vision_aspect_ratio)
        if found is None:
            raise UserError(
                f"{folder}/config.json: vision_aspect_ratio = {told.vision_aspect_ratio!r} cannot be followed; "
                "'anyres_max_9' would be right"
            )
        ground = _ground(images.normalise_of(folder.images, f"{folder}/{images.FILE}"))
        return {**super().read_tiling(told, folder, side), "limit": int(found[1]), "ground": ground}

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        told = super().write_config(config, processor)
        del told["image_seq_length"]
        videos = processor.tokenizer.get_vocab().get("<video>")
        return {
            **told,
            "vision_aspect_ratio": _aspect(self.scheme(config)),
            # A token that no prompt holds, where there is none for videos.
            "video_token_index": videos if videos is not None else config.get_text_config().vocab_size,
        }

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        processor = super().read_processor(config, tokenizer, folder)
        expect(
            folder.json("processor_config.json") or {}, f"{folder}/processor_config.json",
            vision_aspect_ratio=_aspect(self.scheme(config)), num_image_tokens=_tile(config, processor),
        )  # fmt: skip
        return processor

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        files = super().write_processor(config, processor)
        told = files["processor_config.json"]
        kept = ("processor_class", "image_token", "vision_feature_select_strategy")
        files["processor_config.json"] = {
            **{key: told[key] for key in kept},
            "num_image_tokens": _tile(config, processor),
            "vision_aspect_ratio": _aspect(self.scheme(config)),
            "video_token": "<video>",
        }
        side = processor.image_processor.image_size
        # transformers' processor is not made without it.
        files["video_preprocessor_config.json"] = {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "processor_class": self.prepares[0],
            "size": {"height": side, "width": side},
            **images.written(processor, encoder_written(self.name, config).normalise),
        }
        return files

    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        side = processor.image_processor.image_size
        square = {"height": side, "width": side}
        told = {**super().write_tiling(config, processor), "size": square, "crop_size": None, "do_center_crop": None}
        wanted = _ground(encoder_written(self.name, config).normalise)
        if self.scheme(config).ground != tuple(wanted):
            raise self.refuse("tiling.ground", self.scheme(config).ground, f"it takes the mean colour, {wanted}")
        return told

    def scheme(self, config: VisionLanguageConfig) -> Anyres:
        """See the base class."""
        scheme = config.tiling_scheme()
        if not isinstance(scheme, Anyres) or scheme.limit is None:
            raise self.refuse("tiling", config.tiling, "it takes anyres with unpad and a limit")
        return scheme


def _aspect(scheme: Anyres) -> str:
    return f"anyres_max_{scheme.limit}"


def _ground(normalise: Any) -> list[int]:
    """The mean colour of 0 to 255, cut off: what a picture is filled up to a square with."""
    given = STATISTICS[normalise] if isinstance(normalise, str) else Statistics.model_validate(normalise)
    return [int(level * 255) for level in given.mean]


def _tile(config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> int:
    """What the processor calls a tile's tokens: its features, the CLS token that is dropped among them."""
    vision, tower = tower_of(config.vision_config, "vision_config")
    pictures = processor.image_processor
    return (pictures.image_size // pictures.patch_size) ** 2 + tower.before(vision)


LAYOUTS.register("llava_onevision")(LlavaOnevision())
