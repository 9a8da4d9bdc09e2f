"""``sightling merge``: an adapter in PEFT's format put into a model's weights, and what does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import kit
import sightling
from sightling import cli
from sightling.interop.adapters import _logits, merge
from sightling.loading import quiet
from sightling.model.adapters import adapted_layers, attach, write
from sightling.model.quantised import quantise

INSIDE = r"language_model\..*\.(q|v)_proj"


def outcome(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(part) for part in argv])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    model, processor = kit.grow()
    with quiet():
        sightling.save(model, processor, folder)
    return folder


def adapter(folder: Path, **told: Any) -> Path:
    """One as PEFT itself writes it, of random numbers."""
    wrapped = get_peft_model(kit.grow()[0], LoraConfig(**{"r": 2, "target_modules": INSIDE, **told}))
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            kit.stir(torch.nn.ParameterDict({name.rsplit(".", 1)[-1]: parameter}), len(name))
    wrapped.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("told", [{}, {"use_dora": True}, {"modules_to_save": ["connector"]}])
def test_merged_it_says_what_it_said(tmp_path: Path, base: Path, told: dict[str, Any]) -> None:
    folder = adapter(tmp_path / "adapter", **told)
    done = merge(folder, base, tmp_path / "out")
    assert done.matrices == 4 and done.difference < 1e-3 and done.largest > 0.1
    model, processor = sightling.load(tmp_path / "out", device="cpu")
    before, _ = sightling.load(base, device="cpu")
    around = PeftModel.from_pretrained(sightling.load(base, device="cpu")[0], folder).eval()
    unmerged = _logits(around, processor)
    torch.testing.assert_close(_logits(model, processor), unmerged, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(_logits(before, processor), unmerged, atol=1e-2)
    own = before.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, own[name])}
    beside = {name for name in changed if name.startswith("connector.")}
    assert len(changed - beside) == 4 and bool(beside) is ("modules_to_save" in told)


def test_an_adapter_of_a_rounded_base_says_how_far_it_is_from_there(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = sightling.load(base, device="cpu")
    part = model.language_model
    names = [name for name, _ in part.named_modules() if name.endswith(("q_proj", "v_proj"))]
    quantise(part, names, "nf4", True)
    learnt = attach("language_model", part, names, {"r": 2})
    for layer in adapted_layers(part).values():
        kit.stir(layer.lora_B, 1)
    write(learnt, part, tmp_path / "adapter")
    code, out, err = outcome(capsys, "merge", tmp_path / "adapter", base, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    sentence = r"learnt over weights in nf4, so this model is near that one, not it: logits differ by up to (\S+)"
    told = re.search(sentence, out)
    merged, _ = sightling.load(tmp_path / "out", device="cpu")
    apart = (_logits(merged, processor) - _logits(model, processor)).abs().max()
    assert told and float(told[1]) == pytest.approx(float(apart), rel=1e-2) and apart > 1e-3


def test_a_base_in_bfloat16_is_merged_in_float32_and_stays_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = kit.grow()
    with quiet():
        sightling.save(model.to(torch.bfloat16), processor, tmp_path / "base")
    folder = adapter(tmp_path / "adapter")
    code, out, err = outcome(capsys, "merge", folder, tmp_path / "base", "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "with the adapter of 4 matrices in its weights" in out and "weights are bfloat16" in out
    told = re.search(r"on a sample prompt: (\S+) \(logits reach (\S+);", out)
    assert told and 0 < float(told[1]) < 0.02 * float(told[2]) + 0.05
    merged, _ = sightling.load(tmp_path / "out", device="cpu")
    assert merged.dtype == torch.bfloat16
    weights, name = load_file(folder / "adapter_model.safetensors"), "language_model.model.layers.1.self_attn.q_proj"
    high, low = (weights[f"base_model.model.{name}.lora_{one}.weight"] for one in "BA")
    expected = model.state_dict()[f"{name}.weight"].float() + (8 / 2) * (high @ low)
    assert torch.equal(merged.state_dict()[f"{name}.weight"], expected.to(torch.bfloat16))


def test_what_does_not_fit_is_one_line(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_file(adapter(tmp_path / "good") / "adapter_model.safetensors")
    key = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def made(name: str, weights: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        told = json.loads((tmp_path / "good" / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(told | config))
        save_file(whole if weights is None else weights, folder / "adapter_model.safetensors")
        return folder

    other = {name.replace("layers.0", "layers.7"): tensor for name, tensor in whole.items()}
    damaged = made("damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"no")
    pickled = made("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cases = {
        "it is of language_model.model.layers.7.self_attn.q_proj, which the model has not": made("deeper", other),
        f"it lacks key {key}": made("less", {name: tensor for name, tensor in whole.items() if name != key}),
        f"it holds the unknown key {key.replace('q_proj', 'k_proj')}":
            made("more", {**whole, key.replace("q_proj", "k_proj"): whole[key].clone()}),
        f"{key} has shape (2, 16) there and (2, 32) here": made("narrow", {**whole, key: torch.zeros(2, 16)}),
        "holds an adapter of the kind 'IA3'; only LoRA and DoRA": made("ia3", peft_type="IA3"),
        "adapter_model.safetensors is damaged or cut short": damaged,
        "adapter_config.json has a value that cannot be: missing )": made("torn", target_modules="(("),
        "adapter_config.json has a value that cannot be: '<=' not supported": made("words", r="eight"),
        "adapter_config.json has a value that cannot be: unsupported operand": made("nothing", lora_alpha=None),
        "lacks adapter_model.safetensors; pickled weights (.bin) are not read": pickled,
        "holds no adapter: there is no adapter_config.json": base,
    }  # fmt: skip
    for message, folder in cases.items():
        code, _, err = outcome(capsys, "merge", folder, base, "--output", tmp_path / "out")
        assert code == 2 and message in err and err.count("\n") == 1, (message, err)
        assert not (tmp_path / "out").exists()
    code, _, err = outcome(capsys, "merge", tmp_path / "good", tmp_path / "gone", "--output", tmp_path / "out")
    assert code == 2 and "there is no folder" in err
    code, _, err = outcome(capsys, "merge", tmp_path / "good", base, "--output", base)
    assert code == 2 and "is there already and not empty" in err
