"""MiniCPM-V 2.6 in its own form: read, computed as its published formulas say, and written back as it was."""

from __future__ import annotations

import json
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
    rewrite,
    weights,
    write_json,
)
from minicpm_formulas import cut, normalised, prompt, resampler, tower
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

import sightling
from kit import LLAMA, SIGLIP, WORDS, grow, stir
from sightling.errors import UserError
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe
from sightling.sight.connectors.resampler import ResamplerOptions

SMALL, WIDE, TALL, SQUARE = (20, 30), (200, 21), (19, 190), (64, 64)
"""The first shows no slices; the others five by one, one by five, two by two."""

PATCH, SIDE, SCALE, MOST, QUERIES, HEADS = 4, 7, 32, 9, 6, 2
WIDTH = 256
"""Of the language model: heads of the resampler are 128 wide."""

CALM = 0.08
"""The deviation of weights in layers so wide that states do not grow, and rounding with them."""

VISION = {"hidden_size": 32, "image_size": SIDE * PATCH, "intermediate_size": 48, "num_attention_heads": HEADS,
          "num_hidden_layers": 2, "patch_size": PATCH}  # fmt: skip
TEXT = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}  # fmt: skip
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>",
           "</image_id>", "<unk>")  # fmt: skip
SPOKEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def checkpoint(folder: Path, **told: Any) -> Any:
    """A tiny MiniCPM-V 2.6, its files named and filled as the published ones; returns its language model."""
    folder.mkdir(exist_ok=True)
    tokenizer = byte_level(
        *CONTROL, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    )
    tokenizer.chat_template = SPOKEN
    tokenizer.save_pretrained(folder)
    # The published folder names a class of its own, which is code.
    change_json(
        folder / "tokenizer_config.json", tokenizer_class="MiniCPMVTokenizer",
        auto_map={"AutoTokenizer": ["", "tokenization_minicpmv_fast.MiniCPMVTokenizerFast"]},
    )  # fmt: skip
    text = Qwen2Config(**TEXT, vocab_size=len(tokenizer) + 10, rope_parameters={"rope_theta": 1e6},
                       tie_word_embeddings=told.get("tie_word_embeddings", False))  # fmt: skip
    language = stir(Qwen2ForCausalLM(text), 0, CALM).eval()
    vision = stir(SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False)), 1)
    sampler = stir(ResamplerOptions(queries=QUERIES).build(VISION["hidden_size"], WIDTH), 2, CALM)
    tensors = {f"llm.{key}": one for key, one in language.state_dict().items()}
    tensors |= {f"vpm.{key.removeprefix('vision_model.')}": one for key, one in vision.state_dict().items()}
    tensors |= {f"resampler.{key}": one for key, one in sampler.state_dict().items()}
    if text.tie_word_embeddings:
        del tensors["llm.lm_head.weight"]
    rewrite(folder, tensors)
    write_json(folder / "config.json", {
        "_name_or_path": "openbmb/MiniCPM-V-2_6", "version": 2.6, "architectures": ["MiniCPMV"],
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig"}, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02, **TEXT,
        "max_window_layers": 28, "rope_theta": 1e6, "sliding_window": 131072, "tie_word_embeddings": False,
        "torch_dtype": "float32", "transformers_version": "4.40.0", "use_cache": True, "use_sliding_window": False,
        "vocab_size": text.vocab_size, "batch_vision_input": True, "drop_vision_last_layer": False,
        "image_size": 448, "model_type": "minicpmv", "patch_size": PATCH, "query_num": QUERIES,
        "slice_config": {"max_slice_nums": MOST, "patch_size": PATCH, "model_type": "minicpmv"}, "slice_mode": True,
        "vision_config": {**VISION, "model_type": "siglip"}, **told,
    })  # fmt: skip
    write_json(folder / "preprocessor_config.json", {
        "image_processor_type": "MiniCPMVImageProcessor", "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": MOST, "scale_resolution": SCALE, "patch_size": PATCH, "use_image_id": True,
        "image_feature_size": QUERIES, "im_start": "<image>", "im_end": "</image>", "slice_start": "<slice>",
        "slice_end": "</slice>", "unk": "<unk>", "im_id_start": "<image_id>", "im_id_end": "</image_id>",
        "slice_mode": True, "norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5], "version": 2.6,
    })  # fmt: skip
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    return language


