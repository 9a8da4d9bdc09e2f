"""InternVL: what transformers writes is read, tiled as its processor tiles, gives the same numbers, is written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    LLAMA,
    asked,
    byte_level,
    change_json,
    check_same_json,
    check_same_weights,
    images,
    logits,
    rename,
    save_foreign,
)
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

import sightling
from kit import SIGLIP, grow
from sightling.errors import UserError

VISION = {"image_size": [28, 28], "patch_size": [7, 7], "hidden_size": 32, "num_hidden_layers": 3,
          "num_attention_heads": 2, "intermediate_size": 48}  # fmt: skip
OURS = {**SIGLIP, "type": "internvit"}
SIZES = ((28, 28), (90, 28), (40, 75))
"""One tile; three beside each other and a thumbnail; two by one or more."""

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
SPOKEN = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
          "video_token": "<video>"}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def checkpoint(folder: Path, *, text: Any = None, vision: dict[str, Any] | None = None, **told: Any) -> Any:
    """A tiny InternVL that transformers has saved; returns its model."""
    tokenizer = byte_level(*CONTROL, pad_token="<|endoftext|>", eos_token="<|im_end|>", extra_special_tokens=SPOKEN)
    tokenizer.chat_template = TEMPLATE
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**{**VISION, **(vision or {})}),
        text_config=text or Qwen2Config(**LLAMA, vocab_size=400),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        **{"tie_word_embeddings": False, **told},
    )
    model = save_foreign(InternVLForConditionalGeneration(config), folder)
    GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, max_patches=6, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return model


def prepared(folder: Path, sample: Any, prompt: str, marks: tuple[str, str, str]) -> dict[str, Any]:
    """What transformers' processor makes of pictures and a prompt, which needs torchvision: its documented expansion.

    One mark becomes the opening, as many marks as all tiles have tokens, and the closing.
    """
    pictures = AutoImageProcessor.from_pretrained(folder)
    cut = pictures(images(sample), crop_to_patches=True, return_tensors="pt")
    start, end, mark = marks
    pieces = prompt.split(mark)
    for place, tiles in enumerate(cut["num_patches"]):
        pieces[place] += start + mark * 4 * int(tiles) + end
    ids = AutoTokenizer.from_pretrained(folder)("".join(pieces), return_tensors="pt")["input_ids"]
    return {"input_ids": ids, "pixel_values": cut["pixel_values"]}


def check_parity(folder: Path, theirs: Any) -> None:
    model, processor = sightling.load(folder, device="cpu")
    counts = []
    for sizes in ((SIZES[0],), (SIZES[1],), (SIZES[2],), SIZES):
        sample = asked("what red?", *sizes)
        prompt = "<|im_start|>user\n" + "<IMG_CONTEXT>\n" * len(sizes)
        prompt += "what red?<|im_end|>\n<|im_start|>assistant\n"
        wanted = prepared(folder, sample, prompt, ("<img>", "</img>", "<IMG_CONTEXT>"))
        encoded = processor.encode(sample, prompt_only=True)
        assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
        pixels = torch.cat([processor.pixels(picture) for picture in encoded.pictures])
        torch.testing.assert_close(model.encoder.normalise(pixels), wanted["pixel_values"], atol=1e-5, rtol=1e-5)
        ours = logits(model, {"input_ids": wanted["input_ids"], "pixel_values": pixels})
        found = logits(theirs, wanted)
        assert found.std() > 0.3
        torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)
        counts.append(len(pixels))
    assert counts[0] == 1 and counts[1] > 3 and counts[2] > 2 and counts[3] == sum(counts[:3])


NEWER = [("language_model.lm_head", "lm_head"), ("language_model.model", "model.language_model"),
         ("vision_tower", "model.vision_tower"), ("multi_modal_projector", "model.multi_modal_projector")]  # fmt: skip

MADE: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "tied": {"text": Qwen2Config(**LLAMA, vocab_size=400, tie_word_embeddings=True), "tie_word_embeddings": True},
    "qwen3": {"text": Qwen3Config(**LLAMA, vocab_size=400, head_dim=16)},
    "experts": {"text": Qwen3MoeConfig(**LLAMA, vocab_size=400, head_dim=16, num_experts=4, num_experts_per_tok=2,
                                       moe_intermediate_size=24)},
    "a large tower": {"vision": {"use_qk_norm": True, "attention_bias": True, "norm_type": "rms_norm"}},
    "a last norm": {"vision": {"use_mean_pooling": False}},
    "another layer": {"vision_feature_layer": -2},
}  # fmt: skip


@pytest.mark.parametrize("names", [[], NEWER], ids=["classic", "newer"])
@pytest.mark.parametrize("made", MADE)
def test_a_folder_of_transformers_is_read_and_written_back(made: str, names: Any, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    rename(tmp_path / "a", *names)
    check_parity(tmp_path / "a", theirs)
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="internvl")
    check_same_weights(tmp_path / "a", tmp_path / "b")
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        check_same_json(tmp_path / "a", tmp_path / "b", name)
    check_parity(tmp_path / "b", InternVLForConditionalGeneration.from_pretrained(tmp_path / "b").eval())


@pytest.mark.parametrize("tiling", [{"type": "dynamic", "max_tiles": 4}, {"type": "single"}], ids=["tiles", "one tile"])
def test_a_model_of_our_own_is_written_for_transformers(tiling: dict[str, Any], tmp_path: Path) -> None:
    model, processor = grow(encoder=OURS, connector={"type": "pixel_shuffle", "factor": 2}, tiling=tiling)
    sightling.save(model, processor, tmp_path / "a", layout="internvl")
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    sample = asked("what red?", *SIZES)
    start, end, mark = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
    prompt = f"<|im_start|>user\n{mark * 3}what red?<|im_end|>\n<|im_start|>assistant\n"
    wanted = prepared(tmp_path / "a", sample, prompt, (start, end, mark))
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    pixels = torch.cat([processor.pixels(picture) for picture in encoded.pictures])
    ours = logits(model, {"input_ids": wanted["input_ids"], "pixel_values": pixels})
    torch.testing.assert_close(ours, logits(theirs, wanted), atol=1e-4, rtol=1e-4)
    spoken = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert (spoken.start_image_token, spoken.end_image_token, spoken.context_image_token) == (start, end, mark)
    again, same = sightling.load(tmp_path / "a", device="cpu")
    assert same.encode(sample, prompt_only=True).input_ids == encoded.input_ids
    sightling.save(again, same, tmp_path / "b", layout="internvl")
    check_same_weights(tmp_path / "a", tmp_path / "b")


SHUFFLE = {"type": "pixel_shuffle", "factor": 2}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an mlp": ({"encoder": OURS}, "'internvl' cannot hold connector = .*'mlp'"),
    "the first order": ({"encoder": OURS, "connector": {**SHUFFLE, "version": "v1"}}, "cannot hold connector = .*'v1'"),
    "a siglip": ({"connector": SHUFFLE}, "'internvl' cannot hold encoder.type = 'siglip_vision_model'"),
    "overlap": ({"encoder": OURS, "connector": SHUFFLE, "tiling": {"type": "overlapping"}}, "cannot hold tiling = "),
    "no thumbnail": (
        {"encoder": OURS, "connector": SHUFFLE, "tiling": {"type": "dynamic", "thumbnail": False}},
        "cannot hold tiling = .*'thumbnail': False",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        sightling.save(*grow(**told), tmp_path / "a", layout="internvl")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "ratio": ("config.json", {"downsample_ratio": 0.4}, "downsample_ratio = 0.4 is not 1 / 2"),
    "cls": ("config.json", {"vision_feature_select_strategy": "full"}, "'full' cannot be followed"),
    "tile": ("preprocessor_config.json", {"size": {"height": 56, "width": 56}}, "size = .*56.* cannot be followed"),
    "tokens": ("processor_config.json", {"image_seq_length": 9}, "image_seq_length = 9 cannot be followed; 4"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    file = tmp_path / "a" / name
    if not file.exists():
        file.write_text("{}")
    change_json(file, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
