"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: what transformers writes is read, gives its numbers, and is written back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    asked,
    byte_level,
    change_json,
    check_same_json,
    check_same_weights,
    images,
    logits,
    rename,
    save_foreign,
)  # fmt: skip
from transformers import AutoTokenizer, GenerationConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import sightling
from kit import CLIP, QWEN3
from qwenkit import CONNECTORS, LANGUAGE, MERGE, NATIVE, PATCH, TOWERS, WHOLE, StillProcessor, qwen
from sightling.errors import UserError
from sightling.loading import load
from sightling.sight.encoders import STATISTICS, tower_config

SIZES = ((40, 20), (10, 50), (24, 24))
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template(name: str) -> str:
    return TURNS if name == "qwen3_vl" else SYSTEM + TURNS


def checkpoint(name: str, folder: Path, **told: Any) -> Any:
    """A tiny model that transformers has saved; returns it."""
    kind, architecture = WHOLE[name]
    tokenizer = byte_level(*CONTROL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    vision = tower_config(TOWERS[name]).to_dict()
    vision["hidden_size" if name == "qwen2_vl" else "out_hidden_size"] = LANGUAGE["hidden_size"]
    if name == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [0, 1, 3]
    text = {**LANGUAGE, "vocab_size": len(tokenizer) + 9, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}  # fmt: skip
    if name == "qwen3_vl":
        text["head_dim"] = 8
    ids = {key: tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for key, mark in (
        ("image_token_id", "image_pad"), ("video_token_id", "video_pad"), ("vision_start_token_id", "vision_start"),
        ("vision_end_token_id", "vision_end"))}  # fmt: skip
    model = architecture(kind(vision_config=vision, text_config=text, **{**ids, **told}))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, top_p=0.9, do_sample=True)
    save_foreign(model, folder)
    statistics = STATISTICS["half" if name == "qwen3_vl" else "clip"]
    Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, image_mean=list(statistics.mean), image_std=list(statistics.std),
        size={"shortest_edge": NATIVE["min_pixels"], "longest_edge": NATIVE["max_pixels"]},
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template(name), encoding="utf-8")
    (folder / "video_preprocessor_config.json").write_text('{"fps": 2}', encoding="utf-8")
    return model


def check_parity(folder: Path, theirs: Any, chat_template: str) -> None:
    """The same prompts and logits for pictures of three sizes, alone and together."""
    model, processor = load(folder, device="cpu")
    pictures = Qwen2VLImageProcessorPil.from_pretrained(folder)
    reference = StillProcessor(pictures, AutoTokenizer.from_pretrained(folder), chat_template=chat_template)
    for sizes in ((SIZES[0],), (SIZES[1],), (SIZES[2],), SIZES):
        sample = asked("what red?", *sizes)
        content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": "what red?"}]
        prompt = reference.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        wanted = reference(images=images(sample), text=[prompt], return_tensors="pt")
        encoded = processor.encode(sample, prompt_only=True)
        assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
        ours = logits(model, {"input_ids": wanted["input_ids"], **processor.inputs(*encoded.pictures).tensors()})
        found = logits(theirs, wanted)
        assert found.std() > 0.3
        torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)


def check_written_back(name: str, folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*load(folder, device="cpu"), target, layout=name)
    check_same_weights(folder, target)
    for file in ("config.json", "preprocessor_config.json", "generation_config.json"):
        check_same_json(folder, target, file)
    return WHOLE[name][1].from_pretrained(target).eval()


OTHER_NAMES = [("model.visual.", "visual."), ("visual.", "model.visual."), ("model.language_model.", "model."),
               ("model.", "model.language_model.")]  # fmt: skip


# Qwen3-VL's files never had the older names.
@pytest.mark.parametrize(
    ("name", "names"),
    [*((name, "as transformers writes them") for name in TOWERS), ("qwen2_vl", "others"), ("qwen2_5_vl", "others")],
)
def test_a_folder_of_transformers_is_read_and_written_back(name: str, names: str, tmp_path: Path) -> None:
    theirs = checkpoint(name, tmp_path / "a")
    if names == "others":
        rename(tmp_path / "a", *OTHER_NAMES)
    check_parity(tmp_path / "a", theirs, template(name))
    again = check_written_back(name, tmp_path / "a", tmp_path / "b")
    check_same_json(tmp_path / "a", tmp_path / "b", "video_preprocessor_config.json")
    check_parity(tmp_path / "b", again, template(name))


