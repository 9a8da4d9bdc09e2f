"""The composed model: a picture becomes tokens, tokens become words.

Legend: ``B`` rows, ``T`` tokens, ``N`` encoder inputs (tiles), ``C`` = 3, ``H`` ``W`` pixels,
``Q`` visual tokens an input, ``D`` the language model's width, ``S`` supervised positions,
``V`` vocabulary.

It is a transformers model (``generate``, ``save_pretrained``, ``from_pretrained``, PEFT). Three parts,
by name: ``encoder``, ``connector``, ``language_model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs

from sightling.errors import UserError, nearest
from sightling.foreign import layout_of, reader
from sightling.model.config import VisionLanguageConfig
from sightling.model.gated import GatedLayers
from sightling.model.head import summed_loss
from sightling.model.mask import TRUNK, tree_mask
from sightling.model.pretrained import check_keys, readable
from sightling.model.spatial import TellsPlaces, check_spatial
from sightling.model.tree import NO_MASK, Layout, attending, layout_for
from sightling.model.trimming import trimmed
from sightling.model.vision import PICTURES, SeesPictures
from sightling.sight.connectors import CrossAttention
from sightling.sight.encoders import Encoder, check_tiling

IGNORED = -100
"""The label of a position that the loss does not count."""

PASSED_ON = frozenset(TransformersKwargs.__annotations__) | {"cache_position"}
"""What :meth:`VisionLanguageModel.forward` hands to the language model besides its own arguments."""


@dataclass
class VisionLanguageOutput(ModelOutput):
    """What a forward pass returns; ``loss`` is the mean over supervised positions."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_features: Tensor | Sequence[Tensor] | None = None


