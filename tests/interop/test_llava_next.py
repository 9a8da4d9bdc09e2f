"""LLaVA-NeXT: what transformers writes is read, gives the same numbers, and is written back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    CLIP,
    LLAMA,
    asked,
    change_json,
    check_same_json,
    check_same_weights,
    images,
    logits,
    rename,
    rewrite,
    save_foreign,
    sentencepiece,
    weights,
)  # fmt: skip
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    SiglipVisionConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import sightling
from kit import CLIP as OURS
from kit import SIGLIP, grow
from sightling.errors import UserError

PINS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
WIDE, TALL, SQUARE, SMALL = (200, 21), (19, 190), (64, 64), (9, 5)
CONTROL = ("<image>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def jinja(opening: str, close: str, answer: str) -> str:
    """A chat template: pictures and a line break behind each, then the words, between strings of a user's turn."""
    return (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ OPEN }}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ CLOSE }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ANSWER }}{% endif %}"
    ).replace("OPEN", repr(opening)).replace("CLOSE", repr(close)).replace("ANSWER", repr(answer))


SPEECH = {
    "llava-1.5-hf": jinja("USER: ", " ", "ASSISTANT:"),
    "llava-next-mistral": jinja("[INST] ", " [/INST]", ""),
    "llava-next-chatml-hf": jinja("<|im_start|>user\n", "<|im_end|>", "<|im_start|>assistant\n"),
    "llava-next-chatml": jinja(
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n", "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    "llava-next-vicuna": jinja(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: ", " ", "ASSISTANT:",
    ),
}  # fmt: skip


def checkpoint(folder: Path, *, speech: str = "llava-1.5-hf", text: Any = None, vision: Any = None, **told: Any) -> Any:
    """A tiny LLaVA-NeXT that transformers has saved; returns its model."""
    tokenizer = sentencepiece(*CONTROL)
    tokenizer.pad_token = "<pad>"
    if "<|im_start|>" in SPEECH[speech]:
        # Yi's tokenizer puts nothing before a prompt.
        tokenizer.add_bos_token = False
        tokenizer.update_post_processor()
    config = LlavaNextConfig(
        vision_config=vision or CLIPVisionConfig(**CLIP),
        text_config=text or LlamaConfig(**LLAMA, vocab_size=len(tokenizer) + 10),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINS,
        image_seq_length=16,
        **told,
    )
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINS
    )
    processor = LlavaNextProcessor(
        pictures, tokenizer, patch_size=7, vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_config.model_type == "clip_vision_model"),
        chat_template=SPEECH[speech],
    )  # fmt: skip
    model = save_foreign(LlavaNextForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)
    return model


def their_processor(folder: Path, speech: str) -> LlavaNextProcessor:
    told = json.loads((folder / "processor_config.json").read_text())
    keys = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "image_token")
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder),
        chat_template=SPEECH[speech], **{key: told[key] for key in keys if key in told},
    )  # fmt: skip


def check_numbers(pair: Any, theirs: Any, sample: Any, wanted: Any) -> None:
    """The same ids, pixels, image features and logits as transformers' model makes of its processor's tensors."""
    model, processor = pair
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    inputs = processor.inputs(*encoded.pictures)
    assert inputs.sizes[:, :2].tolist() == wanted["image_sizes"].tolist()
    counts = [len(plan) for plan in model.plans(inputs.sizes)]
    tiles = torch.cat([one[:count] for one, count in zip(wanted["pixel_values"], counts, strict=True)])
    torch.testing.assert_close(model.encoder.normalise(inputs.pixels), tiles, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        features = model.get_image_features(inputs.pixels, inputs.sizes)
        told = {key: wanted[key] for key in ("pixel_values", "image_sizes", "batch_num_images") if key in wanted}
        found = torch.cat(list(theirs.model.get_image_features(**told).pooler_output))
    assert found.std() > 0.1
    torch.testing.assert_close(features.reshape(found.shape), found, atol=1e-4, rtol=1e-4)
    ours = logits(model, {"input_ids": wanted["input_ids"], **inputs.tensors()})
    found = logits(theirs, wanted)
    assert found.std() > 0.3
    torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)


def check_parity(folder: Path, theirs: Any, speech: str = "llava-1.5-hf", *several: tuple[Any, ...]) -> None:
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder, speech)
    assert pair[1].template == speech
    for sizes in several or ((WIDE,), (TALL,), (SQUARE,), (SMALL,), (SQUARE, WIDE)):
        sample = asked("what red?", *sizes)
        parts = [*({"type": "image"} for _ in sizes), {"type": "text", "text": "what red?"}]
        prompt = reference.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        wanted = reference(images=images(sample), text=prompt, return_tensors="pt")
        check_numbers(pair, theirs, sample, wanted)


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="llava_next")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    return LlavaNextForConditionalGeneration.from_pretrained(target).eval()


