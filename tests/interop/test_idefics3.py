"""Idefics3 and SmolVLM: what transformers writes is read, gives the same tokens and numbers, and is written back."""

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
    rewrite,
    save_foreign,
    weights,
)
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    Idefics3VisionConfig,
    LlamaConfig,
    Qwen2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVisionConfig,
)
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

import sightling
from kit import grow
from sightling.errors import UserError

VISION = {"image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
          "intermediate_size": 48}  # fmt: skip
WIDE, TALL, SQUARE, SMALL, THIN = (100, 41), (30, 95), (64, 64), (9, 5), (84, 3)
ROWS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
FAMILIES: dict[str, dict[str, Any]] = {
    # Idefics3's vocabulary has no tags, and its tokenizer puts a beginning before a text.
    "idefics3": {
        "config": Idefics3Config, "vision": Idefics3VisionConfig, "model": Idefics3ForConditionalGeneration,
        "pictures": Idefics3ImageProcessorPil, "control": ("<|begin_of_text|>", "<|end_of_text|>", *MARKS),
    },
    "smolvlm": {
        "config": SmolVLMConfig, "vision": SmolVLMVisionConfig, "model": SmolVLMForConditionalGeneration,
        "pictures": SmolVLMImageProcessorPil,
        "control": ("<|im_start|>", "<|im_end|>", *MARKS, "<global-img>", *ROWS),
    },
}  # fmt: skip


def speech(begin: str) -> str:
    """The chat template that the models' files hold."""
    return (
        begin + "{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )


def checkpoint(
    folder: Path, family: str = "idefics3", *, speaks: str | None = None, text: Any = None, split: bool = True,
    **told: Any,
) -> Any:  # fmt: skip
    """A tiny model that transformers has saved; returns it. ``speaks`` is the family whose tokenizer it has."""
    kinds, control = FAMILIES[family], FAMILIES[speaks or family]["control"]
    tokenizer = byte_level(*control, bos_token=control[0], pad_token=control[1], eos_token="<end_of_utterance>")
    if "<|begin_of_text|>" in control:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    config = kinds["config"](
        vision_config=kinds["vision"](**VISION),
        text_config=text or LlamaConfig(**LLAMA, vocab_size=420, pad_token_id=1),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        **told,
    )
    model = save_foreign(kinds["model"](config), folder)
    pictures = kinds["pictures"](
        size={"longest_edge": 84}, max_image_size={"longest_edge": 28}, do_image_splitting=split
    )
    processor = processor_of(family, pictures, tokenizer, speech(control[0]))
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)
    return model


def processor_of(family: str, pictures: Any, tokenizer: Any, template: str) -> Any:
    """transformers' own processor."""
    if family == "idefics3":
        return Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    return SmolVLMProcessor(pictures, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=template)


def their_processor(folder: Path, family: str) -> Any:
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    pictures = FAMILIES[family]["pictures"].from_pretrained(folder)
    return processor_of(family, pictures, AutoTokenizer.from_pretrained(folder), template)


@pytest.fixture(autouse=True)
def pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM's processor wants two packages for films, which pictures do not need."""
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    monkeypatch.setattr(SmolVLMProcessor, "check_argument_for_proper_class", lambda *told: None)


def check_numbers(pair: Any, theirs: Any, sample: Any, wanted: Any) -> int:
    """The same ids, pixels, image features and logits; returns the number of squares."""
    model, processor = pair
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    inputs = processor.inputs(*encoded.pictures)
    torch.testing.assert_close(model.encoder.normalise(inputs.pixels), wanted["pixel_values"][0], atol=1e-5, rtol=1e-5)
    told = {key: wanted[key] for key in ("pixel_values", "pixel_attention_mask")}
    with torch.no_grad():
        features = model.get_image_features(inputs.pixels, inputs.sizes)
        found = torch.cat(list(theirs.model.get_image_features(**told).pooler_output))
    assert found.std() > 0.1
    torch.testing.assert_close(features.reshape(found.shape), found, atol=1e-4, rtol=1e-4)
    ours = logits(model, {"input_ids": wanted["input_ids"], **inputs.tensors()})
    found = logits(theirs, wanted)
    assert found.std() > 0.3
    torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-4)
    return len(inputs.pixels)


