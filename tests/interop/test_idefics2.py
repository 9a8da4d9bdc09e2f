"""Idefics2: what transformers writes is read, gives the same tokens and numbers, and is written back as it was."""

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
    sentencepiece,
    weights,
)
from transformers import (
    AutoTokenizer,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    LlamaConfig,
    MistralConfig,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig

import sightling
from kit import grow
from sightling.data.sample import Picture, Sample, Turn
from sightling.errors import UserError

VISION = {"image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
          "intermediate_size": 40}  # fmt: skip
PERCEIVER = {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 8,
             "num_key_value_heads": 2}  # fmt: skip
WIDE, TALL, SQUARE, SMALL, WHOLE = (101, 47), (30, 95), (64, 64), (9, 5), (84, 42)
CONTROL = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
SPEECH = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def checkpoint(
    folder: Path, *, split: bool = False, text: Any = None, perceiver: dict[str, Any] | None = None,
    plain: bool = False, **told: Any,
) -> Any:  # fmt: skip
    """A tiny Idefics2 that transformers has saved; returns its model."""
    if plain:
        control = ("<s>", "</s>", "<unk>", *CONTROL)
        tokenizer = byte_level(*control, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    else:
        tokenizer = sentencepiece(*CONTROL)
        tokenizer.pad_token = "<unk>"
    text = text or MistralConfig(**LLAMA, vocab_size=420)
    config = Idefics2Config(
        vision_config=Idefics2VisionConfig(**VISION),
        perceiver_config=Idefics2PerceiverConfig(**{"hidden_size": text.hidden_size, **PERCEIVER, **(perceiver or {})}),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **told,
    )
    model = save_foreign(Idefics2ForConditionalGeneration(config), folder)
    pictures = Idefics2ImageProcessorPil(
        size={"shortest_edge": 14, "longest_edge": 56}, do_image_splitting=split
    )
    Idefics2Processor(pictures, tokenizer, image_seq_len=3, chat_template=SPEECH).save_pretrained(folder)
    pictures.save_pretrained(folder)
    return model


def their_processor(folder: Path) -> Any:
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    pictures = Idefics2ImageProcessorPil.from_pretrained(folder)
    return Idefics2Processor(pictures, AutoTokenizer.from_pretrained(folder), image_seq_len=3, chat_template=template)


def prepared(reference: Any, sample: Any, begins: bool = True) -> Any:
    """What transformers' processor makes of a question about pictures; the beginning is the tokenizer's or nobody's."""
    parts = [
        {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part}
        for part in sample.turns[0].parts
    ]
    prompt = reference.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    return reference(images=[images(sample)], text=("" if begins else "<s>") + prompt, return_tensors="pt")


def check_numbers(pair: Any, theirs: Any, sample: Any, wanted: Any) -> int:
    """The same ids, pixels, image features and logits; returns the number of encoder inputs."""
    model, processor = pair
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    inputs = processor.inputs(*encoded.pictures)
    tiles = [tile for plan in model.plans(inputs.sizes) for tile in plan]
    masks = wanted["pixel_attention_mask"][0]
    assert len(tiles) == len(inputs.pixels) == len(masks)
    shown = model.encoder.normalise(inputs.pixels)
    for tile, mask, ours, found in zip(tiles, masks, shown, wanted["pixel_values"][0], strict=True):
        width, height = tile.canvas
        assert int(mask.sum()) == width * height and bool(mask[:height, :width].all())
        torch.testing.assert_close(ours[:, :height, :width], found[:, :height, :width], atol=1e-5, rtol=1e-5)
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


def check_parity(folder: Path, theirs: Any, *several: tuple[tuple[int, int], ...], begins: bool = True) -> list[int]:
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder)
    counts = []
    for sizes in several or ((WIDE,), (TALL,), (SQUARE,), (SMALL,), (WHOLE, TALL, SMALL)):
        sample = asked("what red?", *sizes)
        counts.append(check_numbers(pair, theirs, sample, prepared(reference, sample, begins)))
    return counts


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="idefics2")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    assert (folder / "chat_template.jinja").read_text() == (target / "chat_template.jinja").read_text()
    return Idefics2ForConditionalGeneration.from_pretrained(target).eval()


