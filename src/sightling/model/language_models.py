"""The language halves of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Mllama as causal language models of their own.

Of Qwen's transformers has the decoders and the whole models, but nothing between. Keys are those of other causal
language models (``model.layers.*``, ``lm_head.weight``). Mllama's it has; it holds none of the gated layers here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn as nn
from torch import Tensor
from transformers import GenerationMixin, MllamaForCausalLM, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.mllama.configuration_mllama import MllamaTextConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel, Qwen2_5_VLTextModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLPreTrainedModel, Qwen2VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLPreTrainedModel, Qwen3VLTextModel

PREFIX = {r"^model\.language_model\.": "model."}
"""How whole models call a decoder's weights; older files have no such prefix."""


class _Causal:
    """A decoder and its output head."""

    decoder_class: ClassVar[type[nn.Module]]
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.model = self.decoder_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, also from a whole model."""
        return super().from_pretrained(path, *args, **{"key_mapping": PREFIX, **kwargs})  # type: ignore[misc]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As transformers' causal language models; ``position_ids`` may be places_3BT."""
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
        )  # fmt: skip
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            size = logits.shape[-1]
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size)  # type: ignore[attr-defined]
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states,
            attentions=output.attentions,
        )  # fmt: skip


class Qwen2VLCausalLM(_Causal, Qwen2VLPreTrainedModel, GenerationMixin):
    """Qwen2-VL's."""

    config_class, decoder_class, input_modalities = Qwen2VLTextConfig, Qwen2VLTextModel, ("text",)


class Qwen25VLCausalLM(_Causal, Qwen2_5_VLPreTrainedModel, GenerationMixin):
    """Qwen2.5-VL's."""

    config_class, decoder_class, input_modalities = Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel, ("text",)


class Qwen3VLCausalLM(_Causal, Qwen3VLPreTrainedModel, GenerationMixin):
    """Qwen3-VL's."""

    config_class, decoder_class, input_modalities = Qwen3VLTextConfig, Qwen3VLTextModel, ("text",)


class MllamaCausalLM(MllamaForCausalLM):
    """Llama 3.2 Vision's; its embeddings have eight rows more than its head, for the placeholder and what may come."""

    # transformers' own names what only the whole model has, and its decoder is not found.
    config_class, base_model_prefix = MllamaTextConfig, "model"


def embedding_rows(text: PreTrainedConfig) -> int:
    """How many tokens a language model's embeddings have rows for."""
    return int(text.vocab_size) + (MLLAMA_SPARE if text.model_type == MllamaTextConfig.model_type else 0)


MLLAMA_SPARE = 8
"""Rows of Mllama's embeddings behind those that its output head has, too."""

CAUSAL = (Qwen2VLCausalLM, Qwen25VLCausalLM, Qwen3VLCausalLM, MllamaCausalLM)
"""To be registered with transformers' ``AutoModelForCausalLM``."""
