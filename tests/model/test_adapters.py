"""Which matrices an adapter is of, that it changes nothing at first, and that merged it says what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from kit import CLIP, LLAMA, grow, picture, stir
from sightling.data.sample import question
from sightling.errors import UserError
from sightling.model import adapters
from sightling.model.adapters import adapted_layers, adapted_names, adapter_parameters, attach, merge, plain, write

WORDS = "is there a blue square?"
INSIDE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def names(model: Any, part: str, wanted: Any = "all-linear", without: Any = None) -> list[str]:
    return adapted_names(model, model.parts(), part, wanted, without, set(model.parameters()), f"stage.{part}")


def logits(model: Any, processor: Any) -> Tensor:
    encoded = processor.encode(question(WORDS, picture()))
    told = processor.inputs(*encoded.pictures).tensors()
    with torch.no_grad():
        return model(input_ids=torch.tensor([encoded.input_ids]), **told).logits


def adapted(part: str = "language_model", **options: Any) -> tuple[Any, Any, adapters.Adapter]:
    """A model with an adapter that says something."""
    model, processor = grow()
    torch.manual_seed(0)
    adapter = attach(part, model.parts()[part], names(model, part), {"r": 3, "lora_alpha": 6, **options})
    for layer in adapted_layers(model).values():
        stir(layer.lora_B, 1)
    return model.eval(), processor, adapter


# ---- which matrices


@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_is_of_its_own_part_and_not_of_the_head(tied: bool) -> None:
    model, _ = grow(language_model={**LLAMA, "tie_word_embeddings": tied})
    assert sorted({name.rsplit(".", 1)[-1] for name in names(model, "language_model")}) == sorted(INSIDE)
    assert len(names(model, "language_model")) == 2 * 7
    for part in ("encoder", "connector", "language_model"):
        inside = set(model.parts()[part].modules())
        for name in names(model, part):
            assert model.parts()[part].get_submodule(name) in inside
            assert isinstance(model.get_submodule(f"{part}.{name}"), nn.Linear)
    assert len(names(model, "encoder")) == 2 * 6 and len(names(model, "connector")) == 2


def test_names_as_they_end_and_regular_expressions() -> None:
    model, _ = grow()
    assert names(model, "language_model", ["q_proj", "v_proj"]) == [
        f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
    ]
    assert names(model, "language_model", r"model\.layers\.1\..*_proj", ["o_proj", "mlp.up_proj"]) == [
        f"model.layers.1.{name}"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj")
    ]


def test_the_attention_of_torch_itself_is_left_out() -> None:
    """It reads its last matrix without calling it, so an adapter there would learn nothing."""
    model, _ = grow(connector={"type": "resampler", "queries": 4, "heads": 1, "version": "minicpm_v"})
    assert any(isinstance(one, nn.MultiheadAttention) for one in model.connector.modules())
    assert any(isinstance(one, nn.Linear) for one in model.connector.modules())
    for wanted in ("all-linear", ["out_proj"]):
        with pytest.raises(UserError, match="the connector has no linear layer that an adapter could be of"):
            names(model, "connector", wanted)


@pytest.mark.parametrize(
    ("wanted", "without", "sentence"),
    [
        (["q_porj"], None, r"stage.language_model.target_modules: the language model has no linear layer called "
                           r"'q_porj'; did you mean 'q_proj'\?"),
        (["q_proj"], ["k_porj"], r"exclude_modules: .* called 'k_porj'; did you mean 'k_proj'\?"),
        ("q_proj", None, r"target_modules = 'q_proj' fits no linear layer of the language model; they are called like"),
        (["lm_head"], None, "target_modules names the output head, which takes no adapter"),
        (["vision_model"], None, "has no linear layer called 'vision_model'"),
        (["q_proj"], ["self_attn.q_proj"], "leaves no linear layer of the language model to adapt"),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_one_sentence(wanted: Any, without: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        names(grow()[0], "language_model", wanted, without)
    assert "\n" not in str(told.value)


def test_weights_that_are_held_fixed_are_left_alone() -> None:
    model, _ = grow()
    free = set(model.language_model.model.layers[0].parameters())
    found = adapted_names(model, model.parts(), "language_model", ["q_proj"], None, free, "stage.language_model")
    assert found == ["model.layers.0.self_attn.q_proj"]


# ---- what they do


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains() -> None:
    model, processor = grow()
    before = logits(model, processor)
    attach("language_model", model.language_model, names(model, "language_model"), {"r": 2})
    assert torch.equal(logits(model.eval(), processor), before)
    assert len(adapter_parameters(model)) == 2 * 2 * 7
    assert len(adapter_parameters(model.encoder)) == len(adapter_parameters(model.connector)) == 0
    assert adapters.described(model.language_model) == "LoRA, r 2, of 14 matrices"
    assert adapters.described(model.encoder) == ""


@pytest.mark.parametrize("part", ["language_model", "encoder", "connector"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}])
def test_merged_it_says_what_it_said_and_is_a_plain_model(part: str, options: dict[str, Any]) -> None:
    model, processor, _ = adapted(part, **options)
    same, _ = grow()
    shapes = {name: tensor.shape for name, tensor in same.state_dict().items()}
    own = dict(same.named_parameters())
    unmerged = logits(model, processor)
    assert not torch.allclose(unmerged, logits(same, processor), atol=1e-2)
    merge(model)
    torch.testing.assert_close(logits(model, processor), unmerged, atol=2e-4, rtol=1e-4)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, own[name])}
    assert changed == {f"{part}.{name}.weight" for name in names(same, part)}
    assert not adapted_layers(model)


def test_sums_are_made_in_float32_whatever_the_weights_are_held_in() -> None:
    model, _, _ = adapted()
    half, _, _ = adapted()
    half = half.to(torch.bfloat16)
    merge(half)
    exact, _ = grow()
    with torch.no_grad():
        for name, layer in adapted_layers(model.to(torch.bfloat16)).items():
            low, high = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
            expected = layer.base_layer.weight.float() + 2.0 * (high @ low)
            assert torch.equal(half.get_submodule(name).weight, expected.to(torch.bfloat16)), name
    assert half.dtype == torch.bfloat16 and set(half.state_dict()) == set(exact.state_dict())


def test_plain_for_a_while_and_then_as_it_was() -> None:
    model, processor, _ = adapted(use_dora=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unmerged = logits(model, processor)
    with plain(model):
        assert set(model.state_dict()) == set(grow()[0].state_dict())
        torch.testing.assert_close(logits(model, processor), unmerged, atol=2e-4, rtol=1e-4)
    after = model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(logits(model, processor), unmerged)


@pytest.mark.parametrize("part", ["language_model", "encoder"])
@pytest.mark.parametrize("dora", [False, True])
def test_what_is_written_is_peft_s_and_of_the_whole_model(tmp_path: Path, part: str, dora: bool) -> None:
    model, processor, adapter = adapted(part, use_dora=dora)
    write(adapter, model.parts()[part], tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA" and told["r"] == 3 and told["use_dora"] is dora
    assert all(name.startswith(f"{part}.") for name in told["target_modules"])
    again = PeftModel.from_pretrained(grow()[0], tmp_path).eval()
    torch.testing.assert_close(logits(again, processor), logits(model, processor), atol=1e-5, rtol=1e-5)
    of = {name.rsplit(".lora_", 1)[0] for name, _ in again.named_parameters() if ".lora_" in name}
    assert of == {f"base_model.model.{name}" for name in adapter.names}


def test_an_adapter_of_another_kind_of_tower() -> None:
    model, processor = grow(encoder=CLIP)
    attach("encoder", model.encoder, names(model, "encoder", ["fc1", "fc2"]), {"r": 1})
    assert len(adapted_layers(model)) == 4 and all(name.startswith("encoder.") for name in adapted_layers(model))
    assert logits(model.eval(), processor).isfinite().all()