class VisionLanguageModel(SeesPictures, TellsPlaces, PreTrainedModel, GenerationMixin):
    """Encoder + connector + causal language model.

    Args:
        config: what it is made of.
        tower: an image tower with its weights; without it a new one.
        language_model: a causal language model with its weights; without it a new one.
    """

    config_class = VisionLanguageConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    row_multiple, compact = 1, True
    """Packed rows are filled up to multiples of so many tokens, for compilers; their attention may be compact."""

    def __init__(
        self,
        config: VisionLanguageConfig,
        *,
        tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        connector = config.connector_options()
        check_spatial(config.text_config, connector, config.tiling_scheme(), config.encoder_options(), "model")
        check_tiling(config.vision_config, config.tiling_scheme(), connector.reads_text, "model")
        self.loss_type = "ForCausalLM"
        for loaded in (tower, language_model):
            # What is loaded keeps its weights when the new parts draw theirs.
            for module in loaded.modules() if loaded is not None else ():
                module._is_hf_initialized = True
        self.encoder = Encoder(config.vision_config, config.encoder_options(), tower)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        width = self.language_model.get_input_embeddings().embedding_dim
        self.connector = connector.build(self.encoder.width, width)
        self.tiling = config.tiling_scheme()
        if isinstance(self.connector, CrossAttention):
            marked = self.encoder.kind.together and connector.ahead
            gated = GatedLayers(self.connector.options, self.language_model.config, marked)
            gated.attach(self.language_model)
            self.connector.gated = gated
        if self.tiling.ends_rows:
            # It trains with the connector: what stands between encoder and language model is one part.
            self.connector.row_end = nn.Parameter(torch.randn(width) * width**-0.5)
        # The placeholder stands for a picture; an answer brings none.
        self.generation_config.suppress_tokens = [config.image_token_id]
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

    def decode(
        self,
        input_ids_BT: Tensor,
        *,
        image_features_NQD: Tensor | Sequence[Tensor] | None,
        attention_mask: Any = None,
        position_ids_BT: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        documents: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's last hidden states for text and visual tokens together.

        ``documents`` are the document_ids_BT and branch_ids_BT of packed rows; only pictures beside the text need
        them, what stands in the text is kept apart by the mask.
        """
        told = {
            "attention_mask": attention_mask, "position_ids": position_ids_BT, "past_key_values": past_key_values,
            "use_cache": use_cache, **kwargs,
        }  # fmt: skip
        if self.gated is None:
            embeddings_BTD = self.embed(input_ids_BT, image_features_NQD)
            told |= self.deepstack(input_ids_BT, image_features_NQD, embeddings_BTD.shape[-1])
            return self.get_decoder()(inputs_embeds=embeddings_BTD, **told)
        embeddings_BTD = self.get_input_embeddings()(input_ids_BT)
        here_BT = input_ids_BT == self.config.image_token_id
        return self.gated.decode(
            self.language_model, embeddings_BTD, here_BT, image_features_NQD, documents=documents, **told
        )

    def packed_mask(self, document_ids_BT: Tensor, branch_ids_BT: Tensor, position_ids_BT: Tensor) -> Any:
        """The attention mask of packed rows: one, or one a kind of layer where layers see windows.

        Raises:
            UserError: a kind of layer or of attention that cannot keep the documents of a row apart.
        """
        windowed = self._windowed(position_ids_BT)
        config = self.language_model.config
        dtype = next(self.get_input_embeddings().parameters()).dtype
        full = tree_mask(document_ids_BT, branch_ids_BT, dtype)
        if not windowed:
            return full
        window = config.sliding_window
        sliding = tree_mask(document_ids_BT, branch_ids_BT, dtype, position_ids_BT=position_ids_BT, window=window)
        kinds = getattr(config, "layer_types", None)
        return {"full_attention": full, "sliding_attention": sliding} if kinds else sliding

    def packed_layout(self, document_ids_BT: Tensor, branch_ids_BT: Tensor, position_ids_BT: Tensor) -> Layout | None:
        """The compact form of packed rows' attention (:mod:`sightling.model.tree`); None where the mask serves better.

        Raises:
            UserError: a kind of layer or of attention that cannot keep the documents of a row apart.
        """
        if self._windowed(position_ids_BT) or not self.compact:
            return None
        return layout_for(self.language_model, document_ids_BT, branch_ids_BT)

    def _windowed(self, position_ids_BT: Tensor) -> bool:
        """Whether a layer sees less than a sample in these rows; what cannot be trained in packed rows is refused."""
        config = self.language_model.config
        kinds = set(getattr(config, "layer_types", None) or [])
        strange = kinds - {"full_attention", "sliding_attention"}
        if strange:
            raise UserError(f"a {config.model_type} cannot be trained in packed rows: its layers are {sorted(kinds)}")
        if "flash" in str(config._attn_implementation):
            raise UserError(
                f"attn_implementation {config._attn_implementation!r} takes no mask, which packed rows need; use 'sdpa'"
            )
        window = getattr(config, "sliding_window", None)
        return window is not None and kinds != {"full_attention"} and int(position_ids_BT.max()) >= window

    def packed_states(
        self,
        input_ids_BT: Tensor,
        image_features_NQD: Tensor | Sequence[Tensor] | None,
        *,
        position_ids_BT: Tensor,
        document_ids_BT: Tensor,
        branch_ids_BT: Tensor,
    ) -> Tensor:
        """The language model's last hidden states_BTD of packed rows, by the compact form or the mask.

        Raises:
            UserError: a language model that cannot be trained in packed rows.
        """
        length = input_ids_BT.shape[1]
        if short := -length % self.row_multiple:
            told_BT = (input_ids_BT, position_ids_BT, document_ids_BT, branch_ids_BT)
            # As rows are padded anyway, and with a token that is no placeholder.
            fills = (int(self.config.image_token_id == 0), 0, -1, TRUNK)
            input_ids_BT, position_ids_BT, document_ids_BT, branch_ids_BT = (
                F.pad(one_BT, (0, short), value=fill) for one_BT, fill in zip(told_BT, fills, strict=True)
            )
        layout = self.packed_layout(document_ids_BT, branch_ids_BT, position_ids_BT)
        told: dict[str, Any] = {"attention_mask": NO_MASK, "tree": layout}
        if layout is None:
            told = {"attention_mask": self.packed_mask(document_ids_BT, branch_ids_BT, position_ids_BT)}
        with attending(self.language_model.config) if layout else nullcontext():
            return self.decode(
                input_ids_BT, image_features_NQD=image_features_NQD, position_ids_BT=position_ids_BT,
                use_cache=False, documents=(document_ids_BT, branch_ids_BT), **told,
            ).last_hidden_state[:, :length]  # fmt: skip

    def supervised_loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        *,
        position_ids: Tensor,
        document_ids: Tensor,
        branch_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        logits_chunk: int | None = None,
        trim: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy over supervised positions of packed rows, and how many were right.

        Logits are computed at the S supervised positions only. ``labels_BT`` holds at each position the
        token to predict *from* the position before it, as transformers' labels do; a branch's first token
        is never supervised, so the position before is always its own. ``logits_chunk`` positions are taken at once
        (:func:`sightling.model.head.summed_loss`), 0 being all; ``trim`` is :func:`sightling.model.trimming.trimmed`.

        Returns:
            (loss summed over S, number of argmax hits among S), both scalars.

        Raises:
            UserError: a language model that cannot be trained in packed rows.
        """
        if image_features is None and pixel_values is not None:
            words = qformer_input_ids, qformer_attention_mask
            image_features = self.get_image_features(pixel_values, image_sizes, *words)
        target_BT = labels[:, 1:]
        chosen_BT = target_BT != IGNORED
        places = {"position_ids_BT": position_ids, "document_ids_BT": document_ids, "branch_ids_BT": branch_ids}
        with trimmed(self.get_decoder(), F.pad(chosen_BT, (0, 1))) if trim else nullcontext():
            hidden_BTD = self.packed_states(input_ids, image_features, **places)
        vocabulary = self.language_model.config.vocab_size
        head = self.get_output_embeddings()
        return summed_loss(head, hidden_BTD[:, :-1][chosen_BT], target_BT[chosen_BT], vocabulary, logits_chunk)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> VisionLanguageOutput:
        """The transformers way in: rows of text with placeholders, and their pictures in order.

        ``pixel_values`` are the encoder inputs of all pictures in row order and ``image_sizes`` the pictures' sizes
        (:meth:`get_image_features`, which also tells of ``qformer_input_ids``); ``image_features`` are their visual
        tokens where they are already known (encoded once, asked often).

        Raises:
            TypeError: an argument that neither this model nor its language model knows.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing; a vision-language model places pictures by their placeholders")
        passed = {name: value for name, value in kwargs.items() if value is not None and name != "return_dict"}
        for name in passed:
            if name not in PASSED_ON:
                raise TypeError(f"forward() has no argument {name!r}; {nearest(name, PASSED_ON | {'pixel_values'})}")
        counted = passed.pop("num_items_in_batch", None)
        if image_features is None and pixel_values is not None:
            words = qformer_input_ids, qformer_attention_mask
            image_features = self.get_image_features(pixel_values, image_sizes, *words)
        if position_ids is None:
            position_ids = self.places(input_ids, attention_mask, image_sizes, past_key_values)
        output = self.decode(
            input_ids,
            image_features_NQD=image_features,
            attention_mask=attention_mask,
            position_ids_BT=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **passed,
        )
        hidden_BTD = output.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(hidden_BTD[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=counted
            )
        return VisionLanguageOutput(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            image_features=image_features,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pictures enter with the prompt only; later steps find them in the cache."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
            inputs["image_sizes"] = image_sizes
            inputs["image_features"] = image_features
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Several answers a row: a row's pictures are repeated with it, all of them before the next row's."""
        several = {name: kwargs.pop(name) for name in PICTURES if name in kwargs}
        if expand_size > 1 and input_ids is not None:
            several = self.repeat_pictures(input_ids, expand_size, several)
        input_ids, expanded = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, {**expanded, **several}

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load strictly: a missing, extra or misshapen key is refused by its name. A known foreign layout is read.

        Raises:
            UserError: the weights do not fit the configuration.
        """
        foreign = layout_of(path)
        if foreign is not None:
            return reader(foreign).load_model(Path(path), *args, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        # Mismatched shapes are collected instead of raised, so that all three kinds are told alike.
        told = {**kwargs, "ignore_mismatched_sizes": True, "use_safetensors": True, "output_loading_info": True}
        with readable(path, "model"):
            model, info = super().from_pretrained(path, *args, **told)
        check_keys(info, path)
        return (model, info) if wants_info else model