NAMES: dict[str, list[tuple[str, str]]] = {
    "as transformers writes them": [],
    "classic": [("vision_tower.", "vision_tower.vision_model.")],
    "newer": [("language_model.lm_head", "lm_head"), ("language_model.model", "model.language_model"),
              ("vision_tower", "model.vision_tower"), ("multi_modal_projector", "model.multi_modal_projector"),
              ("image_newline", "model.image_newline")],
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_a_folder_of_transformers_is_read_and_written_back(names: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    rename(tmp_path / "a", *NAMES[names])
    check_parity(tmp_path / "a", theirs)
    again = check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", again, "llava-1.5-hf", (SQUARE, WIDE))


@pytest.mark.parametrize("speech", SPEECH)
def test_prompts(speech: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", speech=speech)
    check_parity(tmp_path / "a", theirs, speech, (WIDE,), (SMALL, TALL))


MADE: dict[str, dict[str, Any]] = {
    "several layers": {"vision_feature_layer": [-3, -1]},
    "mistral": {"text": MistralConfig(**LLAMA, vocab_size=400), "speech": "llava-next-mistral"},
    "siglip, every feature": {"vision": SiglipVisionConfig(**CLIP), "vision_feature_select_strategy": "full"},
}


@pytest.mark.parametrize("made", MADE)
def test_other_forms(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs, MADE[made].get("speech", "llava-1.5-hf"), (TALL,), (SQUARE, SMALL))
    check_written_back(tmp_path / "a", tmp_path / "b")


def test_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    told = {"type": "anyres", "shapes": [[1, 2], [3, 1], [2, 2]]}
    pair = grow(encoder={**OURS, "layer": -2}, connector={"type": "mlp"}, tiling=told)
    sightling.save(*pair, tmp_path / "a", layout="llava_next")
    theirs = LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    assert theirs.config.image_grid_pinpoints == [[16, 32], [48, 16], [32, 32]]
    reference = their_processor(tmp_path / "a", "llava-1.5-hf")
    sample = asked("what red?", SQUARE, WIDE)
    form = pair[1]._format
    prompt = pair[1].apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what red?"}]}],
        add_generation_prompt=True,
    )
    assert reference.image_token == form.image and prompt.count(form.image) == 2
    check_numbers(pair, theirs, sample, reference(images=images(sample), text=prompt, return_tensors="pt"))
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a square": ({"tiling": {"type": "single"}}, "'llava_next' cannot hold tiling = .*; it takes anyres with unpad"),
    "a limit": ({"tiling": {"type": "anyres", "limit": 9}}, "'llava_next' cannot hold tiling = .*'limit': 9"),
    "bars": ({"tiling": {"type": "anyres", "unpad": False}}, "'llava_next' cannot hold tiling = .*'unpad': False"),
    "a norm": ({"encoder": SIGLIP, "tiling": {"type": "anyres"}}, "cannot hold encoder.layer = -1, .*; it takes 2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        sightling.save(*grow(**{"encoder": OURS, **told}), tmp_path / "a", layout="llava_next")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "a CLS token": ("config.json", {"vision_feature_select_strategy": "full"}, "'full' keeps the CLS token, but only"),
    "no grid": ("config.json", {"image_grid_pinpoints": [[28, 57]]}, "image_grid_pinpoints"),
    "other pictures": ("preprocessor_config.json", {"image_grid_pinpoints": [[28, 56]]}, "image_grid_pinpoints = "),
    "another square": ("preprocessor_config.json", {"size": {"shortest_edge": 30}}, "size = .* square of 28 pixels"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    if what == "no grid":
        change_json(tmp_path / "a" / "preprocessor_config.json", **told)
        message = r"image_grid_pinpoints holds \[28, 57\], which is no grid of squares of 28 pixels"
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    newline = tensors.pop("image_newline")
    if wrong == "unknown":
        tensors |= {"image_newline": newline, "image_newline_2": newline.clone()}
    elif wrong == "misshapen":
        tensors["image_newline"] = newline[:5]
    rewrite(tmp_path / "a", tensors)
    message = {
        "missing": "lack the key: image_newline;", "unknown": "hold an unknown key: image_newline_2;",
        "misshapen": r"another shape: image_newline, \(5,\) where the model has \(32,\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