def check_parity(folder: Path, language: Any, *several: tuple[Any, ...]) -> None:
    """The same ids, pixels, image features and logits as the published formulas give."""
    model, processor = sightling.load(folder, device="cpu")
    tokenizer, tensors = PreTrainedTokenizerFast.from_pretrained(folder), weights(folder)
    told = json.loads((folder / "preprocessor_config.json").read_text())
    scale, most, queries = told["scale_resolution"], told["max_slice_nums"], told["image_feature_size"]
    for sizes in several or ((SMALL,), (WIDE,), (TALL,), (SQUARE, SMALL, WIDE)):
        sample = asked("what red?", *sizes)
        text = prompt(images(sample), "what red?", scale, most, queries)
        ids_T = torch.tensor(tokenizer(text)["input_ids"])
        encoded = processor.encode(sample, prompt_only=True)
        assert list(encoded.input_ids) == ids_T.tolist()
        inputs = processor.inputs(*encoded.pictures)
        shown = model.encoder.normalise(inputs.pixels)
        cuts = [normalised(one) for image in images(sample) for one in cut(image, scale, most, PATCH)]
        assert len(shown) == len(cuts)
        for ours, theirs in zip(shown, cuts, strict=True):
            torch.testing.assert_close(ours[:, : theirs.shape[1], : theirs.shape[2]], theirs, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            features = model.get_image_features(inputs.pixels, inputs.sizes)
            grids = [(one.shape[1] // PATCH, one.shape[2] // PATCH) for one in cuts]
            seen = [tower(tensors, one, PATCH, SIDE, HEADS) for one in cuts]
            found = torch.stack([resampler(tensors, one, *grid) for one, grid in zip(seen, grids, strict=True)])
            assert found.std() > 0.1
            torch.testing.assert_close(features, found, atol=1e-4, rtol=1e-4)
            states_TD = language.get_input_embeddings()(ids_T).clone()
            states_TD[ids_T == tokenizer.convert_tokens_to_ids("<unk>")] = found.flatten(0, 1)
            wanted = language(inputs_embeds=states_TD[None], use_cache=False).logits
        assert wanted.std() > 0.3
        ours = logits(model, {"input_ids": ids_T[None], **inputs.tensors()})
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


def check_written_back(folder: Path, target: Path) -> None:
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="minicpmv2_6")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)


MADE: dict[str, dict[str, Any]] = {
    "as published": {},
    "one input at a time": {"batch_vision_input": False},
    "another name of its tower": {"vision_config": {**VISION, "model_type": "siglip_vision_model"}},
    "tied": {"tie_word_embeddings": True},
}  # fmt: skip


@pytest.mark.parametrize("made", MADE)
def test_a_folder_as_published_is_read_and_written_back(made: str, tmp_path: Path) -> None:
    language = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", language)
    check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", language, (SQUARE, TALL))


def test_answers_are_the_language_models_own(tmp_path: Path) -> None:
    language = checkpoint(tmp_path)
    model, processor = sightling.load(tmp_path, device="cpu")
    sample = asked("what red?", SQUARE, SMALL)
    encoded = processor.encode(sample, prompt_only=True)
    ids = torch.tensor([encoded.input_ids])
    inputs = processor.inputs(*encoded.pictures)
    made = model.generate(input_ids=ids, **inputs.tensors(), max_new_tokens=8, do_sample=False)
    with torch.no_grad():
        states = model.embed(ids, model.get_image_features(inputs.pixels, inputs.sizes))
        wanted = language.generate(
            inputs_embeds=states, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            eos_token_id=2, pad_token_id=0, suppress_tokens=[model.config.image_token_id],
        )  # fmt: skip
    assert torch.equal(made[:, ids.shape[1] :], wanted)


def grown(folder: Path, **told: Any) -> Any:
    """A model of our own with its own tokenizer."""
    parts: dict[str, Any] = {
        "encoder": {"type": "siglip", **VISION, "positions": "stepped"},
        "connector": {"type": "resampler", "queries": QUERIES},
        "tiling": {"type": "adaptive", "scale": SCALE, "max_slices": MOST},
        "language_model": {"type": "qwen2", **TEXT},
        "template": "minicpm-v",
        **told,
    }
    train_bpe(WORDS * 5, 330, TEMPLATES.get(parts["template"])).save_pretrained(folder / "tokenizer")
    return grow(tokenizer={"pretrained": str(folder / "tokenizer")}, **parts)


def test_a_model_of_our_own_is_written_in_that_form(tmp_path: Path) -> None:
    model, processor = grown(tmp_path)
    sightling.save(stir(model, 0, CALM), processor, tmp_path / "a", layout="minicpmv2_6")
    told = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (told["model_type"], told["version"], told["query_num"]) == ("minicpmv", 2.6, QUERIES)
    check_parity(tmp_path / "a", model.language_model)
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another language model": ({"language_model": LLAMA, "connector": {"type": "resampler", "heads": 1}},
                               "language_model.type = 'llama'; it takes a qwen2"),
    "another tower": ({"encoder": {**SIGLIP, "type": "clip", "positions": "stepped"}}, "encoder.type = 'clip_vision"),
    "other positions": ({"encoder": SIGLIP}, "encoder.positions = 'interpolated'"),
    "another layer": ({"encoder": {**SIGLIP, "positions": "stepped", "layer": -2}}, "encoder.layer = -2"),
    "other heads": ({"connector": {"type": "resampler", "heads": 4}}, "a resampler, version minicpm_v, whose heads"),
    "another connector": ({"connector": {"type": "mlp"}}, "cannot hold connector = .*it takes a resampler"),
    "another tiling": ({"tiling": {"type": "adaptive", "merge": 2}}, "cannot hold tiling = .*adaptive with merge 1"),
    "another template": ({"template": "chatml"}, "template = 'chatml'; it takes minicpm-v"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    pair = grown(tmp_path, **told)
    with pytest.raises(UserError, match=message):
        sightling.save(*pair, tmp_path / "a", layout="minicpmv2_6")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "another version": ("config.json", {"version": 2.5}, "version = 2.5 cannot be followed; 2.6 or"),
    "last layer": ("config.json", {"drop_vision_last_layer": True}, "drop_vision_last_layer = True cannot be"),
    "no tower": ("config.json", {"vision_config": None}, "vision_config is missing"),
    "queries": ("config.json", {"query_num": 5}, "image_feature_size = 6 cannot be followed; 5 would be right"),
    "patch": ("preprocessor_config.json", {"patch_size": 8}, "patch_size = 8 cannot be followed; 4 would be right"),
    "marks": ("preprocessor_config.json", {"slice_start": "<s>"}, "slice_start = '<s>' cannot be followed"),
    "no numbers": ("preprocessor_config.json", {"use_image_id": False}, "use_image_id = False cannot be followed"),
    "slices": ("preprocessor_config.json", {"max_slice_nums": 0}, "preprocessor_config.json.*max_slices"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    name, told, message = TOLD[what]
    change_json(tmp_path / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path, device="cpu")


def test_a_tokenizer_or_a_template_that_is_missing_or_another_is_said(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    with pytest.raises(UserError, match=r"writes .*which no template here does; minicpm-v were tried"):
        sightling.load(tmp_path, device="cpu")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        sightling.load(tmp_path, device="cpu")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_wrong_weights_are_named(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    found = weights(tmp_path)
    key = "resampler.attn.in_proj_bias"
    if wrong == "unknown":
        found["resampler.pos_embed"] = found[key]
    else:
        found[key] = found[key][:-1]
    if wrong == "missing":
        del found[key]
    rewrite(tmp_path, found)
    message = {
        "missing": f"lack the key: {key}", "unknown": "hold an unknown key: resampler.pos_embed",
        "misshapen": rf"another shape: {key}, \(767,\) where the model has \(768,\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path, device="cpu")