def prepared(reference: Any, sample: Any) -> Any:
    """What transformers' processor makes of a question about pictures."""
    parts = [*({"type": "image", "image": one} for one in images(sample)), {"type": "text", "text": "what red?"}]
    return reference.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


def check_parity(folder: Path, family: str, theirs: Any, *several: tuple[tuple[int, int], ...]) -> list[int]:
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder, family)
    counts = []
    for sizes in several or ((WIDE,), (TALL,), (SQUARE,), (SMALL,), (THIN,), (SQUARE, WIDE, SMALL)):
        sample = asked("what red?", *sizes)
        counts.append(check_numbers(pair, theirs, sample, prepared(reference, sample)))
    return counts


def check_written_back(folder: Path, target: Path, family: str) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout=family)
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    assert (folder / "chat_template.jinja").read_text() == (target / "chat_template.jinja").read_text()
    return FAMILIES[family]["model"].from_pretrained(target).eval()


@pytest.mark.parametrize("speaks", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_is_read_and_written_back(family: str, speaks: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", family, speaks=speaks)
    # 2 x 3, 3 x 1, 3 x 3, 2 x 3 and 1 x 3 squares, and the whole picture behind each.
    assert check_parity(tmp_path / "a", family, theirs) == [7, 4, 10, 7, 4, 24]
    assert sightling.load(tmp_path / "a", device="cpu")[1].template == speaks
    again = check_written_back(tmp_path / "a", tmp_path / "b", family)
    check_parity(tmp_path / "b", family, again, (SQUARE, WIDE))


MADE: dict[str, dict[str, Any]] = {
    "not cut": {"split": False},
    "tied": {"text": LlamaConfig(**LLAMA, vocab_size=420), "tie_word_embeddings": True},
    "qwen2": {"text": Qwen2Config(**LLAMA, vocab_size=420)},
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_forms(made: str, family: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", family, **MADE[made])
    counts = check_parity(tmp_path / "a", family, theirs, (TALL,), (SQUARE, SMALL))
    assert counts == [1, 2] or made != "not cut"
    check_written_back(tmp_path / "a", tmp_path / "b", family)


def test_older_files_name_the_tower_as_the_whole(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    vision = {**VISION, "model_type": "idefics3", "max_image_size": {"longest_edge": 28}, "use_base_siglip": False}
    change_json(tmp_path / "a" / "config.json", vision_config=vision)
    check_parity(tmp_path / "a", "idefics3", theirs, (WIDE,))
    check_written_back(tmp_path / "a", tmp_path / "b", "idefics3")


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_says_the_same(family: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", family)
    model, processor = sightling.load(tmp_path / "a", device="cpu")
    reference = their_processor(tmp_path / "a", family)
    for sizes in ((WIDE,), (TALL, SQUARE)):
        sample = asked("what red?", *sizes)
        wanted = prepared(reference, sample)
        # Placeholders stand for pictures alone: ours never writes one.
        spared = [[model.config.image_token_id]]
        found = theirs.generate(**wanted, max_new_tokens=12, do_sample=False, bad_words_ids=spared, pad_token_id=1)
        encoded = processor.encode(sample, prompt_only=True)
        ours = model.generate(
            input_ids=torch.tensor([encoded.input_ids]), **processor.inputs(*encoded.pictures).tensors(),
            max_new_tokens=12, do_sample=False, pad_token_id=1,
        )  # fmt: skip
        assert ours[0].tolist() == found[0].tolist() and found.shape[1] > wanted["input_ids"].shape[1] + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_processor_expands_its_own_chat_template(family: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", family)
    processor = sightling.load(tmp_path / "a", device="cpu")[1]
    sample = asked("what red?", WIDE, SMALL)
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what red?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    told = processor(images=images(sample), text=prompt, return_tensors="pt")
    assert told["input_ids"][0].tolist() == list(processor.encode(sample, prompt_only=True).input_ids)


SHUFFLE = {"type": "pixel_shuffle", "factor": 2, "depth": 1, "norm": False, "bias": False}
TOWER = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48, "positions": "bucketed"}  # fmt: skip


def our_own(family: str, **told: Any) -> Any:
    usual = {
        "encoder": {"type": family, **TOWER}, "connector": SHUFFLE, "tiling": {"type": "tagged", "squares": 3},
        "template": family,
    }  # fmt: skip
    return grow(**{**usual, **told})


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_is_written_for_transformers(family: str, cut: bool, tmp_path: Path) -> None:
    pair = our_own(family, tiling={"type": "tagged", "squares": 3, "cut": cut})
    sightling.save(*pair, tmp_path / "a", layout=family)
    theirs = FAMILIES[family]["model"].from_pretrained(tmp_path / "a").eval()
    reference = their_processor(tmp_path / "a", family)
    sample = asked("what red?", SQUARE, WIDE)
    assert check_numbers(pair, theirs, sample, prepared(reference, sample)) == (17 if cut else 2)
    check_written_back(tmp_path / "a", tmp_path / "b", family)


OTHER = {"type": "siglip", **{key: TOWER[key] for key in list(TOWER)[:-1]}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an mlp": ({"connector": {"type": "mlp"}}, "cannot hold connector = .*'mlp'.*it takes a pixel_shuffle of depth 1"),
    "a norm": ({"connector": {**SHUFFLE, "norm": True}}, "cannot hold connector = .*'norm': True"),
    "a siglip": ({"encoder": {**OTHER, "positions": "bucketed"}}, "cannot hold encoder.type = 'siglip_vision_model'"),
    "resized places": ({"encoder": OTHER}, "cannot hold encoder.positions = 'interpolated'"),
    "a layer": ({"encoder": {"type": "idefics3", **TOWER, "layer": 1}}, "cannot hold encoder.layer = 1; it takes the"),
    "dynamic": ({"tiling": {"type": "dynamic"}}, "cannot hold tiling = .*'dynamic'"),
    "a limit": ({"tiling": {"type": "tagged", "max_tiles": 4}}, "cannot hold tiling = .*'max_tiles': 4"),
    "too large": (
        {"tiling": {"type": "tagged", "squares": 27}, "encoder": {"type": "idefics3", **TOWER, "image_size": 152}},
        "cannot hold tiling.squares = 27; it takes 26 at most",
    ),
    "chatml": ({"template": "chatml"}, "cannot hold template = 'chatml'; it takes one that puts <fake_token"),
    "spelt": ({"tiling": {"type": "tagged", "words": True}}, "cannot hold tiling.words = True; its tokenizer has"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    pair = our_own("idefics3", **told)
    if what == "spelt":
        pair[1].tokenizer.add_tokens("<row_1_col_1>", special_tokens=True)
    with pytest.raises(UserError, match=f"^the layout 'idefics3' {message}"):
        sightling.save(*pair, tmp_path / "a", layout="idefics3")
    assert not (tmp_path / "a").exists()


def test_a_recipe_without_bucketed_positions_is_refused() -> None:
    told = {key: TOWER[key] for key in list(TOWER)[:-1]}
    with pytest.raises(UserError, match=r"encoder.positions: a smolvlm_vision takes bucketed positions, not interpol"):
        our_own("smolvlm", encoder={"type": "smolvlm", **told})


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "scale": ("config.json", {"scale_factor": 0}, "scale_factor = 0 must be a whole number of 1 or more"),
    "channels": ("config.json", {"vision_config": {**VISION, "num_channels": 1}}, "num_channels = 1 cannot be"),
    "square": ("preprocessor_config.json", {"max_image_size": {"longest_edge": 14}}, "max_image_size = .*14.* cannot"),
    "longest": ("preprocessor_config.json", {"size": {"longest_edge": 90}}, "longest_edge of 1 to 32 times the"),
    "as it is": ("preprocessor_config.json", {"do_resize": False}, "do_resize = False cannot be followed"),
    "tokens": ("processor_config.json", {"image_seq_len": 9}, "image_seq_len = 9 cannot be followed; 4 would be right"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


PROJECTION = "model.connector.modality_projection.proj.weight"


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_do_not_fit_are_refused(family: str, wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", family)
    tensors = weights(tmp_path / "a")
    if wrong == "unknown":
        tensors["model.connector.modality_projection.proj.bias"] = tensors[PROJECTION][:, 0]
    elif wrong == "misshapen":
        tensors[PROJECTION] = tensors[PROJECTION][:5]
    else:
        del tensors[PROJECTION]
    rewrite(tmp_path / "a", tensors)
    message = {
        "missing": f"lack the key: {PROJECTION};", "unknown": "hold an unknown key: .*.proj.bias;",
        "misshapen": rf"another shape: {PROJECTION}, \(5, 128\) where the model has \(32, 128\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
