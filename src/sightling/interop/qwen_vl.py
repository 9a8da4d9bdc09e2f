"""What the layouts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common, as transformers holds them.

Source: Wang et al. 2024, "Qwen2-VL"; Bai et al. 2025, "Qwen2.5-VL"; Qwen3-VL (2025); and transformers' configurations.
Films are not read: what a folder says of them is kept and written back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import Folder, Layout, expect, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, language_rules, text_config, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.parts import make, validate
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.merger import MergerOptions
from sightling.sight.tiling import TILINGS, Native

MARKS = {"video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
         "vision_end_token_id": "<|vision_end|>"}  # fmt: skip

VISUAL = ("visual.", "model.visual.")
TEXT = ("model.", "model.language_model.")
"""Older files' names and newer ones'."""


class QwenVL(Layout):
    """One of the three.

    Attributes:
        out_key: what its tower's configuration calls the language model's width.
        norm: the kind of its merger's norm.
        merger: what it calls the merger's norm, first and second layer.
        template: the chat template that its checkpoints were trained with.
        processor: transformers' class of its processor.
        newer: whether its files have the newer names.
    """

    out_key: ClassVar[str] = "out_hidden_size"
    norm: ClassVar[str] = "layer"
    merger: ClassVar[tuple[str, str, str]] = ("ln_q", "mlp.0", "mlp.2")
    template: ClassVar[str] = "qwen2-vl"
    processor: ClassVar[str]
    newer: ClassVar[bool] = False

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        vision, tower = tower_of(told.vision_config, where)
        expect(vision, f"{where}: vision_config", model_type=f"{self.name}_vision", in_channels=3)
        text = text_config(told.text_config, where, tied=told.tie_word_embeddings)
        expect(text, f"{where}: text_config", model_type=f"{self.name}_text", use_sliding_window=(False, None))
        layer = self.layers_of(vision, where)
        factor = int(vision.spatial_merge_size)
        connector = {"type": "merger", "factor": factor, "norm": self.norm}
        if not isinstance(layer, int):
            connector["deepstack"] = len(layer) - 1
        prepared, said = folder.images, f"{folder}/{images.FILE}"
        expect(
            prepared, said, do_resize=True, do_convert_rgb=(True, None), patch_size=tower.patch_size(vision),
            merge_size=factor, temporal_patch_size=vision.temporal_patch_size,
        )  # fmt: skip
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text,
            encoder={"layer": layer, "normalise": images.normalise_of(prepared, said)},
            connector=connector,
            tiling={"type": "native", "merge": factor, **_pixels(prepared, said)},
            image_token_id=told.image_token_id,
        )

    def layers_of(self, vision: Any, where: str) -> int | list[int]:
        """The layers whose features go on, by our count."""
        return -1

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options = encoder_written(self.name, config).options
        vision, text = config.vision_config, config.get_text_config()
        kinds = {f"{self.name}_vision": vision, f"{self.name}_text": text}
        for kind, part in kinds.items():
            if getattr(part, "model_type", None) != kind:
                raise self.refuse("a part", getattr(part, "model_type", None), f"it takes a {kind}")
        connector = make(CONNECTORS, config.connector or {}, "connector")
        factor = int(vision.spatial_merge_size)  # type: ignore[union-attr]
        wanted = MergerOptions(factor=factor, norm=self.norm, deepstack=connector.added)  # type: ignore[arg-type]
        if connector != wanted:
            wish = f"it takes a merger of factor {factor} with the norm {self.norm!r}"
            raise self.refuse("connector", config.connector, wish)
        known = processor.tokenizer.get_vocab()
        if absent := [token for token in MARKS.values() if token not in known]:
            raise self.refuse("template", processor.template, f"its tokenizer lacks {', '.join(absent)}")
        return {
            "vision_config": {
                **sparse(vision), self.out_key: text.hidden_size, **self.layers_told(config, options.layers),
            },
            "text_config": sparse(text),
            "image_token_id": config.image_token_id,
            **{key: known[token] for key, token in MARKS.items()},
            "tie_word_embeddings": config.tie_word_embeddings,
        }  # fmt: skip

    def layers_told(self, config: VisionLanguageConfig, layers: Sequence[int]) -> dict[str, Any]:
        """What the tower's configuration says of the layers that go on.

        Raises:
            UserError: other layers than the layout takes.
        """
        if tuple(layers) != (-1,):
            raise self.refuse("encoder.layer", list(layers), "it takes the last layer alone")
        return {}

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        order = -1 if self.newer else 1
        visual, text = VISUAL[::order], TEXT[::order]
        norm, first, second = self.merger
        mergers = [("connector.", "merger."), ("connector.inner.#.", "deepstack_merger_list.#.")]
        layers = (("norm", norm), ("layers.0", first), ("layers.2", second))
        return [
            same("encoder.tower.*", *(f"{one}*" for one in visual)),
            *(
                same(f"{ours}{layer}.*", *(f"{one}{theirs}{name}.*" for one in visual))
                for ours, theirs in mergers
                for layer, name in layers
            ),
            *language_rules(config, *text),
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
            tiling=config.tiling,
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}"),
        )
        template = template_of(folder, tokenizer, (self.template,))
        return VisionLanguageProcessor(pictures, tokenizer, template=template, spatial=True)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        vision: Any = config.vision_config
        factor = int(vision.spatial_merge_size)
        tiling = make(TILINGS, config.tiling or {}, "tiling")
        if not isinstance(tiling, Native) or tiling.merge != factor:
            raise self.refuse("tiling", config.tiling, f"it takes native with merge {factor}")
        pictures = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": self.processor,
            **images.written(processor, encoder_written(self.name, config).normalise),
            "patch_size": processor.image_processor.patch_size,
            "merge_size": factor,
            "temporal_patch_size": vision.temporal_patch_size,
            "size": {"shortest_edge": tiling.min_pixels, "longest_edge": tiling.max_pixels},
            # The older way, which counts where both are told.
            "min_pixels": tiling.min_pixels,
            "max_pixels": tiling.max_pixels,
        }
        return {images.FILE: pictures}


def _pixels(told: Mapping[str, Any], where: str) -> dict[str, int]:
    """The least and the most pixels of a picture, however they are told.

    Raises:
        UserError: they are none.
    """
    size = told.get("size") or {}
    known = {key: size[name] for key, name in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
             if isinstance(size, Mapping) and name in size}  # fmt: skip
    known |= {key: told[key] for key in ("min_pixels", "max_pixels") if told.get(key) is not None}
    try:
        checked = validate(Native, known, where)
    except UserError as error:
        raise UserError(f"{where}: size = {size!r} cannot be followed: {error}") from None
    return {"min_pixels": checked.min_pixels, "max_pixels": checked.max_pixels}
