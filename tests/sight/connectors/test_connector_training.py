"""Every connector in a model built as a recipe builds it: it trains, is saved, and is read back strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kit import CLIP, LLAMA, grow, picture, section, talk
from sightling.errors import UserError
from sightling.model import VisionLanguageModel
from sightling.model.build import build_model, check_model
from sightling.sight.connectors import CONNECTORS
from sightling.train.optimizers import parameter_kinds
from sightling.train.packing import collate_rows, document

QFORMER = {"type": "qformer", "queries": 3, "width": 16, "depth": 2, "heads": 2}
PERCEIVER = {"type": "perceiver", "queries": 3, "depth": 2, "heads": 4, "head_dim": 8}

CROSS = {"type": "cross_attention", "every": 1}
FLAMINGO = {**CROSS, "form": "flamingo", "gate": "tanh_channels", "heads": 2, "head_dim": 8,
            "perceiver": {"version": "flamingo", "queries": 3, "depth": 2, "heads": 4, "head_dim": 8}}  # fmt: skip

CHOICES: dict[str, dict[str, Any]] = {
    "linear": {"type": "linear"},
    "mlp": {"type": "mlp", "positions": True},
    "pixel_shuffle": {"type": "pixel_shuffle"},
    "concat": {"type": "concat"},
    "merger": {"type": "merger"},
    "merger of qwen2.5": {"type": "merger", "norm": "rms"},
    "merger in depth": {"type": "merger", "norm_joined": True},
    "resampler": {"type": "resampler", "queries": 3, "heads": 2},
    "resampler of qwen": {"type": "resampler", "queries": 4, "version": "qwen_vl"},
    "qformer": QFORMER,
    "perceiver": {**PERCEIVER, "kv_heads": 2},
    "perceiver of flamingo": {**PERCEIVER, "version": "flamingo"},
    "cross_attention": CROSS,
    "cross_attention of flamingo": FLAMINGO,
}


def test_every_connector_is_here() -> None:
    # An expert has neither weights nor an encoder; tests/model/test_experts.py tells of it.
    assert {told["type"] for told in CHOICES.values()} | {"expert"} == {*CONNECTORS}


@pytest.mark.parametrize("name", CHOICES)
def test_it_trains_and_is_saved_and_read_back(name: str, tmp_path: Path) -> None:
    model, processor = grow(connector=CHOICES[name])
    encoded = processor.encode(talk((picture(1), "and", picture(2), "what colour?"), "red"))
    pixels = torch.cat([processor.pixels(one) for one in encoded.pictures])
    count = model.config.connector_options().tokens(4, 4)
    beside = model.config.connector_options().beside
    assert encoded.input_ids.count(processor.image_token_id) == 2 * (1 if beside else count)
    packed = collate_rows([document([encoded])], [[0]], processor.pad_token_id)
    told = {key: packed[key] for key in ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")}
    model.train()
    loss, _ = model.supervised_loss(**told, pixel_values=pixels)
    loss.backward()
    for parameter_name, parameter in model.connector.named_parameters():
        # What is added to all keys of a head alike changes no share of attention.
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, parameter_name
    assert {*parameter_kinds(model.connector)} == {*model.connector.parameters()}
    model.eval().save_pretrained(tmp_path)
    loaded, info = VisionLanguageModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        before, after = model.get_image_features(pixels), loaded.eval().get_image_features(pixels)
    assert torch.equal(before, after) and before.shape == (2, count, 32)
    assert not torch.allclose(before[0], before[1], atol=1e-3)


@pytest.mark.parametrize("name", ["resampler", "qformer", "perceiver", "perceiver of flamingo"])
def test_fresh_queries_still_differ_in_a_whole_model(name: str, tmp_path: Path) -> None:
    # transformers would draw those of Idefics2 all alike, and the model that holds its module must not ask it to.
    grow()[1].tokenizer.save_pretrained(tmp_path / "tokenizer")
    model, _ = build_model(section(connector=CHOICES[name]), 0, tmp_path)
    queries = next(tensor for key, tensor in model.connector.named_parameters() if key.split(".")[-1] in (
        "query", "query_tokens", "latents"
    ))  # fmt: skip
    flat = queries.detach().reshape(3, -1)
    assert (torch.cdist(flat, flat) + torch.eye(3)).min() > 0.01
    again, _ = build_model(section(connector=CHOICES[name]), 0, tmp_path)
    for (key, one), two in zip(model.connector.named_parameters(), again.connector.parameters(), strict=True):
        assert torch.equal(one, two), key


@pytest.mark.parametrize("name", ["resampler", "qformer", "perceiver", "perceiver of flamingo"])
def test_queries_take_a_cls_token_too(name: str) -> None:
    model, processor = grow(encoder={**CLIP, "keep_cls": True}, connector=CHOICES[name])
    pixels = processor.pixels(picture(1))
    with torch.no_grad():
        plain = model.get_image_features(pixels)
        features = model.encoder(pixels)
        assert features.shape[1] == 17
        features[:, 0] *= -1
        assert not torch.allclose(model.connector(features, (4, 4)), plain, atol=1e-4)


@pytest.mark.parametrize(
    "connector, message",
    [
        ({"type": "concat", "count": 3}, r"4 columns of a grid of 4 x 4 features are not divisible by count 3; "),
        ({"type": "merger", "factor": 3}, r"a grid of 4 x 4 features is not divisible by factor 3; schemes that fit"),
        ({"type": "resampler", "heads": 5}, r"a language model's width of 32 is not divisible by 5 heads$"),
        ({**QFORMER, "heads": 3}, r"^model.connector: a width of 16 is not divisible by 3 heads$"),
        ({**PERCEIVER, "kv_heads": 3}, r"^model.connector: 4 heads are not divisible by 3 kv_heads$"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_anything_runs(connector: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(section(connector=connector, language_model=LLAMA))


@pytest.mark.parametrize("name", CHOICES)
def test_a_recipe_that_fits_is_not(name: str) -> None:
    assert check_model(section(connector=CHOICES[name])).connector == CHOICES[name]
