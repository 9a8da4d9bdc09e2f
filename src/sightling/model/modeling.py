"""The composed model: a picture becomes tokens, tokens become words.

Legend: ``B`` rows, ``T`` tokens, ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels,
``Q`` visual tokens an input, ``D`` the language model's width, ``S`` supervised positions,
``V`` vocabulary.

It is a transformers model (``generate``, ``save_pretrained``, ``from_pretrained``, PEFT). Three parts,
by name: ``encoder``, ``connector``, ``language_model``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from sightling.errors import UserError
from sightling.model.config import VisionLanguageConfig
from sightling.model.mask import tree_mask
from sightling.sight.encoders import Encoder

IGNORED = -100
"""The label of a position that the loss does not count."""


@dataclass
class VisionLanguageOutput(ModelOutput):
    """What a forward pass returns; ``loss`` is the mean over supervised positions."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    image_features: Tensor | None = None


class VisionLanguageModel(PreTrainedModel, GenerationMixin):
    """Encoder + connector + causal language model."""

    config_class = VisionLanguageConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.vision_config, config.encoder_options())
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        width = self.language_model.get_input_embeddings().embedding_dim
        self.connector = config.connector_options().build(self.encoder.width, width)
        self.post_init()

    # ---- parts

    def parts(self) -> dict[str, nn.Module]:
        """The three parts by the names that a recipe's ``train`` uses."""
        return {"encoder": self.encoder, "connector": self.connector, "language_model": self.language_model}

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's output head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's output head."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.language_model.get_decoder()

    def _init_weights(self, module: nn.Module) -> None:
        # The tower and the language model initialise themselves; what stands between keeps PyTorch's defaults.
        return

    # ---- forward

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Visual tokens of encoder inputs: pixels_NCHW to tokens_NQD."""
        grid = self.encoder.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        return self.connector(self.encoder(pixel_values), grid)

    def embed(self, input_ids_BT: Tensor, image_features_NQD: Tensor | None) -> Tensor:
        """Token embeddings_BTD with visual tokens in the place of their placeholders, in row order.

        Raises:
            ValueError: placeholders and visual tokens differ in number; both numbers are given.
        """
        embeddings_BTD = self.get_input_embeddings()(input_ids_BT)
        here_BT = input_ids_BT == self.config.image_token_id
        placeholders = int(here_BT.sum())
        if image_features_NQD is None:
            if placeholders:
                raise ValueError(f"{placeholders} image placeholders in the text, but no picture was given")
            return embeddings_BTD
        features_D = image_features_NQD.reshape(-1, image_features_NQD.shape[-1])
        if features_D.shape[0] != placeholders:
            raise ValueError(f"{placeholders} image placeholders in the text, but {features_D.shape[0]} visual tokens")
        return embeddings_BTD.masked_scatter(here_BT[..., None], features_D.to(embeddings_BTD.dtype))

    def decode(
        self,
        input_ids_BT: Tensor,
        *,
        image_features_NQD: Tensor | None,
        attention_mask: Tensor | None = None,
        position_ids_BT: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        """The language model's last hidden states for text and visual tokens together."""
        return self.get_decoder()(
            inputs_embeds=self.embed(input_ids_BT, image_features_NQD),
            attention_mask=attention_mask,
            position_ids=position_ids_BT,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    def supervised_loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        *,
        position_ids: Tensor,
        document_ids: Tensor,
        branch_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy over supervised positions of packed rows, and how many were right.

        Logits are computed at the S supervised positions only. ``labels_BT`` holds at each position the
        token to predict *from* the position before it, as transformers' labels do; a branch's first token
        is never supervised, so the position before is always its own.

        Returns:
            (loss summed over S, number of argmax hits among S), both scalars.
        """
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values)
        mask = tree_mask(document_ids, branch_ids, self.get_input_embeddings().weight.dtype)
        hidden_BTD = self.decode(
            input_ids, image_features_NQD=image_features, attention_mask=mask, position_ids_BT=position_ids,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        target_BT = labels[:, 1:]
        chosen_BT = target_BT != IGNORED
        logits_SV = self.get_output_embeddings()(hidden_BTD[:, :-1][chosen_BT]).float()
        target_S = target_BT[chosen_BT]
        loss = F.cross_entropy(logits_SV, target_S, reduction="sum")
        hits = (logits_SV.detach().argmax(-1) == target_S).sum()
        return loss, hits

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> VisionLanguageOutput:
        """The transformers way in: rows of text with placeholders, and their pictures in order.

        ``pixel_values`` are the encoder inputs of all pictures in row order; ``image_features`` are their
        visual tokens where they are already known (encoded once, asked often).
        """
        if input_ids is None:
            raise ValueError("input_ids is missing; a vision-language model places pictures by their placeholders")
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values)
        output = self.decode(
            input_ids,
            image_features_NQD=image_features,
            attention_mask=attention_mask,
            position_ids_BT=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        hidden_BTD = output.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(hidden_BTD[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return VisionLanguageOutput(
            loss=loss, logits=logits, past_key_values=output.past_key_values, image_features=image_features
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pictures enter with the prompt only; later steps find them in the cache."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
            inputs["image_features"] = image_features
        return inputs

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load strictly: a missing, extra or misshapen key is refused by its name.

        Raises:
            UserError: the weights do not fit the configuration.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        # Mismatched shapes are collected instead of raised, so that all three kinds are told alike.
        model, info = super().from_pretrained(
            path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        for kind, phrase in (
            ("missing_keys", "lack the key"),
            ("unexpected_keys", "hold an unknown key"),
            ("mismatched_keys", "hold a key of another shape"),
        ):
            keys = sorted(str(key) for key in info[kind])
            if keys:
                more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
                raise UserError(f"the weights in {path} {phrase}: {keys[0]}{more}; they belong to another model")
        return (model, info) if wants_info else model
