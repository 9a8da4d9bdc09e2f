"""MiniCPM-V 2.6 in its own form: ``vpm.*``, ``resampler.*`` and ``llm.*``, which transformers has no class for.

Source: Yao et al. 2024, "MiniCPM-V: A GPT-4V Level MLLM on Your Phone" (arXiv:2408.01800), and the checkpoint
openbmb/MiniCPM-V-2_6: a Qwen2 whose sizes stand in ``config.json`` itself, a SigLIP at the picture's own shape with
``vision_config``, and ``preprocessor_config.json``. The Python files beside them are not written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2Config

from sightling.errors import UserError
from sightling.interop import images
from sightling.interop.base import LAYOUTS, Folder, Layout, expect, sparse
from sightling.interop.keys import Rule, same
from sightling.interop.parts import encoder_written, tower_of
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.pretrained import readable
from sightling.model.templates import TEMPLATES
from sightling.model.templates.minicpm import NUMBER
from sightling.parts import make, validate
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.resampler import HEAD, ResamplerOptions
from sightling.sight.encoders import STATISTICS, Statistics
from sightling.sight.tiling import TILINGS
from sightling.sight.tiling.adaptive import Adaptive

VERSION = 2.6
"""Its family's other versions are called the same and hold other things."""

TEMPLATE = "minicpm-v"

MARK = "(<image>./</image>)"
"""A picture, before its processor has cut it."""

SPEECH = {
    "im_start": "<image>", "im_end": "</image>", "slice_start": "<slice>", "slice_end": "</slice>", "unk": "<unk>",
    "im_id_start": "<image_id>", "im_id_end": "</image_id>",
}  # fmt: skip
"""What ``preprocessor_config.json`` calls the marks and the placeholder."""

SIGLIP = ("siglip_vision_model", "siglip")

POSITIONS = "stepped"


class MiniCPMV26Config(Qwen2Config):
    """``config.json``: the language model's sizes, and beside them how pictures become tokens."""

    model_type = "minicpmv"

    vision_config: dict[str, Any] | None = None
    slice_config: dict[str, Any] | None = None
    query_num: int = 64
    image_size: int = 448
    patch_size: int = 14
    slice_mode: bool = True
    use_image_id: bool = True
    batch_vision_input: bool = True
    drop_vision_last_layer: bool = False
    vision_batch_size: int = 16
    version: float | str | None = None


OWN = (*(key for key in MiniCPMV26Config.__annotations__ if key != "model_type"), "auto_map", "architectures",
       "model_type")  # fmt: skip
"""What in ``config.json`` is not the language model's."""


