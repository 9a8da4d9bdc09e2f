"""Places of visual tokens and features of inner layers: the rule, packed rows, files, recipes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from kit import LLAMA, QWEN2, QWEN3, alone, grow, picture, section, talk
from qwenkit import LANGUAGE, NATIVE, TOWERS, qwen
from sightling.errors import UserError
from sightling.loading import load, quiet
from sightling.model import VisionLanguageModel
from sightling.model.build import check_model
from sightling.model.language import language_config
from sightling.model.spatial import places
from sightling.train.packing import collate_rows, document

TENSORS = ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")
WIDE, TALL, SMALL = picture(1, 60, 20), picture(2, 10, 50), picture(3, 9, 9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4))), max_size=6))
def test_places_are_counted_token_by_token(parts: list[Any]) -> None:
    """Words one by one, fields row by row; what follows goes on behind the largest number."""
    here: list[bool] = []
    expected: list[tuple[int, int, int]] = []
    for part in parts:
        start = max((max(place) for place in expected), default=-1) + 1
        if isinstance(part, int):
            here += [False] * part
            expected += [(start + step,) * 3 for step in range(part)]
        else:
            here += [True] * (part[0] * part[1])
            expected += [(start, start + row, start + column) for row in range(part[0]) for column in range(part[1])]
    found = places(torch.tensor(here, dtype=torch.bool), [part for part in parts if not isinstance(part, int)])
    assert [tuple(place) for place in found.T.tolist()] == expected


def test_placeholders_that_are_no_pictures_are_told_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 image placeholders in the text, but pictures of 4 visual tokens"):
        places(torch.tensor([True, True, True, False]), [(2, 2)])


@pytest.mark.parametrize("name", TOWERS)
def test_samples_packed_behind_a_shared_picture_lose_what_they_lose_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = qwen(name)
    groups = [
        [talk((WIDE, "red?"), "yes"), talk((WIDE, "how many?"), "2")],
        [talk((TALL, " and ", SMALL, "which?"), "the first")],
        [talk("what is red?", "a heart")],
    ]
    documents = [document([processor.encode(sample) for sample in group]) for group in groups]
    batch = collate_rows(documents, [[0, 2], [1]], processor.pad_token_id)
    assert batch["position_ids"].shape == (3, *batch["input_ids"].shape)
    shown = processor.inputs(*(one for index in (0, 2, 1) for one in documents[index].pictures)).tensors()
    with torch.no_grad():
        apart = sum(
            cross_entropy(
                alone(model, processor, sample)[:-1], torch.tensor(processor.encode(sample).labels[1:]), reduction="sum"
            )
            for group in groups
            for sample in group
        )
    told = {key: batch[key] for key in TENSORS}
    dense, _ = model.supervised_loss(**told, **shown)
    torch.testing.assert_close(dense, apart, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("sightling.model.tree.WORTH", 0)
    monkeypatch.setattr(VisionLanguageModel, "packed_mask", None)
    compact, _ = model.supervised_loss(**told, **shown)
    torch.testing.assert_close(compact, apart, rtol=1e-5, atol=1e-5)
    compact.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", TOWERS)
def test_model_and_processor_are_saved_whole(name: str, tmp_path: Path) -> None:
    model, processor = qwen(name)
    with quiet():
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
    read, again = load(tmp_path, device="cpu")
    sample = talk((WIDE, "red? ", SMALL), "yes")
    assert again.encode(sample) == processor.encode(sample) and again.encode(sample).places is not None
    with torch.no_grad():
        torch.testing.assert_close(alone(read, again, sample), alone(model, processor, sample), atol=1e-4, rtol=1e-4)
    told = (tmp_path / "processor_config.json").read_text(encoding="utf-8")
    (tmp_path / "processor_config.json").write_text(told.replace('"spatial": true', '"spatial": false'))
    with pytest.raises(UserError, match=f"the processor in .* belongs to another model: a {name}_text is told the row"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("language", [LLAMA, QWEN2, QWEN3], ids=["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", TOWERS)
def test_their_towers_serve_ordinary_language_models(name: str, language: dict[str, Any]) -> None:
    model, processor = grow(
        encoder=TOWERS[name], connector={"type": "merger"}, language_model=language, tiling=NATIVE
    )
    sample = talk((WIDE, "red? ", TALL), "yes")
    encoded = processor.encode(sample)
    assert encoded.places is None and list(encoded.positions) == list(range(len(encoded.input_ids)))
    batch = collate_rows([document([encoded])], [[0]], processor.pad_token_id)
    loss, _ = model.supervised_loss(
        **{key: batch[key] for key in TENSORS}, **processor.inputs(*encoded.pictures).tensors()
    )
    loss.backward()
    expected = cross_entropy(
        alone(model, processor, sample)[:-1], torch.tensor(encoded.labels[1:]), reduction="sum"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert all(parameter.grad is not None for parameter in model.parameters())


def told(**parts: Any) -> dict[str, Any]:
    """A recipe's section of a Qwen3-VL in small."""
    return section(**{
        "encoder": {**TOWERS["qwen3_vl"], "layer": [1, -1]}, "connector": {"type": "merger", "deepstack": 1},
        "language_model": {**LANGUAGE, "type": "qwen3_vl_text"}, "tiling": NATIVE, **parts,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"language_model": QWEN3}, "a qwen3 takes no features behind its first layers; qwen3_vl_text does"),
        ({"language_model": {**LANGUAGE, "type": "qwen2_vl_text"}}, "a qwen2_vl_text takes no features behind"),
        ({"encoder": TOWERS["qwen3_vl"]}, "deepstack = 1 needs 2 layers of the encoder, but model.encoder.layer"),
        ({"connector": {"type": "merger", "deepstack": 5},
          "encoder": {**TOWERS["qwen3_vl"], "layer": [0, 1, 2, 3, 4, -1]}},
         "deepstack = 5 is more than the language model's 4 layers"),
        ({"connector": {"type": "resampler", "queries": 4}}, "wants to know the row and the column"),
        ({"connector": {"type": "pixel_shuffle", "version": "v1"}}, "merger, concat and pixel_shuffle keep them"),
        ({"connector": {"type": "cross_attention", "every": 2}}, "wants to know the row and the column"),
        ({"connector": {"type": "mlp"}, "tiling": {"type": "anyres"}}, "ends of rows have no column"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_before_anything_runs(parts: dict[str, Any], reason: str) -> None:
    check_model(told())
    with pytest.raises(UserError, match=reason):
        check_model(told(**parts))


def test_the_model_itself_refuses_them_too() -> None:
    model, _ = qwen("qwen3_vl")
    config = model.config
    config.connector = {"type": "merger", "deepstack": 2}
    with pytest.raises(UserError, match=r"needs 3 layers of the encoder, but model\.encoder\.layer names 4"):
        VisionLanguageModel(config)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"use_sliding_window": True}, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}},
         r"mrope_section \[2, 2, 2\] must share the 4 frequencies of heads of width 8"),
        ({"hidden_size": 8}, r"mrope_section \[-1, 1, 1\] must share the 1 frequencies"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1 is wrong"),
    ],
)  # fmt: skip
def test_language_models_whose_sizes_do_not_fit_are_refused(sizes: dict[str, Any], reason: str | None) -> None:
    with pytest.raises(UserError, match=reason or "use_sliding_window cannot be set for a qwen2_vl_text"):
        options = {**LANGUAGE, "type": "qwen2_vl_text", **sizes}
        language_config(options)
        check_model(told(language_model=options, encoder=TOWERS["qwen2_vl"], connector={"type": "merger"}))


@pytest.mark.parametrize(
    ("name", "shares"),
    [("qwen2_vl_text", [16, 24, 24]), ("qwen2_5_vl_text", [16, 24, 24]), ("qwen3_vl_text", [24, 20, 20])],
)
def test_heads_are_shared_as_in_published_models(name: str, shares: list[int]) -> None:
    config = language_config({"type": name, "hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 1})
    assert config.rope_parameters["mrope_section"] == shares
