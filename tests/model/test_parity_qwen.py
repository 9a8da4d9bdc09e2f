"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL beside transformers' own, with the same weights, from the prompt to the answer."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import picture, talk
from qwenkit import TOWERS, qwen, their_processor, whole
from sightling.data.sample import Sample
from sightling.model import VisionLanguageModel, VisionLanguageProcessor

SIZES = [(40, 20), (10, 50), (24, 24), (30, 9), (100, 70)]


@cache
def models(name: str) -> tuple[VisionLanguageModel, VisionLanguageProcessor, Any, Any]:
    """Ours and theirs, shared between tests: nobody changes them."""
    model, processor = qwen(name)
    # No answer ends early: all tokens are compared.
    model.generation_config.eos_token_id = None
    return model, processor, whole(name, model), their_processor(name, model, processor)


def conversations() -> list[Sample]:
    """Two pictures, pictures in two turns, side by side and as a turn's end, and no picture at all."""
    one, two, three, four, five = (picture(number, *size) for number, size in enumerate(SIZES))
    return [
        talk((one, "is there a blue square left of ", two, "?")),
        talk(("look: ", three, four, "red?"), "yes", ("and here? ", five)),
        talk("how many triangles are there?"),
    ]


def ours(processor: VisionLanguageProcessor, samples: list[Sample]) -> dict[str, Tensor]:
    """Prompts padded on the left, and all their pictures."""
    rows = [processor.encode(sample, prompt_only=True) for sample in samples]
    width = max(len(row.input_ids) for row in rows)
    pads = [width - len(row.input_ids) for row in rows]
    shown = [one for row in rows for one in row.pictures]
    return {
        "input_ids": torch.tensor([[processor.pad_token_id] * pad + [*row.input_ids] for pad, row in zip(pads, rows)]),
        "attention_mask": torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads]),
        **(processor.inputs(*shown).tensors() if shown else {}),
    }


def theirs(reference: Any, processor: VisionLanguageProcessor, samples: list[Sample]) -> dict[str, Tensor]:
    """The same by transformers' processor: one placeholder a picture in the text, which it expands itself."""
    messages = [
        [{"role": turn.role, "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts
        ]} for turn in sample.turns]
        for sample in samples
    ]  # fmt: skip
    texts = processor.apply_chat_template(messages, add_generation_prompt=True)
    images = [one.load() for sample in samples for one in sample.pictures()]
    return dict(reference(text=texts, images=images or None, padding=True, padding_side="left", return_tensors="pt"))


@pytest.mark.parametrize("name", TOWERS)
def test_prompts_features_and_logits_are_theirs(name: str) -> None:
    model, processor, reference, expander = models(name)
    mine, told = ours(processor, conversations()), theirs(expander, processor, conversations())
    assert mine["input_ids"].tolist() == told["input_ids"].tolist()
    with torch.no_grad():
        features = model.get_image_features(mine["pixel_values"], mine["image_sizes"])
        output = reference.get_image_features(told["pixel_values"], told["image_grid_thw"])
        expected = [torch.cat(output.pooler_output)]
        if name == "qwen3_vl":
            expected += [torch.cat(layer) for layer in output.deepstack_features]
        torch.testing.assert_close(features, torch.cat(expected, dim=-1), atol=1e-4, rtol=1e-4)
        assert features.shape == (int((mine["input_ids"] == model.config.image_token_id).sum()), 32 * len(expected))
        real = mine["attention_mask"].bool()
        logits, wanted = model(**mine).logits, reference(**told).logits
        torch.testing.assert_close(logits[real], wanted[real], atol=1e-4, rtol=1e-4)
        assert wanted.std() > 0.5


@pytest.mark.parametrize("name", TOWERS)
def test_places_are_theirs(name: str) -> None:
    model, processor, reference, expander = models(name)
    told = theirs(expander, processor, conversations())
    wanted, deltas = reference.model.get_rope_index(
        told["input_ids"], image_grid_thw=told["image_grid_thw"], attention_mask=told["attention_mask"],
        mm_token_type_ids=told["mm_token_type_ids"],
    )  # fmt: skip
    mine = ours(processor, conversations())
    found = model.places(mine["input_ids"], mine["attention_mask"], mine["image_sizes"])
    assert torch.equal(found, wanted)
    for row, sample in enumerate(conversations()):
        encoded = processor.encode(sample, prompt_only=True)
        length = len(encoded.input_ids)
        assert torch.equal(torch.tensor(encoded.places).T, wanted[:, row, -length:])
        assert encoded.end == length + int(deltas[row])


@pytest.mark.parametrize("name", TOWERS)
def test_every_picture_and_every_place_matters(name: str) -> None:
    model, processor, _, _ = models(name)
    sample = conversations()[0]
    mine = ours(processor, [sample])
    with torch.no_grad():
        before = model(**mine).logits
        for number in range(2):
            pixels = mine["pixel_values"].clone()
            pixels[number] = 255 - pixels[number]
            assert not torch.allclose(model(**{**mine, "pixel_values": pixels}).logits, before, atol=1e-2)
        places = model.places(mine["input_ids"], None, mine["image_sizes"])
        for axis in range(3):
            moved = places.clone()
            moved[axis] = moved[axis] * 2
            assert not torch.allclose(model(**mine, position_ids=moved).logits, before, atol=1e-3)


@pytest.mark.parametrize("name", TOWERS)
def test_greedy_answers_are_theirs(name: str) -> None:
    model, processor, reference, expander = models(name)
    mine, told = ours(processor, conversations()), theirs(expander, processor, conversations())
    answers = model.generate(**mine, max_new_tokens=12, do_sample=False)
    assert answers.tolist() == reference.generate(**told, max_new_tokens=12, do_sample=False).tolist()
    width = mine["input_ids"].shape[1]
    assert max(len(set(row)) for row in answers[:, width:].tolist()) > 3
    # Several answers a row: their pictures and places are repeated with them.
    twice = model.generate(**mine, max_new_tokens=12, num_beams=2, do_sample=False)
    assert twice.tolist() == reference.generate(**told, max_new_tokens=12, num_beams=2, do_sample=False).tolist()


def test_what_a_cache_or_a_picture_does_not_tell_is_asked_for() -> None:
    model, processor, _, _ = models("qwen2_vl")
    mine = ours(processor, conversations()[:1])
    with pytest.raises(ValueError, match="image_sizes is missing: a qwen2_vl_text asks for each token's row"):
        model(input_ids=mine["input_ids"], image_features=torch.zeros(1, 32))
    with torch.no_grad():
        cache = model(**mine, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="position_ids is missing: a cache does not tell a qwen2_vl_text"):
        model(input_ids=mine["input_ids"][:, -1:], past_key_values=cache)