class MiniCPMV26(Layout):
    """One way to name things."""

    name, config_class, architecture = "minicpmv2_6", MiniCPMV26Config, "MiniCPMV"

    def read_config(self, told: Any, folder: Folder) -> VisionLanguageConfig:
        """See the base class."""
        where, prepared, said = f"{folder}/config.json", folder.images, f"{folder}/{images.FILE}"
        expect(
            told, where, version=(VERSION, str(VERSION)), drop_vision_last_layer=False, use_image_id=True,
            use_sliding_window=(False, None),
        )  # fmt: skip
        if not isinstance(told.vision_config, dict):
            raise UserError(f"{where}: vision_config is missing; it says the tower's sizes")
        expect(told.vision_config, f"{where}: vision_config", model_type=SIGLIP, num_channels=3)
        sizes = {key: value for key, value in told.vision_config.items() if key != "model_type"}
        vision, tower = tower_of({**sizes, "model_type": SIGLIP[0], "vision_use_head": False}, where)
        tower.check(vision, f"{where}: vision_config")
        expect(
            prepared, said, use_image_id=True, image_feature_size=told.query_num, patch_size=vision.patch_size,
            version=(VERSION, str(VERSION)), **SPEECH,
        )  # fmt: skip
        normalise = {"mean": prepared.get("norm_mean", [0.5] * 3), "std": prepared.get("norm_std", [0.5] * 3)}
        slices = {
            "max_slices": prepared.get("max_slice_nums", 9) if prepared.get("slice_mode", True) else 1,
            "scale": prepared.get("scale_resolution", 448),
        }
        validate(Adaptive, slices, said)
        return VisionLanguageConfig(
            vision_config=vision,
            text_config=Qwen2Config.from_dict({key: one for key, one in folder.config.items() if key not in OWN}),
            encoder={
                "layer": -1, "positions": POSITIONS,
                "normalise": validate(Statistics, normalise, said).model_dump(mode="json"),
            },
            connector={"type": "resampler", "queries": told.query_num, "version": "minicpm_v"},
            tiling={"type": "adaptive", "merge": 1, **slices},
            image_token_id=_placeholder(folder),
        )  # fmt: skip

    def write_config(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        options = encoder_written(self.name, config, POSITIONS).options
        vision: Any = config.vision_config
        text = config.get_text_config()
        if vision.model_type != SIGLIP[0]:
            raise self.refuse("encoder.type", vision.model_type, "it takes a siglip")
        if text.model_type != "qwen2":
            raise self.refuse("language_model.type", text.model_type, "it takes a qwen2")
        if options.layers != (-1,):
            raise self.refuse("encoder.layer", options.layer, "it takes the last layer alone")
        connector: Any = make(CONNECTORS, config.connector or {}, "connector")
        heads = text.hidden_size // HEAD
        plain = isinstance(connector, ResamplerOptions) and connector.version == "minicpm_v"
        if not plain or heads < 1 or connector.heads not in (None, heads):
            wanted = f"it takes a resampler, version minicpm_v, whose heads are {HEAD} wide"
            raise self.refuse("connector", config.connector, wanted)
        tiling = self._tiling(config)
        scale = tiling.scale or vision.image_size
        return {
            **sparse(text, without=("model_type",)),
            "version": VERSION,
            "query_num": connector.queries,
            "image_size": scale,
            "patch_size": vision.patch_size,
            "slice_mode": tiling.max_slices > 1,
            "slice_config": {
                "max_slice_nums": tiling.max_slices, "patch_size": vision.patch_size, "scale_resolution": scale,
                "model_type": "minicpmv",
            },
            "use_image_id": True,
            "batch_vision_input": True,
            "drop_vision_last_layer": False,
            "vision_config": sparse(vision, without=("vision_use_head",)),
        }  # fmt: skip

    def _tiling(self, config: VisionLanguageConfig) -> Adaptive:
        tiling = make(TILINGS, config.tiling or {}, "tiling")
        if not isinstance(tiling, Adaptive) or tiling.merge != 1:
            raise self.refuse("tiling", config.tiling, "it takes adaptive with merge 1")
        return tiling

    def rules(self, config: VisionLanguageConfig) -> Sequence[Rule]:
        """See the base class."""
        return [
            same("encoder.tower.*", "vpm.*"), same("connector.*", "resampler.*"), same("language_model.*", "llm.*"),
        ]  # fmt: skip

    def tokenizer(self, path: Path) -> PreTrainedTokenizerFast:
        """Qwen2's with marks; the class that the folder names is code of its own, and is not run.

        Raises:
            UserError: no tokenizer, or one that is not written for the ``tokenizers`` library.
        """
        written = path / "tokenizer.json"
        if not written.is_file():
            raise UserError(f"the tokenizer in {path} has no tokenizer.json; only tokenizers in that form can be used")
        with readable(path, "tokenizer", ValueError):
            json.loads(written.read_text(encoding="utf-8"))
            loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(path)
        return loaded

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
            resample="bicubic",
        )
        template = template_of(folder, tokenizer, (TEMPLATE,), (NUMBER,), MARK)
        if template != TEMPLATE:
            raise UserError(f"the chat template in {folder} is that of {template!r}, which does not number pictures")
        return VisionLanguageProcessor(pictures, tokenizer, template=template)

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        tiling, connector = self._tiling(config), config.connector_options()
        pictures, form = processor.image_processor, TEMPLATES.get(processor.template)
        if form.name != TEMPLATE:
            raise self.refuse("template", processor.template, f"it takes {TEMPLATE}")
        if pictures.resample != "bicubic":
            raise self.refuse("resample", pictures.resample, "it takes bicubic")
        used = encoder_written(self.name, config, POSITIONS).normalise
        statistics = STATISTICS[used] if isinstance(used, str) else Statistics.model_validate(used)
        return {
            images.FILE: {
                "image_processor_type": "MiniCPMVImageProcessor",
                "processor_class": "MiniCPMVProcessor",
                "max_slice_nums": tiling.max_slices,
                "scale_resolution": tiling.scale or pictures.image_size,
                "patch_size": pictures.patch_size,
                "slice_mode": tiling.max_slices > 1,
                "use_image_id": True,
                "image_feature_size": connector.tokens(1, 1),
                "norm_mean": list(statistics.mean),
                "norm_std": list(statistics.std),
                "version": VERSION,
                **SPEECH,
            },
            # A picture is a mark in a text there, and parts of a turn are joined before the template sees them.
            "chat_template.jinja": {"text": SPOKEN},
        }


SPOKEN = (
    "{%- for message in messages -%}{%- if loop.first and message['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Its chat template, for texts alone."""


def _placeholder(folder: Folder) -> int:
    """The id of the token that a picture's features replace; the configuration does not say it, the tokenizer does."""
    found = folder.json("tokenizer.json") or {}
    added = {one["content"]: int(one["id"]) for one in found.get("added_tokens", ())}
    # Without a tokenizer there is no processor either, which is said when that is read.
    return added.get(SPEECH["unk"], 0)


LAYOUTS.register("minicpmv2_6")(MiniCPMV26())
