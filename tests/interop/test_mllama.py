"""Mllama: what transformers writes is read, tiled as its processor tiles, gives the same numbers, is written back."""

from __future__ import annotations

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
    rewrite,
    save_foreign,
    weights,
)
from torch import Tensor
from transformers import (
    AutoTokenizer,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

import sightling
from kit import SIGLIP, grow, noise, stir, talk
from sightling.data.sample import Picture, Sample
from sightling.decode.batch import answer_all
from sightling.decode.generate import generate
from sightling.errors import UserError

ONE, WIDE, TALL, GIANT, THIN = (28, 28), (80, 20), (21, 60), (190, 170), (5, 3)
"""A whole tile, three beside each other, three below each other, two by two, part of a tile."""

CONTROL = ("<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|image|>", "<|python_tag|>")  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 2, "intermediate_size": 48,
    "vision_output_dim": 96, "image_size": 28, "patch_size": 7, "intermediate_layers_indices": [0, 2],
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "cross_attention_layers": [1, 4], "max_position_embeddings": 1024, "bos_token_id": 0,
    "eos_token_id": 4, "pad_token_id": 1,
}  # fmt: skip
TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PROMPT = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>what red?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def tokenizer() -> Any:
    """The placeholder stands behind all others, as in Llama 3.2 Vision's; the output head has no row for it."""
    made = byte_level(*(one for one in CONTROL if one != "<|image|>"), bos_token="<|begin_of_text|>",
                      pad_token="<|finetune_right_pad_id|>", eos_token="<|eot_id|>")  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    made.chat_template = TEMPLATE
    return made


def checkpoint(folder: Path, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> Any:
    """A tiny Mllama that transformers has saved; returns its model."""
    words = tokenizer()
    config = MllamaConfig(
        vision_config=MllamaVisionConfig(**{**VISION, **(vision or {})}),
        text_config=MllamaTextConfig(**{**TEXT, **(text or {})}, vocab_size=len(words) - 1),
        image_token_index=len(words) - 1,
    )
    model = save_foreign(MllamaForConditionalGeneration(config), folder)
    tiles = config.vision_config.max_num_tiles
    pictures = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=tiles)
    pictures.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def their_processor(folder: Path) -> MllamaProcessor:
    pictures, words = MllamaImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return MllamaProcessor(pictures, words, chat_template=words.chat_template)


def shown(*parts: Any, system: str | None = None) -> Sample:
    """A prompt of words and of pictures, told by their sizes."""
    made = [part if isinstance(part, str) else Picture(image=noise(*part, seed=n)) for n, part in enumerate(parts)]
    return talk(tuple(made), system=system)


def written(sample: Sample) -> list[dict[str, Any]]:
    """The same as messages."""
    return [
        {"role": turn.role, "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts
        ]}
        for turn in sample.turns
    ]  # fmt: skip


def prepared(folder: Path, sample: Sample) -> Any:
    """What transformers' processor makes of it."""
    reference = their_processor(folder)
    prompt = reference.apply_chat_template(written(sample), add_generation_prompt=True)
    return reference(images=[images(sample)], text=[prompt], return_tensors="pt")


def their_features(theirs: Any, wanted: Any) -> Tensor:
    """Projected features_IKPD, those of empty tiles among them."""
    names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
    with torch.no_grad():
        states = theirs.model.vision_model(**{name: wanted[name] for name in names}).last_hidden_state
        return theirs.model.multi_modal_projector(states)[0]


PROMPTS: dict[str, Sample] = {
    "one tile": asked("what red?", ONE),
    "wide": asked("what red?", WIDE),
    "tall": asked("what red?", TALL),
    "two by two": asked("what red?", GIANT),
    "small": asked("what red?", THIN),
    "side by side": asked("what red?", WIDE, TALL, ONE),
    "text first": shown("one: ", TALL, "two: ", GIANT, ONE, " which?"),
    "several turns": talk(("a", Picture(image=noise(*WIDE))), "yes", ("and", Picture(image=noise(*ONE, 3)), "?")),
}


