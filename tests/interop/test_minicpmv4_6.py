"""MiniCPM-V 4.6: what transformers writes is read, gives its numbers and answers, and is written back as it was."""

from __future__ import annotations

import json
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
    rewrite,
    weights,
)  # fmt: skip
from transformers import (
    AutoTokenizer,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    ProcessorMixin,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor

import sightling
from kit import LLAMA as OUR_LLAMA
from kit import SIGLIP, grow, stir
from sightling.data.sample import Sample, Turn
from sightling.errors import UserError
from sightling.interop.minicpmv4_6 import TOKENS

VISION = {"image_size": 20, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
          "intermediate_size": 48}  # fmt: skip
HYBRID = {"model_type": "qwen3_5_text", **LLAMA, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8,
          "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8}  # fmt: skip
"""A layer of linear attention and one of the usual kind; the published model has three for one."""

SMALL, WIDE, TALL, SQUARE = (20, 30), (200, 21), (19, 190), (64, 64)
"""The first shows no slices; the others five by one, one by five, two by two."""

MARKS = ("<image_id>", "</image_id>", "<image>", "</image>", "<slice>", "</slice>")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|image_pad|>", "<|video_pad|>",
           *MARKS)  # fmt: skip
SPOKEN = {**TOKENS, "image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<|image_pad|>' if part['type'] == 'image' else part['text'] }}{{ '' if loop.last else '\n' }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)


class StillProcessor(MiniCPMV4_6Processor):
    """transformers' processor without its half for films, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        for name in SPOKEN:
            setattr(self, name, getattr(tokenizer, name))
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.slice_mode, self.default_use_image_id = image_processor.slice_mode, image_processor.use_image_id
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def checkpoint(folder: Path, *, text: Any = None, pictures: dict[str, Any] | None = None, **told: Any) -> Any:
    """A tiny MiniCPM-V 4.6 that transformers has saved; returns its model."""
    tokenizer = byte_level(*CONTROL, pad_token="<|endoftext|>", eos_token="<|im_end|>", extra_special_tokens=SPOKEN)
    tokenizer.chat_template = TEMPLATE
    speech = text or {**HYBRID, "vocab_size": 400}
    config = MiniCPMV4_6Config(
        vision_config=dict(VISION), text_config=dict(speech) if isinstance(speech, dict) else speech,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        **{"insert_layer_id": 1, **told},
    )  # fmt: skip
    model = saved(MiniCPMV4_6ForConditionalGeneration(config), folder)
    mode = config.downsample_mode
    MiniCPMV4_6ImageProcessorPil(
        **{"scale_resolution": 32, "patch_size": 4, "downsample_mode": mode, **(pictures or {})}
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text('{"max_num_frames": 64}', encoding="utf-8")
    return model


def saved(model: Any, folder: Path) -> Any:
    """With weights that make everything matter, some less than the rest: linear attention makes rounding grow."""
    stir(model, 0)
    hybrid = model.config.text_config.model_type == "qwen3_5_text"
    for name, parameter in model.named_parameters() if hybrid else ():
        if name.endswith(("linear_attn.out_proj.weight", "merger.mlp.0.linear_2.weight", "lm_head.weight")):
            parameter.data *= 0.3
        elif "language_model" in name and "norm" in name and "linear_attn" not in name:
            # Its norms multiply by one more than their weights.
            parameter.data -= 1
    model.eval().save_pretrained(folder)
    return model


def their_processor(folder: Path, chat_template: str = TEMPLATE) -> StillProcessor:
    pictures = MiniCPMV4_6ImageProcessorPil.from_pretrained(folder)
    return StillProcessor(pictures, AutoTokenizer.from_pretrained(folder), chat_template)


def patches(pixels_CHW: Any, size: int) -> Any:
    """(C, size, patches x size): how they lay an input's patches beside each other."""
    count, height, width = pixels_CHW.shape
    laid = pixels_CHW.reshape(count, height // size, size, width // size, size)
    return laid.permute(0, 2, 1, 3, 4).reshape(count, size, -1)


def check_numbers(pair: Any, theirs: Any, sample: Sample, wanted: Any) -> tuple[Any, Any]:
    """The same ids, pixels, image features and logits; what both models are given is returned."""
    model, processor = pair
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    inputs = processor.inputs(*encoded.pictures)
    shown = model.encoder.normalise(inputs.pixels)
    sizes = [tile.canvas for plan in model.plans(inputs.sizes) for tile in plan]
    side = int(model.config.vision_config.patch_size)
    assert [[height // side, width // side] for width, height in sizes] == wanted["target_sizes"].tolist()
    laid = [patches(one[:, :height, :width], side) for one, (width, height) in zip(shown, sizes, strict=True)]
    torch.testing.assert_close(torch.cat(laid, -1)[None], wanted["pixel_values"], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        features = model.get_image_features(inputs.pixels, inputs.sizes)
        seen = theirs.get_image_features(wanted["pixel_values"], wanted["target_sizes"]).pooler_output
    found = torch.cat(list(seen))
    assert found.std() > 0.1
    torch.testing.assert_close(features.reshape(found.shape), found, atol=1e-4, rtol=1e-4)
    given = {"input_ids": wanted["input_ids"], **inputs.tensors()}
    found = logits(theirs, wanted)
    assert found.std() > 0.3
    torch.testing.assert_close(logits(model, given), found, atol=1e-4, rtol=1e-4)
    return given, wanted


def prepared(reference: StillProcessor, sample: Sample) -> Any:
    """What transformers' processor makes of a sample."""
    content = [{"type": "image"} if not isinstance(part, str) else {"type": "text", "text": part}
               for part in sample.turns[-1].parts]  # fmt: skip
    prompt = reference.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return reference(images=images(sample), text=prompt, return_tensors="pt")


def check_parity(folder: Path, theirs: Any, chat_template: str = TEMPLATE, *several: tuple[Any, ...]) -> None:
    """For pictures of every shape, alone and together."""
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder, chat_template)
    for sizes in several or ((SMALL,), (WIDE,), (TALL,), (SQUARE, SMALL, WIDE)):
        sample = asked("what red?", *sizes)
        check_numbers(pair, theirs, sample, prepared(reference, sample))


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="minicpmv4_6")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    assert (folder / "chat_template.jinja").read_text() == (target / "chat_template.jinja").read_text()
    return MiniCPMV4_6ForConditionalGeneration.from_pretrained(target).eval()


MADE: dict[str, dict[str, Any]] = {
    "as transformers makes it": {},
    "tied": {"text": {**HYBRID, "vocab_size": 400, "tie_word_embeddings": True}, "tie_word_embeddings": True},
    "qwen3": {"text": Qwen3Config(**LLAMA, vocab_size=400, head_dim=16)},
    "experts": {"text": Qwen3MoeConfig(**LLAMA, vocab_size=400, head_dim=16, num_experts=4, num_experts_per_tok=2,
                                       moe_intermediate_size=24)},
    "merged behind the last layer": {"insert_layer_id": 3},
    "the finer mode": {"downsample_mode": "4x"},
    "few slices": {"pictures": {"max_slice_nums": 4}},
    "no slices": {"pictures": {"slice_mode": False}},
}  # fmt: skip


@pytest.mark.parametrize("made", MADE)
def test_a_folder_of_transformers_is_read_and_written_back(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs)
    again = check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", again, TEMPLATE, (SQUARE, TALL))


def test_other_names_are_kept(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    rename(tmp_path / "a", ("model.", ""))
    check_parity(tmp_path / "a", theirs, TEMPLATE, (WIDE,))
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="minicpmv4_6")
    check_same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("text", [None, Qwen3Config(**LLAMA, vocab_size=400, head_dim=16)], ids=["hybrid", "qwen3"])
def test_answers_are_the_same_token_for_token(text: Any, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path, text=text)
    pair, reference = sightling.load(tmp_path, device="cpu"), their_processor(tmp_path)
    for sizes in ((SMALL,), (WIDE,), (SQUARE, TALL)):
        sample = asked("what red?", *sizes)
        given, wanted = check_numbers(pair, theirs, sample, prepared(reference, sample))
        told = {"max_new_tokens": 12, "do_sample": False, "attention_mask": wanted["attention_mask"]}
        ours = pair[0].generate(**given, **told)
        expected = theirs.generate(**{**wanted, **told}, suppress_tokens=[theirs.config.image_token_id])
        assert ours.shape[1] > wanted["input_ids"].shape[1] and torch.equal(ours, expected)


def test_rows_of_different_lengths_answer_as_each_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model, processor = sightling.load(tmp_path, device="cpu")
    samples = [asked("what red?", WIDE), asked("yes", SMALL)]
    alone = [sightling.ask(model, processor, images(one), one.turns[0].parts[-1], max_new_tokens=6) for one in samples]
    talks = [[{"role": "user", "content": [{"type": "image", "image": images(one)[0]},
                                           {"type": "text", "text": one.turns[0].parts[-1]}]}]
             for one in samples]  # fmt: skip
    rows = processor.apply_chat_template(
        talks, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    made = model.generate(**rows, max_new_tokens=6, do_sample=False)
    width = rows["input_ids"].shape[1]
    assert [processor.decode_answer(row[width:].tolist()) for row in made] == alone


def test_an_earlier_answer_keeps_no_empty_thoughts(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    _, processor = sightling.load(tmp_path, device="cpu")
    first = asked("what red?", SMALL)
    sample = Sample((*first.turns, Turn("assistant", ("yes",)), Turn("user", ("what?",))))
    talked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what red?"}]},
              {"role": "assistant", "content": "yes"}, {"role": "user", "content": "what?"}]  # fmt: skip
    reference = their_processor(tmp_path)
    prompt = reference.apply_chat_template(talked, add_generation_prompt=True)
    assert prompt.count("<think>") == 1
    wanted = reference(images=images(sample), text=prompt, return_tensors="pt")["input_ids"][0].tolist()
    assert list(processor.encode(sample, prompt_only=True).input_ids) == wanted


# A merged feature stands for a square of 8 pixels; squares of two of them are joined.
OURS: dict[str, Any] = {
    "encoder": {"type": "minicpmv4_6", **VISION, "insert_layer_id": 1},
    "connector": {"type": "merger", "norm_joined": True},
    "tiling": {"type": "adaptive", "merge": 2, "scale": 32},
    "template": "minicpm-v-4.6",
}


def own(**told: Any) -> Any:
    """A model of our own with its own tokenizer."""
    from kit import WORDS
    from sightling.model.templates import TEMPLATES
    from sightling.model.tokenizer import train_bpe

    parts = {**OURS, **told}
    return parts, train_bpe(WORDS * 5, 330, TEMPLATES.get(parts["template"]))


def grown(tmp_path: Path, **told: Any) -> Any:
    parts, tokenizer = own(**told)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return grow(tokenizer={"pretrained": str(tmp_path / "tokenizer")}, **parts)


@pytest.mark.parametrize("layer", [1, -1], ids=["merged", "finer"])
def test_a_model_of_our_own_is_written_for_transformers(layer: int, tmp_path: Path) -> None:
    pair = grown(tmp_path, encoder={**OURS["encoder"], "insert_layer_id": layer})
    sightling.save(*pair, tmp_path / "a", layout="minicpmv4_6")
    theirs = MiniCPMV4_6ForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    told = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (told["downsample_mode"], told.get("insert_layer_id")) == (("16x", 1) if layer == 1 else ("4x", None))
    spoken = (tmp_path / "a" / "chat_template.jinja").read_text()
    check_parity(tmp_path / "a", theirs, spoken)
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "b", layout="minicpmv4_6")
    check_same_weights(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another tower": ({"encoder": SIGLIP, "connector": {"type": "mlp"}}, "encoder.type = 'siglip_vision_model'"),
    "another layer": ({"encoder": {**OURS["encoder"], "layer": 3}}, "encoder.layer = 3; it takes the last layer"),
    "another connector": ({"connector": {"type": "merger"}}, "cannot hold connector = .*of factor 2 with norm_joined"),
    "another tiling": ({"tiling": {"type": "native"}}, "cannot hold tiling = .*it takes adaptive with merge 2"),
    "finer sizes": ({"tiling": {"type": "adaptive", "merge": 4}}, "it takes adaptive with merge 2"),
    "another template": ({"template": "chatml"}, "template = 'chatml'; it takes one that puts <image_id>"),
    "rows and columns": (
        {"language_model": {**OUR_LLAMA, "type": "qwen2_vl_text"}}, "language_model.type = 'qwen2_vl_text'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    pair = grown(tmp_path, **told)
    with pytest.raises(UserError, match=message):
        sightling.save(*pair, tmp_path / "a", layout="minicpmv4_6")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "rounds": ("config.json", {"merger_times": 2}, "merger_times = 2 cannot be followed; 1 would be right"),
    "kernel": ("config.json", {"merge_kernel_size": [1, 4]}, r"merge_kernel_size = \[1, 4\] cannot be followed"),
    "last layer": ("config.json", {"drop_vision_last_layer": True}, "drop_vision_last_layer = True cannot be followed"),
    "mode": ("config.json", {"downsample_mode": "4x"}, "downsample_mode = '16x' cannot be followed; '4x' would be"),
    "no layer": ("config.json", {"insert_layer_id": -1}, "insert_layer_id = -1 cannot be followed"),
    "too deep": ("config.json", {"insert_layer_id": 4}, "insert_layer_id = 4, but the tower's layers .* from 0 to 3"),
    "no placeholder": ("config.json", {"image_token_id": None}, "image_token_id is missing"),
    "placeholder": ("config.json", {"image_token_id": 1}, "placeholder is token 5 in the tokenizer, but 1"),
    "patch": ("preprocessor_config.json", {"patch_size": 8}, "patch_size = 8 cannot be followed; 4 would be right"),
    "slices": ("preprocessor_config.json", {"max_slice_nums": 0}, "preprocessor_config.json.*max_slices"),
    "no numbers": ("preprocessor_config.json", {"use_image_id": False}, "use_image_id = False cannot be followed"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    name, told, message = TOLD[what]
    change_json(tmp_path / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path, device="cpu")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_wrong_weights_are_named(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    found = weights(tmp_path)
    key = "model.vision_tower.vit_merger.linear_1.bias"
    if wrong == "unknown":
        found["model.vision_tower.vit_merger.extra"] = found[key]
    else:
        found[key] = found[key][:-1]
    if wrong == "missing":
        del found[key]
    rewrite(tmp_path, found)
    message = {
        "missing": f"lack the key: {key}", "unknown": "hold an unknown key: model.vision_tower.vit_merger.extra",
        "misshapen": rf"another shape: {key}, \(191,\) where the model has \(192,\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path, device="cpu")
