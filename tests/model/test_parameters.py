"""Parameters counted from a recipe's words, and sizes that a recipe expects of what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kit import CLIP, LLAMA, SIGLIP, grow, section
from sightling.errors import UserError
from sightling.model.build import build_model
from sightling.model.parameters import count_parameters

B32 = {"type": "clip", "image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12,
       "num_attention_heads": 12, "intermediate_size": 3072, "keep_cls": True}  # fmt: skip
MINIMIND = {"type": "llama", "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 6400}


@pytest.mark.parametrize(
    ("told", "whole", "language"),
    [
        ({**MINIMIND, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408}, 27.27, 26.88),
        ({**MINIMIND, "hidden_size": 768, "num_hidden_layers": 16, "intermediate_size": 2048}, 109.34, 108.75),
    ],
)
def test_minimind_v_of_2024_has_as_many_as_its_authors_count(told: Any, whole: float, language: float) -> None:
    counts = count_parameters({"encoder": B32, "connector": {"type": "linear"}, "language_model": told})
    assert round(counts["language_model"] / 1e6, 2) == language
    assert round((counts["language_model"] + counts["connector"]) / 1e6, 2) == whole


@pytest.mark.parametrize("told", [{}, {"connector": {"type": "qformer"}}, {"tiling": {"type": "anyres"}}])
def test_as_many_as_a_model_that_was_built_has(told: dict[str, Any]) -> None:
    model, _ = grow(**told)
    rows = model.get_input_embeddings().num_embeddings
    counts = count_parameters(section(**told), rows)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(UserError, match=r"^model.language_model says no vocab_size; its embeddings cannot be counted$"):
        count_parameters(section(**told))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    model, processor = grow(encoder=CLIP)
    model.encoder.tower.save_pretrained(folder / "tower")
    model.language_model.save_pretrained(folder / "words")
    processor.tokenizer.save_pretrained(folder / "words")
    return folder


def test_sizes_beside_pretrained_are_what_is_expected_there(saved: Path, tmp_path: Path) -> None:
    told = section(encoder={**CLIP, "pretrained": str(saved / "tower")},
                   language_model={**LLAMA, "pretrained": str(saved / "words")})  # fmt: skip
    model, _ = build_model(told, 0, tmp_path)
    original, _ = grow(encoder=CLIP)
    for name in ("encoder", "language_model"):
        theirs = original.parts()[name].state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in model.parts()[name].state_dict().items())
    counted = count_parameters(told, original.get_input_embeddings().num_embeddings)
    assert sum(counted.values()) == sum(parameter.numel() for parameter in original.parameters())


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("encoder", {"hidden_size": 64}, r"model.encoder.hidden_size = 64 is expected, but the model in .* has 32$"),
        ("encoder", {"type": "siglip"},
         r"model.encoder.type = 'siglip' is expected, but .* holds a 'clip_vision_model'$"),
        ("language_model", {"num_hidden_layers": 3},
         r"model.language_model.num_hidden_layers = 3 is expected, but the model in .* has 2$"),
    ],
)  # fmt: skip
def test_another_model_than_expected_is_refused(
    saved: Path, tmp_path: Path, part: str, changed: dict[str, Any], message: str
) -> None:
    told = section(encoder={**CLIP, "pretrained": str(saved / "tower")},
                   language_model={**LLAMA, "pretrained": str(saved / "words")})  # fmt: skip
    told[part] = {**told[part], **changed}
    with pytest.raises(UserError, match=message):
        build_model(told, 0, tmp_path)


def test_sizes_without_their_type_are_refused(tmp_path: Path) -> None:
    told = section(encoder={"image_size": 16, "pretrained": "somewhere"})
    with pytest.raises(UserError, match=r"^model.encoder.image_size beside pretrained needs the type that it belongs"):
        build_model(told, 0, tmp_path)
    assert count_parameters(section(encoder={**SIGLIP, "pretrained": "nowhere"}), 330)["encoder"] > 0
