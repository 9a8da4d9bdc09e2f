"""LLaVA-OneVision: what transformers writes is read, gives the same numbers, and is written back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
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
    rename,
    rewrite,
    save_foreign,
    sentencepiece,
    weights,
    write_json,
)  # fmt: skip
from test_llava_next import SMALL, SQUARE, TALL, WIDE, check_numbers
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

import sightling
from kit import CLIP as OURS
from kit import QWEN2, SIGLIP, grow
from sightling.data.sample import Sample, Turn
from sightling.errors import UserError

LARGE = (160, 150)
PINS = [[28 * rows, 28 * columns] for rows in range(1, 7) for columns in range(1, 7)]
VIDEO = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 28, "width": 28}}


def jinja(before: str, behind: str, ask: str, close: str) -> str:
    """A chat template of ChatML's kind: what stands before and behind each picture, before words, behind a turn."""
    return (
        "{% for message in messages %}{{ '<|im_start|>user' + BEFORE }}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' + BEHIND }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ ASK + part['text'] }}{% endfor %}{{ CLOSE }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ).replace("BEFORE", repr(before)).replace("BEHIND", repr(behind)).replace("ASK", repr(ask)).replace(
        "CLOSE", repr(close))  # fmt: skip


SPEECH = {
    "llava-onevision-hf": jinja(" ", "", "\n", "<|im_end|>"),
    "llava-next-qwen-hf": jinja("\n", "\n", "", "<|im_end|>\n"),
}
USUAL = "llava-onevision-hf"


