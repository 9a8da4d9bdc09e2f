"""Idefics3 as transformers holds it: squares with tags, a tower of bucketed places, pixel shuffle and one matrix.

The first SmolVLM's files are of this layout, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Idefics3Config, PreTrainedConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop.base import LAYOUTS, expect
from sightling.interop.idefics import Idefics
from sightling.interop.keys import Rule, same
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.sight.connectors.pixel_shuffle import PixelShuffleOptions
from sightling.sight.tiling import Tagged
from sightling.sight.tiling.tagged import MOST_SQUARES, WHOLE, tag

LONGEST = 4096
"""Their image processors scale no side to more pixels."""


class Idefics3(Idefics):
    """Tags are tokens where the tokenizer has them (SmolVLM) and spelt in letters where it has not (Idefics3)."""

    name, config_class, architecture = "idefics3", Idefics3Config, "Idefics3ForConditionalGeneration"
    prepares = ("Idefics3Processor", "Idefics3ImageProcessor")
    speaks = ("idefics3", "smolvlm")

    def read_connector(self, told: Any, text: PreTrainedConfig, where: str) -> dict[str, Any]:
        """See the base class."""
        factor = told.scale_factor
        if not isinstance(factor, int) or factor < 1:
            raise UserError(f"{where}: scale_factor = {factor!r} must be a whole number of 1 or more")
        return {"type": "pixel_shuffle", "factor": factor, "depth": 1, "norm": False, "bias": False}

    def write_connector(self, config: VisionLanguageConfig) -> dict[str, Any]:
        """See the base class."""
        connector = config.connector_options()
        factor = connector.factor if isinstance(connector, PixelShuffleOptions) else 1
        if connector != PixelShuffleOptions(factor=factor, depth=1, norm=False, bias=False):
            wanted = "it takes a pixel_shuffle of depth 1, version v2, without norm and bias"
            raise self.refuse("connector", config.connector, wanted)
        return {"scale_factor": factor}

    def connector_rules(self) -> Sequence[Rule]:
        """See the base class."""
        return [same("connector.layers.0.weight", "model.connector.modality_projection.proj.weight")]

    def read_tiling(self, prepared: Mapping[str, Any], said: str, side: int) -> dict[str, Any]:
        """See the base class."""
        expect(prepared, said, max_image_size={"longest_edge": side})
        size = prepared.get("size") or {}
        longest = size.get("longest_edge") if isinstance(size, Mapping) else None
        most = min(LONGEST // side, MOST_SQUARES)
        if not isinstance(longest, int) or longest % side or not 1 <= longest // side <= most:
            raise UserError(
                f"{said}: size = {size!r} cannot be followed; a longest_edge of 1 to {most} times the tower's side of "
                f"{side} pixels would be right"
            )
        return {"type": "tagged", "squares": longest // side, "cut": bool(prepared.get("do_image_splitting", True))}

    def spoken_tiling(self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """See the base class."""
        first = tag(1, 1) if self.scheme(config).cut else WHOLE
        return {**(config.tiling or {}), "words": first not in tokenizer.get_vocab()}

    def write_tiling(self, config: VisionLanguageConfig, processor: VisionLanguageProcessor) -> dict[str, Any]:
        """See the base class."""
        scheme, side = self.scheme(config), processor.image_processor.image_size
        if scheme.squares * side > LONGEST:
            raise self.refuse("tiling.squares", scheme.squares, f"it takes {LONGEST // side} at most")
        spelt = self.spoken_tiling(config, processor.tokenizer)["words"]
        if spelt != processor.image_processor.tiling.get("words", False):
            wanted = f"its tokenizer {'spells' if spelt else 'has'} the tags, so it takes {spelt}"
            raise self.refuse("tiling.words", not spelt, wanted)
        return {
            "do_image_splitting": scheme.cut,
            "max_image_size": {"longest_edge": side},
            "size": {"longest_edge": scheme.squares * side},
        }

    def scheme(self, config: VisionLanguageConfig) -> Tagged:
        """The tiling.

        Raises:
            UserError: another than the layout holds.
        """
        scheme = config.tiling_scheme()
        if not isinstance(scheme, Tagged) or scheme.max_tiles is not None:
            raise self.refuse("tiling", config.tiling, "it takes tagged without max_tiles")
        return scheme


LAYOUTS.register("idefics3")(Idefics3())
