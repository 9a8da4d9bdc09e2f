"""What the layouts of Idefics2, Idefics3 and SmolVLM have in common, as transformers holds them.

Source: Laurençon et al. 2024, "What matters when building vision-language models?" (Idefics2) and "Building and better
understanding vision-language models" (Idefics3), Marafioti et al. 2025, "SmolVLM", and transformers' configurations.
Their processors put marks around a picture; the chat templates in the files do not say them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from sightling.interop import images
from sightling.interop.base import Folder, Layout, expect, part_config, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, language_rules, text_config, tower_of
from sightling.interop.prompts import template_of, unmarked
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.sight.tiling.tagged import AROUND, WHOLE

MARKS = (AROUND, WHOLE)
"""What processors put around a picture."""

POSITIONS = "bucketed"
"""What their towers take."""


class Idefics(Layout):
    """One of the three.

    Attributes:
        prepares: what its files name as processor and image processor.
        speaks: the chat templates that its checkpoints were trained with.
        usual: how its image processor scales where it does not say it.
    """

    prepares: ClassVar[tuple[str, str]]
    speaks: ClassVar[tuple[str, ...]]
    usual: ClassVar[str] = "lanczos"

    @abstractmethod
    def read_connector(self, told: Any, text: PreTrainedConfig, where: str) -> dict[str, Any]:
        """Our ``connector``.

        Raises:
            UserError: one that ours cannot be, by the key that says so.
        """

    @abstractmethod
    def write_connector(self, config: VisionLanguageConfig) -> dict[str, Any]:
        """The keys of ``config.json`` that say it.

        Raises:
            UserError: one that the layout cannot hold.
        """

    @abstractmethod
    def read_tiling(self, prepared: Mapping[str, Any], said: str, side: int) -> dict[str, Any]:
        """Our ``tiling`` of an image processor, for a tower of that side.

        Raises:
            UserError: pictures are prepared in a way that ours cannot follow, by the key that says so.
        """

    @abstractmethod
    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """What the image processor says of it.

        Raises:
            UserError: a tiling that the layout cannot hold.
        """

    @abstractmethod
    def connector_rules(self) -> Sequence[Rule]:
        """What its checkpoints call the connector's weights."""

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where, said = f"{folder}/config.json", f"{folder}/{images.FILE}"
        # Older files call the tower as they do the whole; transformers goes by the place where it stands.
        vision, tower = tower_of(type(told.vision_config).from_dict(told.vision_config.to_dict()), where)
        expect(vision, f"{where}: vision_config", num_channels=3)
        text = text_config(told.text_config, where, tied=told.tie_word_embeddings)
        prepared = folder.images
        expect(prepared, said, do_resize=True, do_convert_rgb=(True, None))
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text,
            encoder={"positions": POSITIONS, "normalise": images.normalise_of(prepared, said)},
            connector=self.read_connector(told, text, where),
            tiling=self.read_tiling(prepared, said, tower.image_size(vision)),
            image_token_id=told.image_token_id,
        )

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        layer = encoder_written(self.name, config, POSITIONS).layer
        vision, text = part_config(config.vision_config, self.name), config.get_text_config()
        if vision.model_type != f"{self.name}_vision":
            raise self.refuse("encoder.type", vision.model_type, f"it takes {self.name}")
        if layer != -1:
            raise self.refuse("encoder.layer", layer, "it takes the last one, behind its norm")
        return {
            "vision_config": sparse(vision),
            "text_config": sparse(text),
            "image_token_id": config.image_token_id,
            "tie_word_embeddings": config.tie_word_embeddings,
            **self.write_connector(config),
        }

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        return [
            same("encoder.tower.*", "model.vision_model.*"),
            *self.connector_rules(),
            *language_rules(config, "model.text_model."),
            same("language_model.lm_head.*", "lm_head.*"),
        ]

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        vision, tower = tower_of(config.vision_config, f"{folder}/config.json")
        pictures = VisionLanguageImageProcessor(
            image_size=tower.image_size(vision),
            patch_size=tower.patch_size(vision),
            tiling=self.spoken_tiling(config, tokenizer),
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}", self.usual),
        )
        # One of them may begin with a token that the tokenizer has not; it is none of this checkpoint's then.
        known = tokenizer.get_vocab()
        speaks = [name for name in self.speaks if TEMPLATES.get(name).begin in known] or self.speaks
        template = template_of(folder, tokenizer, speaks, MARKS)
        processor = VisionLanguageProcessor(pictures, tokenizer, template=template)
        said = folder.json("processor_config.json") or {}
        expect(said, f"{folder}/processor_config.json", image_seq_len=processor.image_processor.tile_tokens)
        return processor

    def spoken_tiling(self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """Our ``tiling``, whose tags a tokenizer may have or spell."""
        return config.tiling or {}

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        form = TEMPLATES.get(processor.template)
        if (form.image, form.before_image, form.after_image) != ("<image>", AROUND, AROUND):
            raise self.refuse("template", processor.template, f"it takes one that puts {AROUND} around <image>")
        whole, pictures = self.prepares
        return {
            images.FILE: {
                "image_processor_type": pictures,
                "processor_class": whole,
                **images.written(processor, encoder_written(self.name, config, POSITIONS).normalise),
                "do_pad": True,
                **self.write_tiling(config, processor),
            },
            "processor_config.json": {"processor_class": whole, "image_seq_len": processor.image_processor.tile_tokens},
            "chat_template.jinja": {"text": unmarked(form, MARKS).jinja()},
        }