class Stills(LlavaOnevisionProcessor):
    """Theirs without the part for videos, which needs a package that is not here."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def checkpoint(folder: Path, *, speech: str = USUAL, vision: Any = None, tied: bool = False, **told: Any) -> Any:
    """A tiny LLaVA-OneVision that transformers has saved, with the files of its processor; returns its model."""
    tokenizer = sentencepiece("<image>", "<video>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_bos_token = False
    tokenizer.update_post_processor()
    tokenizer.pad_token = "<|endoftext|>"
    config = LlavaOnevisionConfig(
        vision_config=vision or SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=Qwen2Config(**LLAMA, vocab_size=len(tokenizer) + 10, tie_word_embeddings=tied),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        **{"image_grid_pinpoints": PINS, **told},
    )
    model = save_foreign(LlavaOnevisionForConditionalGeneration(config), folder)
    LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=config.image_grid_pinpoints, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    cls = int(config.vision_config.model_type == "clip_vision_model")
    write_json(folder / "processor_config.json", {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16 + cls, "image_token": "<image>",
        "video_token": "<video>", "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    })  # fmt: skip
    write_json(folder / "video_preprocessor_config.json", VIDEO)
    (folder / "chat_template.jinja").write_text(SPEECH[speech], encoding="utf-8")
    return model


def their_processor(folder: Path) -> Stills:
    told = json.loads((folder / "processor_config.json").read_text())
    keys = ("num_image_tokens", "vision_feature_select_strategy", "vision_aspect_ratio", "image_token", "video_token")
    return Stills(
        LlavaOnevisionImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), None,
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"), **{key: told[key] for key in keys},
    )  # fmt: skip


def squared(sample: Sample) -> Sample:
    """The same with a budget of one tile for each picture."""
    (turn,) = sample.turns
    parts = (part if isinstance(part, str) else replace(part, tiles=1) for part in turn.parts)
    return Sample((Turn("user", tuple(parts)),))


def check_parity(folder: Path, theirs: Any, speech: str = USUAL, *several: tuple[Any, ...]) -> None:
    """Pictures that are cut, alone and together; and several of them as a conversation shows them there, whole."""
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder)
    assert pair[1].template == speech
    for sizes in several or ((WIDE,), (TALL,), (SQUARE,), (SMALL,), (LARGE,), (SQUARE, WIDE)):
        sample = asked("what red?", *sizes)
        parts: list[Any] = [*({"type": "image"} for _ in sizes), {"type": "text", "text": "what red?"}]
        prompt = reference.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        flat = reference(images=images(sample), text=prompt, return_tensors="pt")
        check_numbers(pair, theirs, sample, flat)
        if len(sizes) > 1:
            nested = reference(images=[images(sample)], text=prompt, return_tensors="pt")
            check_numbers(pair, theirs, squared(sample), nested)
            assert nested["input_ids"].shape[1] < flat["input_ids"].shape[1]


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="llava_onevision")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json",
                 "video_preprocessor_config.json"):  # fmt: skip
        check_same_json(folder, target, name)
    return LlavaOnevisionForConditionalGeneration.from_pretrained(target).eval()


NAMES: dict[str, list[tuple[str, str]]] = {
    "as transformers writes them": [],
    "classic": [("vision_tower.", "vision_tower.vision_model.")],
}


@pytest.mark.parametrize("names", NAMES)
def test_a_folder_of_transformers_is_read_and_written_back(names: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    rename(tmp_path / "a", *NAMES[names])
    check_parity(tmp_path / "a", theirs)
    again = check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", again, USUAL, (LARGE,))


MADE: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "several layers": {"vision_feature_layer": [-3, -1]},
    "clip": {"vision": CLIPVisionConfig(**CLIP), "vision_feature_select_strategy": "default"},
    "another limit": {"vision_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": PINS[:14]},
    "as it is converted": {"speech": "llava-next-qwen-hf"},
}


@pytest.mark.parametrize("made", MADE)
def test_other_forms(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs, MADE[made].get("speech", USUAL), (LARGE,), (TALL, SMALL))
    check_written_back(tmp_path / "a", tmp_path / "b")


def test_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    tiling = {"type": "anyres", "shapes": 4, "limit": 4, "ground": [127, 127, 127]}
    pair = grow(encoder={**SIGLIP, "layer": 2}, connector={"type": "mlp"}, tiling=tiling, language_model=QWEN2)
    sightling.save(*pair, tmp_path / "a", layout="llava_onevision")
    theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    reference = their_processor(tmp_path / "a")
    assert theirs.config.video_token_index >= len(pair[1].tokenizer)
    sample = asked("what red?", SQUARE, WIDE)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what red?"}]}
    prompt = pair[1].apply_chat_template([message], add_generation_prompt=True)
    check_numbers(pair, theirs, sample, reference(images=images(sample), text=prompt, return_tensors="pt"))
    nested = reference(images=[images(sample)], text=prompt, return_tensors="pt")
    check_numbers(pair, theirs, squared(sample), nested)
    check_written_back(tmp_path / "a", tmp_path / "b")


GREY = [127, 127, 127]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a square": ({"tiling": {"type": "single"}}, "cannot hold tiling = .*; it takes anyres with unpad and a limit"),
    "no limit": ({"tiling": {"type": "anyres", "ground": GREY}}, "cannot hold tiling = .*; it takes anyres with unpad"),
    "no ground": ({"tiling": {"type": "anyres", "limit": 9}}, r"tiling.ground = None; .* \[122, 116, 104\]"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        sightling.save(*grow(encoder=OURS, **told), tmp_path / "a", layout="llava_onevision")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no limit": ("config.json", {"vision_aspect_ratio": "anyres"}, "'anyres' cannot be followed; 'anyres_max_9' would"),
    "another limit": ("processor_config.json", {"vision_aspect_ratio": "anyres_max_4"}, "'anyres_max_9' would be"),
    "another count": ("processor_config.json", {"num_image_tokens": 9}, "num_image_tokens = 9 .*; 16 would be right"),
    "no CLS token": ("config.json", {"vision_feature_select_strategy": "default"}, "'default' drops the first feature"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    bias = tensors.pop("multi_modal_projector.linear_2.bias")
    rewrite(tmp_path / "a", tensors)
    with pytest.raises(UserError, match=r"lack the key: multi_modal_projector\.linear_2\.bias;"):
        sightling.load(tmp_path / "a", device="cpu")
    rewrite(tmp_path / "a", {**tensors, "multi_modal_projector.linear_2.bias": torch.cat([bias, bias])})
    with pytest.raises(UserError, match=r"linear_2\.bias, \(64,\) where the model has \(32,\)"):
        sightling.load(tmp_path / "a", device="cpu")