def check_parity(folder: Path, theirs: Any, *chosen: str) -> None:
    """The same ids, pixels, image features and logits as transformers' model makes of its processor's tensors."""
    model, processor = sightling.load(folder, device="cpu")
    for name in chosen or PROMPTS:
        sample = PROMPTS[name]
        wanted, encoded = prepared(folder, sample), processor.encode(sample, prompt_only=True)
        assert list(encoded.input_ids) == wanted["input_ids"][0].tolist(), name
        inputs = processor.inputs(*encoded.pictures)
        counts = [len(plan) for plan in model.plans(inputs.sizes)]
        assert wanted["aspect_ratio_mask"][0].sum(1).tolist() == counts
        tiles = torch.cat([one[:count] for one, count in zip(wanted["pixel_values"][0], counts, strict=True)])
        torch.testing.assert_close(model.encoder.normalise(inputs.pixels), tiles, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            features = model.get_image_features(inputs.pixels, inputs.sizes)
        expected = their_features(theirs, wanted)
        assert expected.std() > 0.3
        torch.testing.assert_close(features[..., :-1], expected.flatten(1, 2), atol=1e-4, rtol=1e-4)
        # The last channel tells the tiles that are there.
        assert features[..., -1].sum(1).tolist() == [17 * count for count in counts]
        ours, found = logits(model, {"input_ids": wanted["input_ids"], **inputs.tensors()}), logits(theirs, wanted)
        assert found.std() > 0.3
        torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)


NEWER = [("language_model.lm_head", "lm_head"), ("language_model.model", "model.language_model"),
         ("vision_model", "model.vision_model"), ("multi_modal_projector", "model.multi_modal_projector")]  # fmt: skip

MADE: dict[str, dict[str, Any]] = {
    "as it is": {},
    "other layers": {"text": {"cross_attention_layers": [0, 2, 4], "hidden_act": "gelu", "rms_norm_eps": 1e-6}},
    "more tiles": {
        "vision": {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "norm_eps": 1e-3,
                   "intermediate_layers_indices": [1], "vision_output_dim": 64},
    },
}  # fmt: skip


@pytest.mark.parametrize("names", [[], NEWER], ids=["classic", "newer"])
def test_a_folder_of_transformers_is_read_and_written_back(names: Any, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    rename(tmp_path / "a", *names)
    check_parity(tmp_path / "a", theirs, *([] if not names else ["wide"]))
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="mllama")
    check_same_weights(tmp_path / "a", tmp_path / "b")
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        check_same_json(tmp_path / "a", tmp_path / "b", name)
    check_parity(tmp_path / "b", MllamaForConditionalGeneration.from_pretrained(tmp_path / "b").eval(), "text first")


@pytest.mark.parametrize("made", [name for name in MADE if name != "as it is"])
def test_other_forms(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs, "text first")
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="mllama")
    check_same_weights(tmp_path / "a", tmp_path / "b")
    check_same_json(tmp_path / "a", tmp_path / "b", "config.json")


