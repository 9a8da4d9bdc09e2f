"""InstructBLIP with a causal language model (Vicuna) as transformers holds it: a BLIP-2 that is told what to look for.

Source: Dai et al. 2023, "InstructBLIP" (arXiv:2305.06500), and transformers' ``InstructBlipConfig``. The question goes
to the Q-Former, cut by a tokenizer of its own (``qformer_tokenizer``), and as it is to the language model. Checkpoints
with a Flan-T5 are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import InstructBlipConfig, InstructBlipQFormerConfig, PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop.base import LAYOUTS, Folder, positions
from sightling.interop.blip_2 import Blip2
from sightling.interop.prompts import template_of
from sightling.model import VisionLanguageConfig, VisionLanguageProcessor
from sightling.model.templates import TEMPLATES


class InstructBlip(Blip2):
    """BLIP-2's, and the tables of words and places with which its Q-Former reads."""

    name, config_class = "instructblip", InstructBlipConfig
    architecture = "InstructBlipForConditionalGeneration"
    tower = ("eva_instruct", "instructblip_vision_model")
    former = InstructBlipQFormerConfig
    processor = "InstructBlipProcessor"
    reads = True
    templates = ("instructblip", "instructblip-llama")

    def aside(self, config: VisionLanguageConfig) -> Mapping[str, Callable[[], Tensor]]:
        """Older checkpoints hold the numbers of the places beside their weights."""
        read = (config.connector or {})["instruction"]
        return {"qformer.embeddings.position_ids": positions(read["max_position_embeddings"])}

    def template(self, folder: Folder, tokenizer: PreTrainedTokenizerFast) -> str:
        """The bare question behind the beginning that the tokenizer gives a text itself.

        Raises:
            UserError: a text begins otherwise, or the checkpoint's own template says more than the question, which its
                Q-Former would have to read, too.
        """
        begun = tokenizer("")["input_ids"]
        begins = {name: tokenizer.convert_tokens_to_ids([TEMPLATES.get(name).begin]) for name in self.templates}
        fitting = [name for name, ids in begins.items() if ids == begun == [tokenizer.bos_token_id]]
        if not fitting:
            known = " or ".join(TEMPLATES.get(name).begin for name in self.templates)
            told = f"{tokenizer.convert_ids_to_tokens(begun)} (its bos_token is {tokenizer.bos_token!r})"
            raise UserError(f"{folder}: the tokenizer begins a text with {told}; {known} would be right")
        found = template_of(folder, tokenizer, fitting)
        if found not in fitting:
            raise UserError(
                f"the chat template in {folder} is {found!r}, whose words the Q-Former would have to read, too; "
                "the bare question would be right"
            )
        return found

    def write_processor(
        self, config: VisionLanguageConfig, processor: VisionLanguageProcessor
    ) -> dict[str, dict[str, Any]]:
        """See the base class."""
        if processor.template not in self.templates:
            raise self.refuse("template", processor.template, f"it takes {' or '.join(self.templates)}")
        return super().write_processor(config, processor)


LAYOUTS.register("instructblip")(InstructBlip())
