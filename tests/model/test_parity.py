"""The composed model beside the models of transformers that have the same parts, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlavaConfig, LlavaForConditionalGeneration

from kit import CLIP, LLAMA, MISTRAL, QWEN2, QWEN3, SIGLIP, grow, picture, talk
from sightling.data.sample import Sample
from sightling.decode.generate import Trace, generate
from sightling.model import VisionLanguageModel, VisionLanguageProcessor

LANGUAGE_MODELS = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "untied": {**QWEN2, "tie_word_embeddings": False},
    "window": {**MISTRAL, "sliding_window": 12},
    "experts": {**LLAMA, "type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 24},
}  # fmt: skip

# SigLIP has no CLS token to drop: LLaVA takes all of its features.
TOWERS = {
    "clip": ({**CLIP, "layer": -2}, "default"),
    "clip with its cls": ({**CLIP, "layer": -2, "keep_cls": True}, "full"),
    "siglip": ({**SIGLIP, "layer": -2}, "full"),
}

LAYERS = {
    "mlp": {"linear_1": "0", "linear_2": "2"},
    "pixel_shuffle": {"layer_norm": "0", "linear_1": "1", "linear_2": "3"},
}
"""How transformers calls the layers of our connectors."""


def like(kind: Any, config: Any, model: VisionLanguageModel) -> Any:
    """A model of transformers with the weights of ours, every one of them."""
    connector = LAYERS[model.config.connector["type"]]
    ours = model.state_dict()
    weights = {}
    for name in kind(config).state_dict():
        if name.startswith("model.vision_tower."):
            known = name.replace("model.vision_tower.", "encoder.tower.")
        elif name.startswith("model.multi_modal_projector."):
            layer, parameter = name.split(".")[-2:]
            known = f"connector.layers.{connector[layer]}.{parameter}"
        elif name.startswith("model.language_model."):
            known = name.replace("model.language_model.", "language_model.model.")
        else:
            known = f"language_model.{name}"
        weights[name] = ours.pop(known)
    assert not ours, f"not known to {kind.__name__}: {sorted(ours)}"
    made = kind(config)
    made.load_state_dict(weights)
    made.generation_config = model.generation_config
    return made.eval()


def llava(model: VisionLanguageModel, strategy: str) -> Any:
    config = LlavaConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        vision_feature_layer=model.encoder.options.layer,
        vision_feature_select_strategy=strategy,
    )
    return like(LlavaForConditionalGeneration, config, model)


def internvl(model: VisionLanguageModel, strategy: str) -> Any:
    config = InternVLConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_id=model.config.image_token_id,
        downsample_ratio=1 / model.config.connector["factor"],
        vision_feature_layer=model.encoder.options.layer,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=model.config.tie_word_embeddings,
    )
    return like(InternVLForConditionalGeneration, config, model)


def conversations() -> list[Sample]:
    """Two pictures, a picture after words and another in a later turn, and no picture at all."""
    return [
        talk((picture(1), "is there a blue square left of ", picture(2), "?")),
        talk(("look: ", picture(3), "what colour is the circle?"), "red", ("and here? ", picture(4, 30, 9))),
        talk("how many triangles are there?"),
    ]


def batch(processor: VisionLanguageProcessor, samples: list[Sample]) -> dict[str, Tensor]:
    """Prompts padded on the left, and the pixels of all pictures in row order."""
    encoded = [processor.encode(sample, prompt_only=True) for sample in samples]
    width = max(len(one.input_ids) for one in encoded)
    pads = [width - len(one.input_ids) for one in encoded]
    rows = [[processor.pad_token_id] * pad + list(one.input_ids) for pad, one in zip(pads, encoded, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    pixels = [processor.pixels(one) for row in encoded for one in row.pictures]
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor(mask),
        "pixel_values": torch.cat(pixels),
    }


def check_numbers(model: VisionLanguageModel, processor: VisionLanguageProcessor, theirs: Any) -> None:
    told = batch(processor, conversations())
    floats = {**told, "pixel_values": model.encoder.normalise(told["pixel_values"])}
    with torch.no_grad():
        features = theirs.get_image_features(floats["pixel_values"]).pooler_output
        features = torch.stack(features) if isinstance(features, (list, tuple)) else features
        torch.testing.assert_close(model.get_image_features(told["pixel_values"]), features, atol=1e-4, rtol=1e-4)
        ours, reference = model(**told).logits, theirs(**floats).logits
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
        assert reference.std() > 0.5
        # Every picture matters, or its features would not have been compared.
        for number in range(4):
            changed = told["pixel_values"].clone()
            changed[number] = 255 - changed[number]
            assert not torch.allclose(model(**{**told, "pixel_values": changed}).logits, reference, atol=1e-2)


@pytest.mark.parametrize("language", LANGUAGE_MODELS)
@pytest.mark.parametrize("tower", TOWERS)
def test_with_an_mlp_it_is_llava(tower: str, language: str) -> None:
    encoder, strategy = TOWERS[tower]
    model, processor = grow(encoder=encoder, language_model=LANGUAGE_MODELS[language], connector={"type": "mlp"})
    check_numbers(model, processor, llava(model, strategy))


@pytest.mark.parametrize("language", LANGUAGE_MODELS)
@pytest.mark.parametrize(
    "tower, strategy, layer",
    [(CLIP, "default", -1), (CLIP, "default", 1), (SIGLIP, "full", -1)],
    ids=["clip", "clip in the middle", "siglip"],
)
def test_with_pixel_shuffle_it_is_internvl(tower: dict[str, Any], strategy: str, layer: int, language: str) -> None:
    model, processor = grow(
        encoder={**tower, "layer": layer}, language_model=LANGUAGE_MODELS[language],
        connector={"type": "pixel_shuffle", "factor": 2},
    )  # fmt: skip
    check_numbers(model, processor, internvl(model, strategy))


@pytest.mark.parametrize("language", LANGUAGE_MODELS)
def test_greedy_answers_are_those_of_llava_and_of_our_own_decoding(language: str) -> None:
    encoder, strategy = TOWERS["clip"]
    # Of random weights, a head of its own says more than one word.
    loose = {**LANGUAGE_MODELS[language], "tie_word_embeddings": False}
    model, processor = grow(encoder=encoder, language_model=loose, connector={"type": "mlp"})
    # No answer ends early: all tokens are compared.
    model.generation_config.eos_token_id = None
    theirs = llava(model, strategy)
    lengths = []
    for sample in conversations():
        told = batch(processor, [sample, sample]) if any(sample.pictures()) else None
        if told is None:
            ids = torch.tensor([processor.encode(sample, prompt_only=True).input_ids] * 2)
            told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        floats = dict(told)
        if "pixel_values" in told:
            floats["pixel_values"] = model.encoder.normalise(told["pixel_values"])
        ours = model.generate(**told, max_new_tokens=12, do_sample=False)
        reference = theirs.generate(**floats, max_new_tokens=12, do_sample=False)
        assert ours.tolist() == reference.tolist()
        new = ours[0, told["input_ids"].shape[1] :].tolist()
        trace = Trace()
        "".join(generate(model, processor, sample, max_new_tokens=12, trace=trace))
        stop = new.index(processor.stop_token_id) if processor.stop_token_id in new else len(new)
        assert trace.ids == new[:stop]
        lengths.append(len(set(new[:stop])))
    assert max(lengths) > 3


def test_rows_of_other_lengths_do_not_change_an_answer() -> None:
    model, processor = grow(encoder={**CLIP, "layer": -2}, language_model=QWEN3)
    model.generation_config.eos_token_id = None
    told = batch(processor, conversations())
    together = model.generate(**told, max_new_tokens=8, do_sample=False)[:, told["input_ids"].shape[1] :]
    for row, sample in zip(together.tolist(), conversations(), strict=True):
        encoded = processor.encode(sample, prompt_only=True)
        pixels = torch.cat([processor.pixels(one) for one in encoded.pictures]) if encoded.pictures else None
        ids = torch.tensor([encoded.input_ids])
        alone = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=8, do_sample=False
        )
        assert row == alone[0, ids.shape[1] :].tolist()
