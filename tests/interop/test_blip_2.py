"""BLIP-2: what transformers writes is read, gives the same numbers, and is written back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    SIZES,
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
)  # fmt: skip
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import sightling
from kit import LLAMA, grow
from sightling.errors import UserError

VISION = {"image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 48}  # fmt: skip
QFORMER = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32,
       "max_position_embeddings": 256}  # fmt: skip
QUERIES = 5
PROMPT = "Question: what red? Answer:"


def tokenizer() -> PreTrainedTokenizerFast:
    """One that begins a text with ``</s>``, as OPT's does."""
    made = byte_level("</s>", "<pad>", "<image>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    made.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 0)])
    return made


def checkpoint(folder: Path, *, text: Any = None, former: Any = None, **told: Any) -> Any:
    """A tiny BLIP-2 that transformers has saved; returns its model."""
    speech = tokenizer()
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=Blip2QFormerConfig(**{**QFORMER, **(former or {})}),
        text_config=text or OPTConfig(**OPT, vocab_size=len(speech) + 10),
        num_query_tokens=QUERIES,
        image_token_index=speech.convert_tokens_to_ids("<image>"),
        **told,
    )
    pictures = BlipImageProcessorPil(size={"height": 28, "width": 28})
    model = save_foreign(Blip2ForConditionalGeneration(config), folder)
    Blip2Processor(pictures, speech, num_query_tokens=QUERIES).save_pretrained(folder)
    pictures.save_pretrained(folder)
    speech.save_pretrained(folder)
    return model


def their_processor(folder: Path) -> Blip2Processor:
    told = json.loads((folder / "processor_config.json").read_text())
    parts = BlipImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return Blip2Processor(*parts, num_query_tokens=told["num_query_tokens"])


def check_numbers(pair: Any, theirs: Any, wanted: Any, sample: Any) -> None:
    model, processor = pair
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    inputs = processor.inputs(*encoded.pictures)
    torch.testing.assert_close(model.encoder.normalise(inputs.pixels), wanted["pixel_values"], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        found = theirs.get_image_features(wanted["pixel_values"]).pooler_output
        features = model.get_image_features(inputs.pixels, inputs.sizes)
    assert found.std() > 0.1
    torch.testing.assert_close(features, found, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        expected = theirs(**wanted).logits
    assert expected.std() > 0.3
    ours = logits(model, {"input_ids": wanted["input_ids"], **inputs.tensors()})
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def check_parity(folder: Path, theirs: Any) -> None:
    """The same prompts, pixels, image features and logits for pictures of three sizes."""
    pair, reference = sightling.load(folder, device="cpu"), their_processor(folder)
    assert pair[1].template == "blip-2"
    for size in SIZES:
        sample = asked("what red?", size)
        wanted = reference(images=images(sample), text=PROMPT, return_tensors="pt")
        check_numbers(pair, theirs, wanted, sample)


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="blip_2")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    return Blip2ForConditionalGeneration.from_pretrained(target).eval()


MADE: dict[str, dict[str, Any]] = {
    "as transformers makes it": {},
    "looks at the picture in every layer": {"former": {"cross_attention_frequency": 1}},
    "a head of its own": {"text": OPTConfig(**OPT, vocab_size=320, tie_word_embeddings=False)},
}


@pytest.mark.parametrize("made", MADE)
def test_a_folder_of_transformers_is_read_and_written_back(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs)
    check_parity(tmp_path / "a", check_written_back(tmp_path / "a", tmp_path / "b"))


def test_a_tied_head_that_the_file_holds_is_written_back(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a")
    held, head = weights(tmp_path / "a"), "language_model.lm_head.weight"
    embeddings = held["language_model.model.decoder.embed_tokens.weight"]
    held = {**held, head: embeddings} if head not in held else {key: held[key] for key in held if key != head}
    rewrite(tmp_path / "a", held)
    check_parity(tmp_path / "a", theirs)
    check_written_back(tmp_path / "a", tmp_path / "b")


EVA = {"type": "eva", **VISION, "keep_cls": True}
FORMER = {"type": "qformer", "queries": QUERIES, "width": 24, "depth": 2, "heads": 2}
SPEAKER = {"type": "opt", **OPT}
OURS: dict[str, Any] = {"encoder": EVA, "connector": FORMER, "template": "blip-2", "language_model": SPEAKER}


def ours(**told: Any) -> Any:
    return grow(**{**OURS, **told})


def test_a_model_of_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "speech")
    pair = ours(tokenizer={"pretrained": str(tmp_path / "speech")})
    sightling.save(*pair, tmp_path / "a", layout="blip_2")
    theirs = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    reference = their_processor(tmp_path / "a")
    for size in SIZES:
        sample = asked("what red?", size)
        check_numbers(pair, theirs, reference(images=images(sample), text=PROMPT, return_tensors="pt"), sample)
    check_parity(tmp_path / "a", theirs)
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another connector": ({"connector": {"type": "mlp"}}, "'blip_2' cannot hold connector = .*; it takes a qformer"),
    "another tower": ({"encoder": {**EVA, "type": "clip"}}, "cannot hold encoder.type = 'clip_vision_model'; .* eva"),
    "no CLS token": ({"encoder": {**EVA, "keep_cls": False}}, "cannot hold encoder.keep_cls = False"),
    "another layer": ({"encoder": {**EVA, "layer": 1}}, "cannot hold encoder.layer = 1; it takes the last one"),
    "tiles": ({"tiling": {"type": "dynamic"}}, "'blip_2' cannot hold tiling = .*dynamic"),
    "another prompt": ({"language_model": LLAMA, "template": "chatml"}, "cannot hold template = 'chatml'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    if told.get("template") != "chatml":
        tokenizer().save_pretrained(tmp_path / "speech")
        told = {**told, "tokenizer": {"pretrained": str(tmp_path / "speech")}}
    with pytest.raises(UserError, match=message):
        sightling.save(*ours(**told), tmp_path / "a", layout="blip_2")
    assert not (tmp_path / "a").exists()


T5 = T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4).to_dict()
TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "Flan-T5": ("config.json", {"text_config": T5}, "text_config: a 't5' is no causal language model; .*'opt'"),
    "no placeholder": ("config.json", {"image_token_index": None}, "image_token_index is missing"),
    "another placeholder": ("config.json", {"image_token_index": 7}, "placeholder is token 2 in the tokenizer, but 7"),
    "narrow embeddings": ("config.json", {"text_config": {"model_type": "opt", **OPT, "word_embed_proj_dim": 16}},
                          "text_config: word_embed_proj_dim = 16 cannot be followed; 32 would be right"),
    "a wide Q-Former": ("config.json", {"qformer_config": {**QFORMER, "intermediate_size": 64}},
                        "qformer_config: intermediate_size = 64 cannot be followed; 96 would be right"),
    "other queries": ("processor_config.json", {"num_query_tokens": 6}, "num_query_tokens = 6 .*; 5 would be right"),
    "another square": ("preprocessor_config.json", {"size": {"height": 30, "width": 30}}, "tower's square of 28"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    queries = tensors.pop("query_tokens")
    if wrong == "unknown":
        tensors |= {"query_tokens": queries, "vision_projection.weight": queries[0].clone()}
    elif wrong == "misshapen":
        tensors["query_tokens"] = queries[:, :4]
    rewrite(tmp_path / "a", tensors)
    message = {
        "missing": "lack the key: query_tokens;", "unknown": "hold an unknown key: vision_projection.weight;",
        "misshapen": r"another shape: query_tokens, \(1, 4, 24\) where the model has \(1, 5, 24\)",
    }[wrong]  # fmt: skip
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
