"""MiniCPM-V 4.6 as transformers holds it: slices of the picture's own shape, a tower that merges patches, a merger.

Source: the MiniCPM-V project and transformers' ``MiniCPMV4_6Config``. Its processor puts ``<image_id>0</image_id>``
before a picture and marks around overview and slices. Films are not read: what a folder says of them is kept and
written back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import MiniCPMV4_6Config, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, language_rules, text_config, tower_of
from sightling.interop.prompts import template_of, unmarked
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.spatial import SPATIAL
from sightling.model.templates import TEMPLATES
from sightling.model.templates.minicpm import NUMBER
from sightling.parts import make, validate
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.merger import MergerOptions
from sightling.sight.encoders.minicpm import merges
from sightling.sight.tiling import TILINGS
from sightling.sight.tiling.adaptive import Adaptive

FACTOR = 2
"""Side in features of the squares that its merger joins."""

MODES = {True: "16x", False: "4x"}
"""What ``downsample_mode`` says, by whether the tower merges patches, too."""

TOKENS = {
    "image_start_token": "<image>", "image_end_token": "</image>", "slice_start_token": "<slice>",
    "slice_end_token": "</slice>", "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
}  # fmt: skip
"""What its tokenizer calls the marks."""

VIDEO = "<|video_pad|>"

CUT = {"max_slice_nums": 9, "scale_resolution": 448, "slice_mode": True}
"""How its processor cuts pictures where a file does not say it."""


class MiniCPMV46(Layout):
    """Keys behind ``model.`` (``model.vision_tower.*``), the head's alone."""

    name, config_class, architecture = "minicpmv4_6", MiniCPMV4_6Config, "MiniCPMV4_6ForConditionalGeneration"

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where = f"{folder}/config.json"
        square = (FACTOR, FACTOR)
        expect(
            told, where, drop_vision_last_layer=False, merger_times=1, downsample_mode=tuple(MODES.values()),
            merge_kernel_size=(square, list(square)),
        )  # fmt: skip
        vision, tower = tower_of(told.vision_config, where)
        expect(vision, f"{where}: vision_config", model_type="minicpmv4_6_vision", num_channels=3)
        if told.image_token_id is None:
            raise UserError(f"{where}: image_token_id is missing; it says which token stands for a picture")
        if told.downsample_mode == MODES[False]:
            vision.insert_layer_id = -1
        elif vision.insert_layer_id < 0:
            raise UserError(f"{where}: insert_layer_id = {vision.insert_layer_id} cannot be followed; a layer would be")
        tower.check(vision, f"{where}: vision_config")
        text = text_config(told.text_config, where, tied=told.tie_word_embeddings)
        self._plain(text.model_type)
        prepared, said = folder.images, f"{folder}/{images.FILE}"
        expect(
            prepared, said, do_resize=True, do_convert_rgb=(True, None), use_image_id=True,
            patch_size=_patch(vision), downsample_mode=told.downsample_mode,
        )  # fmt: skip
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=text,
            encoder={"normalise": images.normalise_of(prepared, said)},
            connector={"type": "merger", "factor": FACTOR, "norm_joined": True},
            tiling={"type": "adaptive", "merge": FACTOR, **_slices(prepared, said)},
            image_token_id=told.image_token_id,
        )

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options = encoder_written(self.name, config).options
        vision: Any = config.vision_config
        if vision.model_type != "minicpmv4_6_vision":
            raise self.refuse("encoder.type", vision.model_type, "it takes a minicpmv4_6")
        if options.layers != (-1,):
            raise self.refuse("encoder.layer", options.layer, "it takes the last layer alone")
        connector = make(CONNECTORS, config.connector or {}, "connector")
        if connector != MergerOptions(factor=FACTOR, norm_joined=True):
            wanted = f"it takes a merger of factor {FACTOR} with norm_joined"
            raise self.refuse("connector", config.connector, wanted)
        self._plain(config.get_text_config().model_type)
        # A tower that merges nothing keeps the layer that it was read with, or the usual one.
        layer = {"insert_layer_id": vision.insert_layer_id} if merges(vision) else {}
        return {
            "vision_config": {key: value for key, value in sparse(vision).items() if key != "insert_layer_id"},
            "text_config": sparse(config.get_text_config()),
            "image_token_id": config.image_token_id,
            "video_token_id": processor.tokenizer.get_vocab().get(VIDEO),
            **layer,
            "downsample_mode": MODES[merges(vision)],
            "drop_vision_last_layer": False,
            "merge_kernel_size": [FACTOR, FACTOR],
            "merger_times": 1,
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    def _plain(self, kind: str) -> None:
        """Its language models number tokens one by one.

        Raises:
            UserError: one that is told each token's row and column.
        """
        if kind in SPATIAL:
            raise self.refuse("language_model.type", kind, "it takes one that numbers its tokens one by one")

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        merger = {"norm": "pre_norm", "layers.0": "linear_1", "layers.2": "linear_2"}
        return [
            same("encoder.tower.*", "model.vision_tower.*", "vision_tower.*"),
            *(
                same(f"connector.{ours}.*", f"model.merger.mlp.0.{theirs}.*", f"merger.mlp.0.{theirs}.*")
                for ours, theirs in merger.items()
            ),
            *language_rules(config, "model.language_model.", "language_model."),
            same("language_model.lm_head.*", "lm_head.*"),
        ]

    def read_processor(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast, folder: Folder
    ) -> VisionLanguageProcessor:
        """See the base class."""
        vision, tower = tower_of(config.vision_config, f"{folder}/config.json")
        expect(
            {key: value for key in TOKENS if (value := getattr(tokenizer, key, None)) is not None},
            f"the tokenizer in {folder}", **TOKENS,
        )  # fmt: skip
        pictures = VisionLanguageImageProcessor(
            image_size=tower.image_size(vision),
            patch_size=tower.patch_size(vision),
            tiling=config.tiling,
            connector=config.connector,
            resample=images.resample_of(folder.images, f"{folder}/{images.FILE}"),
        )
        template = template_of(folder, tokenizer, ("minicpm-v-4.6",), (NUMBER,))
        form = TEMPLATES.get(template)
        if (form.before_image, form.first_number, form.after_image) != (NUMBER, 0, ""):
            raise UserError(f"the chat template in {folder} is that of {template!r}, which does not number pictures")
        return VisionLanguageProcessor(pictures, tokenizer, template=template)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        vision, form = config.vision_config, TEMPLATES.get(processor.template)
        tiling = make(TILINGS, config.tiling or {}, "tiling")
        if not isinstance(tiling, Adaptive) or tiling.merge != FACTOR:
            raise self.refuse("tiling", config.tiling, f"it takes adaptive with merge {FACTOR}")
        if (form.before_image, form.first_number, form.after_image) != (NUMBER, 0, ""):
            wanted = f"it takes one that puts {NUMBER} before a picture, from 0 on"
            raise self.refuse("template", processor.template, wanted)
        if VIDEO not in processor.tokenizer.get_vocab():
            raise self.refuse("template", processor.template, f"its tokenizer lacks {VIDEO}")
        spoken = {**TOKENS, "image_token": form.image, "video_token": VIDEO}
        return {
            images.FILE: {
                "image_processor_type": "MiniCPMV4_6ImageProcessor",
                "processor_class": "MiniCPMV4_6Processor",
                **images.written(processor, encoder_written(self.name, config).normalise),
                "max_slice_nums": tiling.max_slices,
                "scale_resolution": tiling.scale or processor.image_processor.image_size,
                "slice_mode": tiling.max_slices > 1,
                "patch_size": _patch(vision),
                "downsample_mode": MODES[merges(vision)],
                "use_image_id": True,
            },
            "processor_config.json": {"processor_class": "MiniCPMV4_6Processor"},
            # The processor numbers pictures; the template must not, too.
            "chat_template.jinja": {"text": unmarked(form, (NUMBER,)).jinja()},
            "tokenizer_config.json": {"extra_special_tokens": spoken},
        }


def _patch(vision: Any) -> int:
    """Side of a patch in pixels, before any are merged."""
    return int(vision.patch_size)


def _slices(prepared: Mapping[str, Any], where: str) -> dict[str, Any]:
    """How pictures are cut, as options of the tiling.

    Raises:
        UserError: numbers that cannot be.
    """
    told = {key: prepared.get(key, value) for key, value in CUT.items()}
    slices = {"max_slices": told["max_slice_nums"] if told["slice_mode"] else 1, "scale": told["scale_resolution"]}
    validate(Adaptive, slices, where)
    return slices


LAYOUTS.register("minicpmv4_6")(MiniCPMV46())