@pytest.mark.parametrize("name", TOWERS)
def test_tied_embeddings(name: str, tmp_path: Path) -> None:
    theirs = checkpoint(name, tmp_path / "a", tie_word_embeddings=True)
    check_parity(tmp_path / "a", theirs, template(name))
    check_written_back(name, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("name", TOWERS)
def test_a_model_of_our_own_is_written_for_transformers(name: str, tmp_path: Path) -> None:
    model, processor = qwen(name, template="qwen3-vl")
    sightling.save(model, processor, tmp_path / "a", layout=name)
    theirs = WHOLE[name][1].from_pretrained(tmp_path / "a").eval()
    check_parity(tmp_path / "a", theirs, processor.chat_template)
    check_written_back(name, tmp_path / "a", tmp_path / "b")
    told = json.loads((tmp_path / "a" / "config.json").read_text())
    assert told["architectures"] == [WHOLE[name][1].__name__] and told["model_type"] == name


@pytest.mark.parametrize("name", TOWERS)
def test_parts_of_a_whole_model_are_taken_alone(name: str, tmp_path: Path) -> None:
    checkpoint(name, tmp_path)
    whole, _ = load(tmp_path, device="cpu")
    source = {"pretrained": str(tmp_path)}
    model, _ = grow_from(
        encoder=source, language_model={**source, **LANGUAGE, "type": f"{name}_text"}, tokenizer=source,
        connector={"type": "merger", "norm": CONNECTORS[name].get("norm", "layer")}, tiling=NATIVE,
        template="qwen3-vl",
    )  # fmt: skip
    for part in ("encoder", "language_model"):
        found, wanted = getattr(model, part).state_dict(), getattr(whole, part).state_dict()
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(found[key][: len(tensor)], tensor[: len(found[key])]), key


def grow_from(**told: Any) -> Any:
    """As a recipe builds it, with the weights as they come."""
    from sightling.model.build import build_model

    return build_model(told, 0, Path("nowhere"))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "tiling": ("qwen2_vl", {"tiling": {"type": "dynamic"}}, "tiling = .*dynamic.*it takes native with merge 2"),
    "connector": ("qwen2_vl", {"connector": {"type": "mlp"}}, "connector = .*mlp.*it takes a merger of factor 2"),
    "norm": ("qwen2_5_vl", {"connector": {"type": "merger"}}, "with the norm 'rms'"),
    "layer": ("qwen2_vl", {"encoder": {**TOWERS["qwen2_vl"], "layer": 2}}, "it takes the last layer alone"),
    "order": ("qwen3_vl", {"encoder": {**TOWERS["qwen3_vl"], "layer": [2, 1, 4, -1]}},
              "it takes inner layers in order"),
    "language": ("qwen3_vl", {"language_model": QWEN3, "connector": {"type": "merger"}, "encoder": TOWERS["qwen3_vl"]},
                 "a part = 'qwen3'; it takes a qwen3_vl_text"),
    "tower": ("qwen2_vl", {"encoder": CLIP}, "a part = 'clip_vision_model'; it takes a qwen2_vl_vision"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    name, told, message = REFUSED[what]
    tiling = {"tiling": {"type": "single"}} if "encoder" in told and told["encoder"] is CLIP else {}
    model, processor = qwen(name, **told, **tiling)
    with pytest.raises(UserError, match=message):
        sightling.save(model, processor, tmp_path / "a", layout=name)
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "patch": ("preprocessor_config.json", {"patch_size": 8}, "patch_size = 8 cannot be followed; 4 would be right"),
    "merge": ("preprocessor_config.json", {"merge_size": 1}, "merge_size = 1 cannot be followed; 2 would be right"),
    "pixels": ("preprocessor_config.json", {"min_pixels": 5000}, "min_pixels 5000 is more than max_pixels"),
    "no resizing": ("preprocessor_config.json", {"do_resize": False}, "do_resize = False cannot be followed"),
    "placeholder": ("config.json", {"image_token_id": 1}, "placeholder is token 5 in the tokenizer, but 1"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint("qwen3_vl", tmp_path)
    name, told, message = TOLD[what]
    change_json(tmp_path / name, **told)
    with pytest.raises(UserError, match=message):
        load(tmp_path, device="cpu")


def test_inner_layers_out_of_order_are_refused(tmp_path: Path) -> None:
    checkpoint("qwen3_vl", tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told["vision_config"]["deepstack_visual_indexes"] = [3, 0, 1]
    change_json(tmp_path / "config.json", **told)
    with pytest.raises(UserError, match=re.escape("deepstack_visual_indexes = [3, 0, 1] cannot be followed")):
        load(tmp_path, device="cpu")
