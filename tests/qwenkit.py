"""Tiny Qwen-VL models: sizes, and the forms in which transformers' own take pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kit import grow
from sightling.model import VisionLanguageModel, VisionLanguageProcessor

PATCH, MERGE = 4, 2

_SIZES = {"num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_SIZES, "type": "qwen2_vl", "embed_dim": 32},
    "qwen2_5_vl": {**_SIZES, "type": "qwen2_5_vl", "hidden_size": 32, "intermediate_size": 40, "window_size": 16,
                   "fullatt_block_indexes": [2]},
    "qwen3_vl": {**_SIZES, "type": "qwen3_vl", "hidden_size": 32, "intermediate_size": 40,
                 "num_position_embeddings": 25},
}  # fmt: skip
"""Windows of 4 x 4 patches; a table of 5 x 5 places."""

GRIDS = [(4, 6), (2, 2), (10, 6), (4, 6), (2, 14), (8, 8)]
"""(rows, columns) of patches; not all of them whole windows."""


def flat(pixels_CHW: Tensor, merge: int = MERGE) -> Tensor:
    """One normalised picture as Qwen's towers take it: patches in blocks that are merged, each twice in time."""
    height, width = pixels_CHW.shape[1:]
    cells = pixels_CHW.view(3, height // PATCH // merge, merge, PATCH, width // PATCH // merge, merge, PATCH)
    patches = cells.permute(1, 4, 2, 5, 0, 3, 6)[..., None, :, :].expand(*[-1] * 5, 2, -1, -1)
    return patches.reshape(-1, 3 * 2 * PATCH * PATCH)


def thw(grids: Sequence[tuple[int, int]]) -> Tensor:
    """Grids of still pictures."""
    return torch.tensor([[1, *grid] for grid in grids])


LANGUAGE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 48, "max_position_embeddings": 2048, "tie_word_embeddings": False}  # fmt: skip
NATIVE = {"type": "native", "min_pixels": 64, "max_pixels": 2048}
CONNECTORS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"type": "merger"},
    "qwen2_5_vl": {"type": "merger", "norm": "rms"},
    "qwen3_vl": {"type": "merger", "deepstack": 3},
}


def qwen(name: str, seed: int = 0, **told: Any) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    """A model of that family with weights that make everything matter, and its processor."""
    layer = [1, 2, 4, -1] if name == "qwen3_vl" else -1
    parts = {
        "encoder": {**TOWERS[name], "layer": layer},
        "connector": CONNECTORS[name],
        "language_model": {**LANGUAGE, "type": f"{name}_text"},
        "tiling": NATIVE,
    }
    return grow(seed, **{**parts, **told})


WHOLE = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
_MERGER = {"norm": "ln_q", "layers.0": "mlp.0", "layers.2": "mlp.2"}
_MERGER3 = {"norm": "norm", "layers.0": "linear_fc1", "layers.2": "linear_fc2"}


def their_key(name: str, key: str) -> str:
    """What transformers' whole model calls one of our weights."""
    if key.startswith("encoder.tower."):
        return key.replace("encoder.tower.", "model.visual.")
    if key.startswith("language_model.model."):
        return key.replace("language_model.model.", "model.language_model.")
    if key.startswith("language_model."):
        return key.removeprefix("language_model.")
    *path, parameter = key.removeprefix("connector.").split(".")
    where = "merger"
    if path[0] == "inner":
        where, path = f"deepstack_merger_list.{path[1]}", path[2:]
    layer = (_MERGER3 if name == "qwen3_vl" else _MERGER)[".".join(path)]
    return f"model.visual.{where}.{layer}.{parameter}"


def whole(name: str, model: VisionLanguageModel) -> Any:
    """transformers' model with the weights of ours, every one of them."""
    vision, text = model.config.vision_config.to_dict(), model.config.text_config
    if name == "qwen2_vl":
        vision["hidden_size"] = text.hidden_size
    else:
        vision["out_hidden_size"] = text.hidden_size
    if name == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [layer - 1 for layer in model.encoder.options.layers[:-1]]
    kind, architecture = WHOLE[name]
    config = kind(
        vision_config=vision, text_config=text.to_dict(), image_token_id=model.config.image_token_id,
        tie_word_embeddings=model.config.tie_word_embeddings,
    )  # fmt: skip
    made = architecture(config)
    made.load_state_dict({their_key(name, key): tensor for key, tensor in model.state_dict().items()})
    made.generation_config = model.generation_config
    return made.eval()


class StillProcessor(Qwen2VLProcessor):
    """transformers' processor without its half for films, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def their_processor(name: str, model: VisionLanguageModel, processor: VisionLanguageProcessor) -> Any:
    """transformers' processor for the same pictures."""
    statistics = model.encoder.statistics
    pictures = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, image_mean=list(statistics.mean),
        image_std=list(statistics.std), size={"shortest_edge": NATIVE["min_pixels"],
                                              "longest_edge": NATIVE["max_pixels"]},
    )  # fmt: skip
    return StillProcessor(pictures, processor.tokenizer, chat_template=processor.chat_template)
