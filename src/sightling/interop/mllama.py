"""Llama 3.2 Vision as transformers holds it ("Mllama"): tiles looked at together, gated layers in the language model.

Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models" (arXiv:2407.21783, section 7), and transformers'
``MllamaConfig``. There the gated layers are numbered among the language model's own: ``cross_attention_layers`` says
which of ``num_hidden_layers`` they are. Here they stand before layers of a language model that is counted without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import MllamaConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, part_config, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import CLASSIC, NEWER, encoder_written, text_config, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.sight.connectors import CrossAttentionOptions
from sightling.sight.tiling import Canvas

MODEL = "mllama_text_model"


class Mllama(Layout):
    """A tower with its CLS token, one linear layer, gated layers; a placeholder has no row in the output head."""

    name, config_class, architecture = "mllama", MllamaConfig, "MllamaForConditionalGeneration"

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        vision, tower = tower_of(told.vision_config, where)
        expect(vision, f"{where}: vision_config", model_type="mllama_vision_model")
        tower.check(vision, f"{where}: vision_config")
        # The head has fewer rows than the embeddings; transformers ties nothing, whatever the file says.
        text = text_config(told.text_config, where, tied=False)
        expect(text, f"{where}: text_config", model_type=MODEL)
        layers = _places(text.cross_attention_layers, text.num_hidden_layers, f"{where}: text_config")
        text.num_hidden_layers -= len(layers)
        text.cross_attention_layers = []
        prepared, said = folder.images, f"{folder}/{images.FILE}"
        side = tower.image_size(vision)
        expect(
            prepared, said, do_resize=True, do_pad=True, do_convert_rgb=(True, None),
            size={"height": side, "width": side}, max_image_tiles=vision.max_num_tiles,
        )  # fmt: skip
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text,
            encoder={"keep_cls": True, "normalise": images.normalise_of(prepared, said)},
            connector={"type": "cross_attention", "layers": layers, "before": "all"},
            tiling={"type": "canvas", "max_tiles": vision.max_num_tiles},
            image_token_id=told.image_token_index,
        )

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options, _, _ = encoder_written(self.name, config)
        vision, text = part_config(config.vision_config, self.name), config.get_text_config()
        if vision.model_type != "mllama_vision_model":
            raise self.refuse("encoder.type", vision.model_type, "it takes a mllama")
        if not options.keep_cls:
            raise self.refuse("encoder.keep_cls", False, "its CLS token is among the features")
        if text.model_type != MODEL:
            raise self.refuse("language_model.type", text.model_type, f"it takes a {MODEL}")
        places = self._connector(config).places(text.num_hidden_layers)
        return {
            "vision_config": sparse(vision),
            "text_config": {
                **sparse(text),
                "num_hidden_layers": text.num_hidden_layers + len(places),
                "cross_attention_layers": [place + number for number, place in enumerate(places)],
            },
            "image_token_index": config.image_token_id,
        }

    def _connector(self, config: VisionLanguageConfig) -> CrossAttentionOptions:
        """The connector.

        Raises:
            UserError: another than the layout holds.
        """
        connector = config.connector_options()
        if not isinstance(connector, CrossAttentionOptions):
            raise self.refuse("connector", config.connector, "it takes a cross_attention")
        plain = CrossAttentionOptions(every=connector.every, layers=connector.layers, before="all")
        for key in type(connector).model_fields:
            if getattr(connector, key) != getattr(plain, key):
                raise self.refuse(f"connector.{key}", getattr(connector, key), f"it takes {getattr(plain, key)!r}")
        return connector

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        places = self._connector(config).places(config.get_text_config().num_hidden_layers)
        made = [
            same("encoder.tower.*", "vision_model.*", "model.vision_model.*"),
            same("connector.projection.*", "multi_modal_projector.*", "model.multi_modal_projector.*"),
        ]
        for number, place in enumerate(places):
            made.append(_numbered(f"connector.gated.layers.{number}.*", place + number))
        for layer in range(config.get_text_config().num_hidden_layers):
            # So many of the gated layers stand before it, the one that is right before it among them.
            before = sum(place <= layer for place in places)
            made.append(_numbered(f"language_model.model.layers.{layer}.*", layer + before))
        return [
            *made,
            same("language_model.model.*", f"{CLASSIC}*", f"{NEWER}*"),
            same("language_model.lm_head.*", "language_model.lm_head.*", "lm_head.*"),
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
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}", "bilinear"),
        )
        template = template_of(folder, tokenizer, ("llama-3.2-vision",))
        return VisionLanguageProcessor(pictures, tokenizer, template=template)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        scheme, vision = config.tiling_scheme(), part_config(config.vision_config, self.name)
        if not isinstance(scheme, Canvas) or scheme.max_tiles != vision.max_num_tiles:
            wanted = f"it takes canvas with max_tiles {vision.max_num_tiles}, as many as the tower's max_num_tiles"
            raise self.refuse("tiling", config.tiling, wanted)
        form = TEMPLATES.get(processor.template)
        if form.before_image or form.after_image or form.begin not in form.control or form.begin_behind:
            wanted = "it takes one that begins with a control token and shows a picture with its placeholder alone"
            raise self.refuse("template", processor.template, wanted)
        side = processor.image_processor.image_size
        # Its processor asks the tokenizer for both, and looks for the beginning in every prompt.
        spoken: dict[str, Any] = {"bos_token": form.begin}
        if form.image != "<|image|>":
            spoken["extra_special_tokens"] = {"image_token": form.image}
        return {
            images.FILE: {
                "image_processor_type": "MllamaImageProcessor",
                "processor_class": "MllamaProcessor",
                "do_pad": True,
                "size": {"height": side, "width": side},
                "max_image_tiles": scheme.max_tiles,
                **images.written(processor, encoder_written(self.name, config).normalise),
            },
            "processor_config.json": {"processor_class": "MllamaProcessor"},
            "tokenizer_config.json": spoken,
        }


def _places(numbers: Sequence[int], depth: int, where: str) -> list[int]:
    """Before which layers, counted without the gated ones, these stand.

    Raises:
        UserError: a layer that there is not, or a gated one that has none but a gated one behind it.
    """
    ordered = sorted({*numbers})
    if not ordered:
        raise UserError(f"{where}: cross_attention_layers is empty; it names at least one layer")
    if list(numbers) != ordered or ordered[0] < 0 or ordered[-1] >= depth:
        raise UserError(
            f"{where}: cross_attention_layers = {list(numbers)} must ascend, from 0 to {depth - 1} at most"
        )
    for number in ordered:
        if number + 1 in ordered or number == depth - 1:
            raise UserError(
                f"{where}: cross_attention_layers names {number}, but no other layer stands right behind it; that "
                "cannot be followed"
            )
    return [number - before for before, number in enumerate(ordered)]


def _numbered(ours: str, number: int) -> Rule:
    return same(ours, *(f"{prefix}layers.{number}.*" for prefix in (CLASSIC, NEWER)))


LAYOUTS.register("mllama")(Mllama())
