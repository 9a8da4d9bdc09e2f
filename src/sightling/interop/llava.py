"""LLaVA-1.5 as transformers holds it: a tower, an MLP of two layers, a language model.

Source: Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning", and transformers' ``LlavaConfig``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import LlavaConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, positions, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, head_rules, states_read, states_written, text_config, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.mlp import MLPOptions


class Llava(Layout):
    """Classic keys (``language_model.model.*``), or the newer ones (``model.language_model.*``).

    Its descendants, LLaVA-NeXT and LLaVA-OneVision, differ in their pictures and prompts.

    Attributes:
        prepares: transformers' names of its processor and of what prepares its pictures.
        speaks: chat templates of ours that its checkpoints were trained with, the usual one first.
    """

    name, config_class, architecture = "llava", LlavaConfig, "LlavaForConditionalGeneration"
    prepares = ("LlavaProcessor", "CLIPImageProcessor")
    speaks: tuple[str, ...] = ("llava-1.5-hf", "llava-1.5")

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        expect(told, where, projector_hidden_act="gelu")
        vision, tower = tower_of(told.vision_config, where)
        cls = tower.before(vision) > 0
        if told.vision_feature_select_strategy == "default" and not cls:
            raise UserError(
                f"{where}: vision_feature_select_strategy 'default' drops the first feature, but a "
                f"{vision.model_type} has no CLS token there; 'full' would be right"
            )
        prepared = folder.images
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text_config(told.text_config, where, tied=told.tie_word_embeddings),
            encoder={
                "layer": states_read(told.vision_feature_layer, vision, tower),
                "keep_cls": cls and told.vision_feature_select_strategy == "full",
                "normalise": images.normalise_of(prepared, f"{folder}/{images.FILE}"),
            },
            connector={"type": "mlp", "depth": 2, "bias": told.multimodal_projector_bias},
            tiling=self.read_tiling(told, folder, tower.image_size(vision)),
            image_token_id=told.image_token_index,
        )

    def read_tiling(self, told: Any, folder: Folder, side: int) -> dict[str, Any]:
        """Our tiling of a checkpoint whose tower's input has that side in pixels.

        Raises:
            UserError: pictures are cut in a way that ours cannot follow, by the key that says so.
        """
        return images.square_of(folder.images, side, f"{folder}/{images.FILE}")

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options, tower, layer = encoder_written(self.name, config)
        connector = make(CONNECTORS, config.connector or {}, "connector")
        if not isinstance(connector, MLPOptions) or connector.depth != 2 or connector.norm or connector.positions:
            raise self.refuse("connector", config.connector, "it takes an mlp of depth 2 without norm and positions")
        default = tower.before(config.vision_config) > 0 and not options.keep_cls
        grid = processor.image_processor.image_size // processor.image_processor.patch_size
        return {
            "vision_config": sparse(config.vision_config),
            "text_config": sparse(config.text_config),
            "image_token_index": config.image_token_id,
            "image_seq_length": connector.tokens(grid, grid, int(options.keep_cls)),
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": connector.bias,
            "vision_feature_layer": states_written(layer, config.vision_config, tower, self.name),
            "vision_feature_select_strategy": "default" if default else "full",
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        return [
            same(
                "encoder.tower.*", "vision_tower.vision_model.*", "vision_tower.*", "model.vision_tower.*",
                "model.vision_tower.vision_model.*",
            ),
            *(
                same(f"connector.layers.{ours}.*", f"{name}.*", f"model.{name}.*")
                for ours, name in (("0", "multi_modal_projector.linear_1"), ("2", "multi_modal_projector.linear_2"))
            ),
            *head_rules(config),
        ]  # fmt: skip

    def aside(self, config: VisionLanguageConfig) -> Mapping[str, Callable[[], Tensor]]:
        """Older files hold the table of positions."""
        vision, tower = tower_of(config.vision_config, self.name)
        count = (tower.image_size(vision) // tower.patch_size(vision)) ** 2 + tower.before(vision)
        return {"vision_tower.vision_model.embeddings.position_ids": positions(count)}

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        vision, tower = tower_of(config.vision_config, f"{folder}/config.json")
        pictures = VisionLanguageImageProcessor(
            image_size=tower.image_size(vision),
            patch_size=tower.patch_size(vision),
            extra_features=int(config.encoder_options().keep_cls),
            tiling=config.tiling,
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}"),
        )
        template = template_of(folder, tokenizer, self.speaks)
        return VisionLanguageProcessor(pictures, tokenizer, template=template)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        encoder = encoder_written(self.name, config)
        before = encoder.tower.before(config.vision_config)
        pictures = {
            "image_processor_type": self.prepares[1],
            "processor_class": self.prepares[0],
            **images.written(processor, encoder.normalise),
            **self.write_tiling(config, processor),
        }
        return {
            images.FILE: pictures,
            "processor_config.json": {
                "processor_class": self.prepares[0],
                "image_token": processor.tokenizer.convert_ids_to_tokens(config.image_token_id),
                "patch_size": processor.image_processor.patch_size,
                "num_additional_image_tokens": before,
                "vision_feature_select_strategy": (
                    "default" if before and not encoder.options.keep_cls else "full"
                ),
            },
        }

    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """How pictures are cut, in ``preprocessor_config.json``.

        Raises:
            UserError: a tiling that the layout cannot hold.
        """
        return images.square_written(processor, self.name)


LAYOUTS.register("llava")(Llava())
