"""BLIP-2 with a causal language model as transformers holds it: an EVA tower, a Q-Former, OPT.

Source: Li et al. 2023, "BLIP-2" (arXiv:2301.12597), and transformers' ``Blip2Config``. A picture is one square and
becomes as many tokens as there are queries; they stand before the text and its beginning. Checkpoints with a Flan-T5,
which reads with one half and writes with another, are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Blip2Config, Blip2QFormerConfig, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, part_config, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, text_config, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.sight.connectors.qformer import QFormerOptions

SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "cross_attention_frequency": "cross_attention_frequency",
    "hidden_dropout_prob": "dropout",
}
"""What transformers calls the Q-Former's sizes, and what we do."""

TABLES = ("vocab_size", "max_position_embeddings")
"""The sizes of its tables of words and places, where it reads any; called alike."""


class Blip2(Layout):
    """The tower's every feature behind its last norm, its CLS token among them, goes to the Q-Former.

    Attributes:
        tower: what a recipe calls the tower, and what transformers does.
        former: the Q-Former's configuration.
        processor: transformers' class.
        reads: whether the Q-Former reads the user's words.
        templates: those that write its prompts, the usual one first.
    """

    name, config_class, architecture = "blip_2", Blip2Config, "Blip2ForConditionalGeneration"
    tower: tuple[str, str] = ("eva", "blip_2_vision_model")
    former: type[PreTrainedConfig] = Blip2QFormerConfig
    processor = "Blip2Processor"
    reads = False
    templates: tuple[str, ...] = ("blip-2",)

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        text = text_config(told.text_config, where)
        if text.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or text.is_encoder_decoder:
            raise UserError(
                f"{where}: text_config: a {text.model_type!r} is no causal language model; one such as 'opt' would be "
                "right"
            )
        expect(text, f"{where}: text_config", word_embed_proj_dim=text.hidden_size)
        if not isinstance(told.image_token_index, int):
            raise UserError(f"{where}: image_token_index is missing; it is the placeholder's number")
        vision, _ = tower_of(told.vision_config, where)
        expect(vision, f"{where}: vision_config", model_type=self.tower[1])
        former = part_config(told.qformer_config, f"{where}: qformer_config")
        expect(
            former, f"{where}: qformer_config", model_type=self.former.model_type, hidden_act="gelu",
            layer_norm_eps=1e-12, use_qformer_text_input=False, intermediate_size=4 * former.hidden_size,
            attention_probs_dropout_prob=former.hidden_dropout_prob,
        )  # fmt: skip
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text,
            encoder={"keep_cls": True, "normalise": images.normalise_of(folder.images, f"{folder}/{images.FILE}")},
            connector={
                "type": "qformer",
                "queries": told.num_query_tokens,
                **{ours: getattr(former, theirs) for theirs, ours in SIZES.items()},
                **({"instruction": {key: getattr(former, key) for key in TABLES}} if self.reads else {}),
            },
            tiling=images.square_of(folder.images, vision.image_size, f"{folder}/{images.FILE}"),
            image_token_id=told.image_token_index,
        )

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options, _, layer = encoder_written(self.name, config)
        vision, text = part_config(config.vision_config, self.name), config.get_text_config()
        connector = config.connector_options()
        if not isinstance(connector, QFormerOptions) or connector.reads_text != self.reads:
            wanted = f"it takes a qformer that reads {'an' if self.reads else 'no'} instruction"
            raise self.refuse("connector", config.connector, wanted)
        if vision.model_type != self.tower[1]:
            raise self.refuse("encoder.type", vision.model_type, f"it takes an {self.tower[0]}")
        if not options.keep_cls:
            raise self.refuse("encoder.keep_cls", False, "its CLS token is among the features")
        if layer != -1:
            raise self.refuse("encoder.layer", layer, "it takes the last one, behind its norm")
        if getattr(text, "word_embed_proj_dim", text.hidden_size) != text.hidden_size:
            raise self.refuse("word_embed_proj_dim", text.word_embed_proj_dim, f"it takes {text.hidden_size}")
        sizes = {theirs: getattr(connector, ours) for theirs, ours in SIZES.items()}
        read = {} if connector.instruction is None else connector.instruction.model_dump()
        former = self.former(
            **sizes, **read, intermediate_size=4 * connector.width, attention_probs_dropout_prob=connector.dropout,
            encoder_hidden_size=vision.hidden_size,
        )  # fmt: skip
        return {
            "vision_config": sparse(vision),
            "qformer_config": sparse(former),
            "text_config": sparse(text),
            "num_query_tokens": connector.queries,
            "image_token_index": config.image_token_id,
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        return [
            same("encoder.tower.*", "vision_model.*"),
            same("connector.query_tokens", "query_tokens"),
            same("connector.qformer.*", "qformer.*"),
            same("connector.language_projection.*", "language_projection.*"),
            same("language_model.*", "language_model.*"),
        ]

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        vision, tower = tower_of(config.vision_config, f"{folder}/config.json")
        pictures = VisionLanguageImageProcessor(
            image_size=tower.image_size(vision),
            patch_size=tower.patch_size(vision),
            extra_features=1,
            tiling=config.tiling,
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}"),
        )
        expect(
            folder.json("processor_config.json") or {}, f"{folder}/processor_config.json",
            num_query_tokens=(config.connector or {})["queries"],
        )  # fmt: skip
        return VisionLanguageProcessor(pictures, tokenizer, template=self.template(folder, tokenizer))

    def template(self, folder: Folder, tokenizer: PreTrainedTokenizerFast) -> str:
        """The name of the template that writes a checkpoint's prompts.

        Raises:
            UserError: there is none.
        """
        return template_of(folder, tokenizer, self.templates)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        pictures = {
            "image_processor_type": "BlipImageProcessor",
            "processor_class": self.processor,
            **images.written(processor, encoder_written(self.name, config).normalise),
            **images.square_written(processor, self.name),
        }
        form = TEMPLATES.get(processor.template)
        if form.image != "<image>" or not form.begin_behind:
            wanted = "it takes one whose pictures, as <image>, stand before the beginning of the text"
            raise self.refuse("template", processor.template, wanted)
        queries = config.connector_options().tokens(1, 1)
        told = {"processor_class": self.processor, "num_query_tokens": queries}
        return {images.FILE: pictures, "processor_config.json": told}


LAYOUTS.register("blip_2")(Blip2())
