"""Idefics2 as transformers holds it: pictures in their own shape, a tower of bucketed places, a perceiver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Idefics2Config, Idefics2PerceiverConfig, PreTrainedConfig

from sightling.errors import UserError
from sightling.interop.base import LAYOUTS, expect, sparse
from sightling.interop.idefics import Idefics
from sightling.interop.keys import Rule, same
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.parts import validate
from sightling.sight.connectors.perceiver import DEPTH, KV_HEADS, NORM_EPS, PerceiverOptions
from sightling.sight.tiling import Bounded

SIZES = {
    "resampler_n_latents": "queries",
    "resampler_depth": "depth",
    "resampler_n_heads": "heads",
    "resampler_head_dim": "head_dim",
    "num_key_value_heads": "kv_heads",
    "rms_norm_eps": "norm_eps",
}
"""What transformers calls the perceiver's sizes, and what we do."""


class Idefics2(Idefics):
    """The gated MLP before the perceiver is as wide as the language model's own.

    In a batch transformers pads pictures to the largest; patches that a picture does not fill are masked there, and
    not looked at here.
    """

    name, config_class, architecture = "idefics2", Idefics2Config, "Idefics2ForConditionalGeneration"
    prepares = ("Idefics2Processor", "Idefics2ImageProcessor")
    speaks = ("idefics2",)
    usual = "bilinear"

    def read_connector(self, told: Any, text: PreTrainedConfig, where: str) -> dict[str, Any]:
        """See the base class."""
        perceiver: Any = told.perceiver_config
        expect(
            perceiver, f"{where}: perceiver_config", hidden_act="silu", hidden_size=text.hidden_size,
            attention_dropout=0.0,
        )  # fmt: skip
        expect(text, f"{where}: text_config", hidden_act="silu")
        return {
            "type": "perceiver",
            "version": "idefics2",
            "projection_width": text.intermediate_size,
            **{ours: getattr(perceiver, theirs) for theirs, ours in SIZES.items()},
        }

    def write_connector(self, config: VisionLanguageConfig) -> dict[str, Any]:
        """See the base class."""
        connector, text = config.connector_options(), config.get_text_config()
        if not isinstance(connector, PerceiverOptions) or connector.version != "idefics2":
            raise self.refuse("connector", config.connector, "it takes a perceiver of version idefics2")
        width = connector.projection_width or 4 * text.hidden_size
        if width != text.intermediate_size:
            wanted = f"it takes the language model's intermediate_size, {text.intermediate_size}"
            raise self.refuse("connector.projection_width", width, wanted)
        if text.hidden_act != "silu":
            raise self.refuse("language_model.hidden_act", text.hidden_act, "it takes silu")
        usual = {"depth": DEPTH["idefics2"], "kv_heads": KV_HEADS, "norm_eps": NORM_EPS}
        sizes = {theirs: getattr(connector, ours) or usual[ours] for theirs, ours in SIZES.items()}
        return {"perceiver_config": sparse(Idefics2PerceiverConfig(hidden_size=text.hidden_size, **sizes))}

    def connector_rules(self) -> Sequence[Rule]:
        """See the base class."""
        return [same("connector.*", "model.connector.*")]

    def read_tiling(self, prepared: Mapping[str, Any], said: str, side: int) -> dict[str, Any]:
        """See the base class."""
        size = prepared.get("size")
        known = {"shortest": "shortest_edge", "longest": "longest_edge"}
        told = {ours: size.get(theirs) for ours, theirs in known.items()} if isinstance(size, Mapping) else {}
        try:
            if len(told) < 2:
                raise UserError("it names a shortest_edge and a longest_edge")
            validate(Bounded, told, "size")
        except UserError as error:
            raise UserError(f"{said}: size = {size!r} cannot be followed: {error}") from None
        return {"type": "bounded", **told, "quarters": bool(prepared.get("do_image_splitting", False))}

    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        scheme = config.tiling_scheme()
        if not isinstance(scheme, Bounded):
            raise self.refuse("tiling", config.tiling, "it takes bounded")
        return {
            "do_image_splitting": scheme.quarters,
            "size": {"shortest_edge": scheme.shortest, "longest_edge": scheme.longest},
        }


LAYOUTS.register("idefics2")(Idefics2())
