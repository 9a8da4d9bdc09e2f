"""InternVL 2.5 and 3 as transformers holds them: an InternViT, pixel shuffle and an MLP, a language model.

Source: Chen et al. 2024, "Expanding Performance Boundaries of Open-Source Multimodal Models" (InternVL 2.5), and
transformers' ``InternVLConfig``. Its processor always cuts pictures into tiles, whatever ``crop_to_patches`` says in
the file, and puts ``<img>`` and ``</img>`` around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import InternVLConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, part_config, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, head_rules, text_config, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.sight.connectors.pixel_shuffle import PixelShuffleOptions
from sightling.sight.tiling.dynamic import Dynamic

AROUND = ("<img>", "</img>")


class InternVL(Layout):
    """Classic keys (``language_model.model.*``), or the newer ones (``model.language_model.*``)."""

    name, config_class, architecture = "internvl", InternVLConfig, "InternVLForConditionalGeneration"

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        expect(told, where, projector_hidden_act="gelu", vision_feature_select_strategy="default")
        vision, tower = tower_of(told.vision_config, where)
        factor = round(1 / told.downsample_ratio)
        if factor < 1 or abs(factor * told.downsample_ratio - 1) > 1e-9:
            raise UserError(f"{where}: downsample_ratio = {told.downsample_ratio} is not 1 / 2, nor 1 / a whole number")
        if not isinstance(told.vision_feature_layer, int):
            raise UserError(f"{where}: vision_feature_layer = {told.vision_feature_layer} must be one layer")
        prepared, said = folder.images, f"{folder}/{images.FILE}"
        side = tower.image_size(vision)
        expect(prepared, said, do_resize=True, size={"height": side, "width": side})
        # transformers ties by the whole's own word; where it says nothing, the language model's is meant.
        spoken = folder.config.get("text_config", {}).get("tie_word_embeddings", told.tie_word_embeddings)
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text_config(
                told.text_config, where, tied=folder.config.get("tie_word_embeddings", spoken)
            ),
            encoder={"layer": told.vision_feature_layer, "normalise": images.normalise_of(prepared, said)},
            connector={"type": "pixel_shuffle", "factor": factor, "depth": 2},
            tiling={
                "type": "dynamic",
                "min_tiles": prepared.get("min_patches", 1),
                "max_tiles": prepared.get("max_patches", 12),
                "thumbnail": True,
            },
            image_token_id=told.image_token_id,
        )

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options, _, layer = encoder_written(self.name, config)
        connector = config.connector_options()
        factor = connector.factor if isinstance(connector, PixelShuffleOptions) else 1
        if connector != PixelShuffleOptions(factor=factor):
            wanted = "it takes a pixel_shuffle of depth 2, version v2, with norm and bias"
            raise self.refuse("connector", config.connector, wanted)
        vision = part_config(config.vision_config, self.name)
        if vision.model_type != "internvl_vision":
            raise self.refuse("encoder.type", vision.model_type, "it takes an internvit")
        if options.keep_cls:
            raise self.refuse("encoder.keep_cls", True, "its CLS token is dropped")
        if not isinstance(layer, int):
            raise self.refuse("encoder.layer", layer, "it takes one layer")
        return {
            "vision_config": sparse(vision),
            "text_config": sparse(config.text_config),
            "image_token_id": config.image_token_id,
            "image_seq_length": processor.image_processor.tile_tokens,
            "downsample_ratio": 1 / factor,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": layer,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        projector = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
        names = {ours: f"multi_modal_projector.{one}.*" for ours, one in projector.items()}
        return [
            same("encoder.tower.*", "vision_tower.*", "model.vision_tower.*"),
            *(same(f"connector.layers.{ours}.*", name, f"model.{name}") for ours, name in names.items()),
            *head_rules(config),
        ]

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        vision, tower = tower_of(config.vision_config, f"{folder}/config.json")
        pictures = VisionLanguageImageProcessor(
            image_size=tower.image_size(vision),
            patch_size=tower.patch_size(vision),
            tiling=config.tiling,
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}"),
        )
        names = ("start_image_token", "end_image_token")
        around = [token for name in names if (token := getattr(tokenizer, name, None)) is not None] or AROUND
        template = template_of(folder, tokenizer, ("internvl",), around)
        processor = VisionLanguageProcessor(pictures, tokenizer, template=template)
        expect(
            folder.json("processor_config.json") or {}, f"{folder}/processor_config.json",
            image_seq_length=processor.image_processor.tile_tokens,
        )  # fmt: skip
        return processor

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        pictures, form = processor.image_processor, TEMPLATES.get(processor.template)
        before, after = form.before_image.strip("\n"), form.after_image.strip("\n")
        if before not in form.control or after not in form.control:
            wanted = "it takes one that puts a control token before a picture and one behind it"
            raise self.refuse("template", processor.template, wanted)
        side = pictures.image_size
        return {
            images.FILE: {
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "InternVLProcessor",
                "crop_to_patches": True,
                "size": {"height": side, "width": side},
                **images.written(processor, encoder_written(self.name, config).normalise),
                **self._tiles(config),
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": pictures.tile_tokens},
            # The processor puts these around a picture; the template must not say them, too.
            "chat_template.jinja": {"text": form.jinja().replace(before, "").replace(after, "")},
            "tokenizer_config.json": {
                "extra_special_tokens": {
                    "start_image_token": before,
                    "end_image_token": after,
                    "context_image_token": form.image,
                    "video_token": form.image,
                }
            },
        }

    def _tiles(self, config: VisionLanguageConfig) -> dict[str, int]:
        scheme = config.tiling_scheme()
        if isinstance(scheme, Dynamic) and (scheme.thumbnail or scheme.max_tiles == 1):
            return {"min_patches": scheme.min_tiles, "max_patches": scheme.max_tiles}
        if config.tiling in ({"type": "single"}, {"type": "single", "fit": "stretch"}):
            return {"min_patches": 1, "max_patches": 1}
        raise self.refuse("tiling", config.tiling, "it takes dynamic with a thumbnail, or single with fit stretch")


LAYOUTS.register("internvl")(InternVL())