@pytest.mark.parametrize("split", [False, True], ids=["whole", "quarters"])
def test_a_folder_of_transformers_is_read_and_written_back(split: bool, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", split=split)
    assert check_parity(tmp_path / "a", theirs) == ([5, 5, 5, 5, 15] if split else [1, 1, 1, 1, 3])
    assert sightling.load(tmp_path / "a", device="cpu")[1].template == "idefics2"
    again = check_written_back(tmp_path / "a", tmp_path / "b")
    check_parity(tmp_path / "b", again, (SQUARE, WIDE))


MADE: dict[str, dict[str, Any]] = {
    "tied": {"text": MistralConfig(**LLAMA, vocab_size=420, tie_word_embeddings=True), "tie_word_embeddings": True},
    "llama, other bytes": {"text": LlamaConfig(**LLAMA, vocab_size=420), "plain": True},
    "sizes left out": {"perceiver": {"hidden_size": 4096, "rms_norm_eps": 0.5}},
    "another norm": {"perceiver": {"rms_norm_eps": 1e-2, "resampler_depth": 1}},
}


@pytest.mark.parametrize("made", MADE)
def test_other_forms(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs, (TALL,), (SQUARE, SMALL), begins=made != "llama, other bytes")
    check_written_back(tmp_path / "a", tmp_path / "b")


def test_words_stand_apart_from_a_picture_before_them(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", split=True)
    processor, reference = sightling.load(tmp_path / "a", device="cpu")[1], their_processor(tmp_path / "a")
    one, other = asked("", SQUARE, SMALL).pictures()
    for parts in (
        (one, "red"), (one, " red"), (one, "\nred"), (one, "<red"), ("red", one), (one,),
        ("red ", one, other, "what", one),
    ):  # fmt: skip
        sample = Sample((Turn("user", parts),))
        ids = prepared(reference, sample)["input_ids"][0].tolist()
        assert list(processor.encode(sample, prompt_only=True).input_ids) == ids, parts


def test_generate_says_the_same(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    (model, processor), reference = sightling.load(tmp_path / "a", device="cpu"), their_processor(tmp_path / "a")
    for sizes in ((WIDE,), (TALL, WHOLE)):
        sample = asked("what red?", *sizes)
        wanted = prepared(reference, sample)
        # Placeholders stand for pictures alone: ours never writes one.
        spared = [[model.config.image_token_id]]
        found = theirs.generate(**wanted, max_new_tokens=12, do_sample=False, bad_words_ids=spared, pad_token_id=0)
        encoded = processor.encode(sample, prompt_only=True)
        ours = model.generate(
            input_ids=torch.tensor([encoded.input_ids]), **processor.inputs(*encoded.pictures).tensors(),
            max_new_tokens=12, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        assert ours[0].tolist() == found[0].tolist() and found.shape[1] > wanted["input_ids"].shape[1] + 1


TOWER = {"type": "idefics2", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "intermediate_size": 48, "positions": "bucketed"}  # fmt: skip
OURS: dict[str, Any] = {"type": "perceiver", "queries": 3, "depth": 1, "heads": 4, "head_dim": 8,
                        "projection_width": 48}  # fmt: skip
BOUNDED = {"type": "bounded", "shortest": 8, "longest": 32}


def our_own(**told: Any) -> Any:
    return grow(**{"encoder": TOWER, "connector": OURS, "tiling": BOUNDED, "template": "idefics2", **told})


@pytest.mark.parametrize("quarters", [False, True])
def test_our_own_is_written_for_transformers(quarters: bool, tmp_path: Path) -> None:
    pair = our_own(tiling={**BOUNDED, "quarters": quarters})
    sightling.save(*pair, tmp_path / "a", layout="idefics2")
    theirs = Idefics2ForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    sample = asked("what red?", SQUARE, WIDE)
    wanted = prepared(their_processor(tmp_path / "a"), sample)
    assert check_numbers(pair, theirs, sample, wanted) == (10 if quarters else 2)
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an mlp": ({"connector": {"type": "mlp"}}, "cannot hold connector = .*'mlp'.*perceiver of version idefics2"),
    "flamingo": (
        {"connector": {"type": "perceiver", "version": "flamingo", "queries": 3, "heads": 2, "head_dim": 8}},
        "cannot hold connector = .*'flamingo'",
    ),
    "its width": ({"connector": {**OURS, "projection_width": 40}}, "cannot hold connector.projection_width = 40; "),
    "squares": ({"tiling": {"type": "dynamic"}}, "cannot hold tiling = .*'dynamic'.*it takes bounded"),
    "another tower": ({"encoder": {**TOWER, "type": "idefics3"}}, "cannot hold encoder.type = 'idefics3_vision'"),
    "chatml": ({"template": "chatml"}, "cannot hold template = 'chatml'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    with pytest.raises(UserError, match=f"^the layout 'idefics2' {message}"):
        sightling.save(*our_own(**told), tmp_path / "a", layout="idefics2")
    assert not (tmp_path / "a").exists()


TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("config.json", {"perceiver_config": {**PERCEIVER, "hidden_act": "gelu"}}, "hidden_act = 'gelu' ca"),
    "edges": ("preprocessor_config.json", {"size": {"height": 9, "width": 9}}, "size = .* cannot be followed: "),
    "no edge": ("preprocessor_config.json", {"size": 56}, "it names a shortest_edge and a longest_edge"),
    "order": ("preprocessor_config.json", {"size": {"shortest_edge": 9, "longest_edge": 8}}, "9 is more than longest"),
    "tokens": ("processor_config.json", {"image_seq_len": 9}, "image_seq_len = 9 cannot be followed; 3 would be right"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


LATENTS = "model.connector.perceiver_resampler.latents"


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    latents = tensors.pop(LATENTS)
    if wrong == "unknown":
        tensors |= {LATENTS: latents, f"{LATENTS}_2": latents.clone()}
    elif wrong == "misshapen":
        tensors[LATENTS] = latents[:2]
    rewrite(tmp_path / "a", tensors)
    message = {
        "missing": f"lack the key: {LATENTS};", "unknown": f"hold an unknown key: {LATENTS}_2;",
        "misshapen": rf"another shape: {LATENTS}, \(2, 32\) where the model has \(3, 32\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