def test_the_prompt_and_the_answer_are_theirs_token_for_token(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    # Pictures and words must matter, or one token would follow every other.
    theirs.model.language_model.embed_tokens.weight.data *= 3
    theirs.save_pretrained(tmp_path / "a")
    model, processor = sightling.load(tmp_path / "a", device="cpu")
    assert processor.template == "llama-3.2-vision"
    assert processor.prompt_text(PROMPTS["wide"]) == PROMPT
    answers = []
    for sample in PROMPTS.values():
        wanted = prepared(tmp_path / "a", sample)
        told: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
        length = wanted["input_ids"].shape[1]
        expected = theirs.generate(**wanted, **told)[0, length:].tolist()
        inputs = processor.inputs(*sample.pictures()).tensors()
        for cached in (True, False):
            found = model.generate(input_ids=wanted["input_ids"], **inputs, **told, use_cache=cached)
            assert found[0, length:].tolist() == expected
        answers.append(processor.decode_answer(expected))
        assert "".join(generate(model, processor, sample, max_new_tokens=8)).strip() == answers[-1]
    assert len({*answers}) > 3
    # In one batch, where rows have other numbers of pictures, each has what it has alone.
    assert answer_all(model, processor, [*PROMPTS.values()], max_new_tokens=8, batch_size=8) == answers


def test_our_own_form_holds_it_too(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b")
    model, processor = sightling.load(tmp_path / "b", device="cpu")
    sample = PROMPTS["text first"]
    told = {"input_ids": torch.tensor([processor.encode(sample, prompt_only=True).input_ids])}
    told |= processor.inputs(*sample.pictures()).tensors()
    expected = logits(theirs, prepared(tmp_path / "a", sample))
    torch.testing.assert_close(logits(model, told), expected, atol=1e-4, rtol=1e-4)
    sightling.save(model, processor, tmp_path / "c", layout="mllama")
    check_same_weights(tmp_path / "a", tmp_path / "c")
    check_same_json(tmp_path / "a", tmp_path / "c", "config.json")


OURS: dict[str, Any] = {
    "encoder": {"type": "mllama", "image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 2,
                "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 3, "intermediate_layers_indices": [1],
                "keep_cls": True},
    "language_model": {"type": "mllama_text_model", "hidden_size": 32, "num_hidden_layers": 3,
                       "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024},
    "connector": {"type": "cross_attention", "every": 2, "before": "all"},
    "tiling": {"type": "canvas", "max_tiles": 3},
    "template": "llama-3.2-vision",
}  # fmt: skip


def test_a_model_of_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    pair = grow(**OURS)
    stir(pair[0].connector, 1, 0.3)
    sightling.save(*pair, tmp_path / "a", layout="mllama")
    theirs = MllamaForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    assert theirs.config.text_config.cross_attention_layers == [1]
    assert theirs.config.text_config.num_hidden_layers == 4
    check_parity(tmp_path / "a", theirs, "text first", "tall")
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="mllama")
    check_same_weights(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another tower": ({"encoder": SIGLIP}, "'mllama' cannot hold encoder.type = 'siglip_vision_model'; .* a mllama"),
    "no CLS token": ({"encoder": {**OURS["encoder"], "keep_cls": False}}, "cannot hold encoder.keep_cls = False"),
    "another language model": (
        {"language_model": {**OURS["language_model"], "type": "llama"}},
        "cannot hold language_model.type = 'llama'; it takes a mllama_text_model",
    ),
    "another connector": ({"connector": {"type": "mlp"}}, "cannot hold connector = .*; it takes a cross_attention"),
    "nothing before": ({"connector": {"type": "cross_attention", "every": 2}}, "connector.before = 'nothing'; .*'all'"),
    "all pictures": ({"connector": {**OURS["connector"], "sees": "all"}}, "connector.sees = 'all'; it takes 'last'"),
    "fewer tiles": ({"tiling": {"type": "canvas", "max_tiles": 2}}, "cannot hold tiling = .*canvas with max_tiles 3"),
    "one tile": ({"tiling": {"type": "single"}}, "cannot hold tiling = .*canvas with max_tiles 3"),
    "marks": ({"template": "chatml"}, "cannot hold template = 'chatml'; it takes one that begins with"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        sightling.save(*grow(**{**OURS, **told}), tmp_path / "a", layout="mllama")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "other pictures": ("preprocessor_config.json", {"size": {"height": 14, "width": 14}}, "size = .* cannot be follow"),
    "other tiles": ("preprocessor_config.json", {"max_image_tiles": 3}, "max_image_tiles = 3 cannot be followed; 4"),
    "no padding": ("preprocessor_config.json", {"do_pad": False}, "do_pad = False cannot be followed"),
    "a layer twice": ("text_config", {"cross_attention_layers": [1, 1]}, r"\[1, 1\] must ascend, from 0 to 5"),
    "side by side": ("text_config", {"cross_attention_layers": [1, 2]}, "names 1, but no other layer stands right"),
    "the last": ("text_config", {"cross_attention_layers": [5]}, "names 5, but no other layer stands right behind it"),
    "none": ("text_config", {"cross_attention_layers": []}, "cross_attention_layers is empty"),
    "another width": ("vision_config", {"vision_output_dim": 64}, "vision_output_dim = 64, but .* make 96"),
    "no layer": ("vision_config", {"intermediate_layers_indices": [0, 3]}, "names 3; layers are counted from 0 to 2"),
    "other shapes": ("vision_config", {"supported_aspect_ratios": [[1, 1]]}, "supported_aspect_ratios = .* cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    from json import loads

    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    if name.endswith(".json"):
        change_json(tmp_path / "a" / name, **told)
    else:
        whole = loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))
        change_json(tmp_path / "a" / "config.json", **{name: {**whole[name], **told}})
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


GATE = "language_model.model.layers.4.cross_attn_attn_gate"


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen", "as many rows as the head"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    rows = len(tensors["language_model.lm_head.weight"])
    message = rf"another shape: language_model.model.embed_tokens.weight, \({rows}, 32\) where .* \({rows + 8}, 32\)"
    if wrong == "missing":
        del tensors[GATE]
        message = f"lack the key: {GATE};"
    elif wrong == "unknown":
        tensors["language_model.model.layers.4.self_attn.q_proj.weight"] = torch.zeros(32, 32)
        message = "hold an unknown key: language_model.model.layers.4.self_attn.q_proj.weight;"
    elif wrong == "misshapen":
        tensors[GATE] = torch.zeros(32)
        message = rf"another shape: {GATE}, \(32,\) where the model has \(1,\)"
    else:
        tensors["language_model.model.embed_tokens.weight"] = tensors["language_model.lm_head.weight"].clone()
    rewrite(tmp_path / "a", tensors)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
