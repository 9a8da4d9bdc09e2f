"""LLaVA-1.5: what transformers writes is read, gives the same numbers, and is written back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    CLIP,
    LLAMA,
    SIZES,
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
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MixtralConfig,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

import sightling
from kit import CLIP as OURS
from kit import SIGLIP, grow
from sightling.errors import UserError

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def checkpoint(folder: Path, *, text: Any = None, vision: Any = None, legacy: bool = True, **told: Any) -> Any:
    """A tiny LLaVA that transformers has saved; returns its model."""
    tokenizer = sentencepiece("<image>", "<pad>", legacy=legacy)
    tokenizer.pad_token = "<pad>"
    config = LlavaConfig(
        vision_config=vision or CLIPVisionConfig(**CLIP),
        text_config=text or LlamaConfig(**LLAMA, vocab_size=len(tokenizer) + 10),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        **told,
    )
    square = {"height": 28, "width": 28}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=square)
    if config.vision_config.model_type == "siglip_vision_model":
        pictures = SiglipImageProcessorPil(size=square)
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=7, vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_config.model_type == "clip_vision_model"), chat_template=TEMPLATE,
    )  # fmt: skip
    model = save_foreign(LlavaForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def their_processor(folder: Path) -> LlavaProcessor:
    told = json.loads((folder / "processor_config.json").read_text())
    keys = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "image_token")
    return LlavaProcessor(
        AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder),
        chat_template=TEMPLATE, **{key: told[key] for key in keys if key in told},
    )  # fmt: skip


def check_parity(folder: Path, theirs: Any) -> None:
    """The same prompts, pixels and logits for pictures of three sizes, alone and together."""
    model, processor = sightling.load(folder, device="cpu")
    reference = their_processor(folder)
    for sizes in ((SIZES[0],), (SIZES[1],), (SIZES[2],), SIZES):
        sample = asked("what red?", *sizes)
        prompt = "USER: " + "<image>\n" * len(sizes) + "what red? ASSISTANT:"
        wanted = reference(images=images(sample), text=prompt, return_tensors="pt")
        encoded = processor.encode(sample, prompt_only=True)
        assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
        pixels = torch.cat([processor.pixels(picture) for picture in encoded.pictures])
        torch.testing.assert_close(model.encoder.normalise(pixels), wanted["pixel_values"], atol=1e-5, rtol=1e-5)
        ours = logits(model, {"input_ids": torch.tensor([encoded.input_ids]), "pixel_values": pixels})
        found = logits(theirs, wanted)
        assert found.std() > 0.3
        torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="llava")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    return LlavaForConditionalGeneration.from_pretrained(target).eval()


NAMES: dict[str, list[tuple[str, str]]] = {
    "as transformers writes them": [],
    "classic": [("vision_tower.", "vision_tower.vision_model.")],
    "newer": [("language_model.lm_head", "lm_head"), ("language_model.model", "model.language_model"),
              ("vision_tower", "model.vision_tower"), ("multi_modal_projector", "model.multi_modal_projector")],
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_a_folder_of_transformers_is_read_and_written_back(names: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    rename(tmp_path / "a", *NAMES[names])
    check_parity(tmp_path / "a", theirs)
    again = check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", again)


MADE: dict[str, dict[str, Any]] = {
    "tied": {"text": LlamaConfig(**LLAMA, vocab_size=400, tie_word_embeddings=True)},
    "with its CLS token": {"vision_feature_select_strategy": "full"},
    "several layers": {"vision_feature_layer": [-3, -1]},
    "no bias": {"multimodal_projector_bias": False},
    "experts": {"text": MixtralConfig(**LLAMA, vocab_size=400, num_local_experts=4, num_experts_per_tok=2)},
    "another way with blanks": {"legacy": False},
    "siglip": {"vision": SiglipVisionConfig(**CLIP), "vision_feature_select_strategy": "full"},
    "siglip, last layer": {"vision": SiglipVisionConfig(**CLIP, vision_use_head=False), "vision_feature_layer": -1,
                           "vision_feature_select_strategy": "full"},
}  # fmt: skip


@pytest.mark.parametrize("made", MADE)
def test_other_forms(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs)
    check_written_back(tmp_path / "a", tmp_path / "b")


def test_shards_precision_and_what_older_files_hold_beside(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a").half()
    theirs.save_pretrained(tmp_path / "a", max_shard_size="40KB")
    (tmp_path / "a" / "model.safetensors").unlink()
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
    model = sightling.load(tmp_path / "a", device="cpu")[0]
    assert model.dtype is torch.float16
    check_written_back(tmp_path / "a", tmp_path / "b")
    rename(tmp_path / "b", *NAMES["classic"])
    held = {"vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None]}
    rewrite(tmp_path / "b", {**weights(tmp_path / "b"), **held})
    check_written_back(tmp_path / "b", tmp_path / "c")
    rewrite(tmp_path / "b", {**weights(tmp_path / "b"), **{key: tensor + 1 for key, tensor in held.items()}})
    with pytest.raises(UserError, match=r"position_ids holds other values"):
        sightling.load(tmp_path / "b", device="cpu")


def test_our_classes_read_it_and_what_they_save_is_our_own(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    config = sightling.VisionLanguageConfig.from_pretrained(tmp_path / "a")
    assert config.connector == {"type": "mlp", "depth": 2, "bias": True} and config.tiling["fit"] == "shortest"
    model = sightling.VisionLanguageModel.from_pretrained(tmp_path / "a").eval()
    processor = sightling.VisionLanguageProcessor.from_pretrained(tmp_path / "a")
    sightling.save(model, processor, tmp_path / "ours")
    again, same = sightling.load(tmp_path / "ours", device="cpu")
    sample = asked("what red?", *SIZES)
    assert same.encode(sample, prompt_only=True).input_ids == processor.encode(sample, prompt_only=True).input_ids
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    # What the folder said is remembered, and can be written back from our own form.
    sightling.save(again, same, tmp_path / "b", layout="llava")
    check_same_weights(tmp_path / "a", tmp_path / "b")
    check_same_json(tmp_path / "a", tmp_path / "b", "config.json")


def test_a_model_of_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    model, processor = grow(encoder={**OURS, "layer": -2}, connector={"type": "mlp"})
    sightling.save(model, processor, tmp_path / "a", layout="llava")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    reference = their_processor(tmp_path / "a")
    sample = asked("what red?", *SIZES)
    encoded = processor.encode(sample, prompt_only=True)
    assert reference.image_token == "<|image_pad|>"
    prompt = processor.prompt_text(sample).replace("<|image_pad|>" * 16, "<|image_pad|>")
    wanted = reference(images=images(sample), text=prompt, return_tensors="pt")
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    pixels = torch.cat([processor.pixels(picture) for picture in encoded.pictures])
    ours = logits(model, {"input_ids": wanted["input_ids"], "pixel_values": pixels})
    torch.testing.assert_close(ours, logits(theirs, wanted), atol=1e-4, rtol=1e-4)
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "places": ({"connector": {"type": "mlp", "positions": True}}, "'llava' cannot hold connector = .*positions"),
    "depth": ({"connector": {"type": "mlp", "depth": 3}}, "'llava' cannot hold connector = .*'depth': 3"),
    "another connector": ({"connector": {"type": "pixel_shuffle"}}, "'llava' cannot hold connector = .*pixel_shuffle"),
    "a norm": ({"encoder": SIGLIP}, "'llava' cannot hold encoder.layer = -1, .*; it takes 2"),
    "tiles": ({"tiling": {"type": "dynamic"}}, "'llava' cannot hold tiling = .*dynamic"),
    "a stem": ({"encoder": {**OURS, "stem": {"channels": [8, 32]}}}, "'llava' cannot hold encoder.stem"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    model, processor = grow(**{"encoder": OURS, **told})
    with pytest.raises(UserError, match=message):
        sightling.save(model, processor, tmp_path / "a", layout="llava")
    assert not (tmp_path / "a").exists()


def damage(kind: str, folder: Path) -> None:
    tensors = weights(folder)
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    if kind == "missing":
        del tensors[key]
    elif kind == "extra":
        tensors["multi_modal_projector.linear_3.bias"] = torch.zeros(3)
    elif kind == "misshapen":
        tensors[key] = tensors[key][:, :5]
    rewrite(folder, tensors)


DAMAGED = {
    "missing": r"lack the key: language_model\.model\.layers\.1\.mlp\.up_proj\.weight;",
    "extra": r"hold an unknown key: multi_modal_projector\.linear_3\.bias;",
    "misshapen": r"another shape: language_model\.model\.layers\.1\.mlp\.up_proj\.weight, \(48, 5\) .* \(48, 32\)",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_weights_that_do_not_fit_are_refused(kind: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    damage(kind, tmp_path / "a")
    with pytest.raises(UserError, match=DAMAGED[kind]):
        sightling.load(tmp_path / "a", device="cpu")


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("config.json", {"projector_hidden_act": "relu"}, "projector_hidden_act = 'relu' cannot be followed"),
    "tower": ("config.json", {"vision_config": {"model_type": "vit"}}, "there is no encoder for 'vit'"),
    "placeholder": ("config.json", {"image_token_index": 7}, "placeholder is token 3[0-9]+ in the tokenizer, but 7"),
    "no crop": ("preprocessor_config.json", {"do_center_crop": False}, "do not make the tower's square of 28"),
    "not normalised": ("preprocessor_config.json", {"do_normalize": False}, "do_normalize = False cannot be followed"),
    "template": ("processor_config.json", {"chat_template": "{{ 'Q: <image> A:' }}"}, "writes 'Q: <image> A:', which"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").unlink()
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
