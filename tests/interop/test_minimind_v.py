"""MiniMind-V's files: read to the published formulas' numbers, written back to the bit, sized as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import asked, byte_level, logits
from minimind_formulas import logits_2024, logits_2026
from torch import Tensor
from transformers import CLIPVisionConfig, SiglipVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

import sightling
from kit import grow, stir
from sightling.errors import UserError
from sightling.interop.minimind_v import (
    LINEAR,
    PERCEPTRON,
    language_2024,
    language_2026,
    read,
    write,
)

TOWER = {"image_size": 24, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48}  # fmt: skip
WIDTH, INNER, VOCAB, HEADS, HEAD = 48, 64, 320, (4, 2), 12
CONTROL = {
    2024: ["<unk>", "<s>", "</s>"],
    2026: ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<think>", "</think>"],
}


def outside(folder: Path, year: int) -> tuple[Path, Path]:
    """A tower and a tokenizer, which lie beside the file."""
    tower: Any = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    if year == 2026:
        tower = SiglipVisionModel(SiglipVisionConfig(**TOWER))
    stir(tower, 5).save_pretrained(folder / "tower")
    told = {"unk_token": "<unk>", "pad_token": "<unk>"} if year == 2024 else {"pad_token": "<|endoftext|>"}
    tokenizer = byte_level(*CONTROL[year], eos_token=CONTROL[year][2], **told)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "tower", folder / "tokenizer"


def tensors(year: int, experts: int = 0) -> dict[str, Tensor]:
    """Random weights under the file's own names."""
    queries, keys = HEADS[0] * HEAD, HEADS[1] * HEAD
    if year == 2024:
        layer = {"attention.wq": (queries, WIDTH), "attention.wk": (keys, WIDTH), "attention.wv": (keys, WIDTH),
                 "attention.wo": (WIDTH, queries), "feed_forward.w1": (INNER, WIDTH), "feed_forward.w2": (WIDTH, INNER),
                 "feed_forward.w3": (INNER, WIDTH), "attention_norm": (WIDTH,), "ffn_norm": (WIDTH,)}  # fmt: skip
        shapes = {f"layers.{number}.{key}.weight": shape for number in range(2) for key, shape in layer.items()}
        shapes |= {"tok_embeddings.weight": (VOCAB, WIDTH), "norm.weight": (WIDTH,)}
        shapes |= {"vision_proj.vision_proj.0.weight": (WIDTH, 32), "vision_proj.vision_proj.0.bias": (WIDTH,)}
        head, table = "output.weight", "tok_embeddings.weight"
    else:
        layer = {"self_attn.q_proj": (queries, WIDTH), "self_attn.k_proj": (keys, WIDTH),
                 "self_attn.v_proj": (keys, WIDTH), "self_attn.o_proj": (WIDTH, queries), "self_attn.q_norm": (HEAD,),
                 "self_attn.k_norm": (HEAD,), "input_layernorm": (WIDTH,),
                 "post_attention_layernorm": (WIDTH,)}  # fmt: skip
        inner = {"gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "down_proj": (WIDTH, INNER)}
        places = [f"mlp.experts.{number}." for number in range(experts)] or ["mlp."]
        layer |= {place + key: shape for place in places for key, shape in inner.items()}
        layer |= {"mlp.gate": (experts, WIDTH)} if experts else {}
        shapes = {f"model.layers.{number}.{key}.weight": shape for number in range(2) for key, shape in layer.items()}
        shapes |= {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
        shapes |= {"vision_proj.mlp.0.weight": (32,), "vision_proj.mlp.0.bias": (32,)}
        for place, width in ((1, 32), (3, WIDTH)):
            shapes |= {f"vision_proj.mlp.{place}.weight": (WIDTH, width), f"vision_proj.mlp.{place}.bias": (WIDTH,)}
        head, table = "lm_head.weight", "model.embed_tokens.weight"
    generator = torch.Generator().manual_seed(3)
    made = {}
    for key, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator) * 0.3
        made[key] = 1 + drawn if "norm" in key else drawn
    return {**made, head: made[table].clone()}


def saved(folder: Path, year: int, experts: int = 0, **told: Tensor) -> dict[str, Any]:
    """A file and what lies beside it, as :func:`read` takes them."""
    folder.mkdir(exist_ok=True)
    tower, tokenizer = outside(folder, year)
    torch.save({**tensors(year, experts), **told}, folder / "vlm.pth")
    return {"file": folder / "vlm.pth", "tower": tower, "tokenizer": tokenizer, "heads": HEADS}


KINDS = {"2024": (2024, 0), "2026": (2026, 0), "2026, experts": (2026, 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_formula_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    year, experts = KINDS[kind]
    model, processor = read(**saved(tmp_path, year, experts))
    w = torch.load(tmp_path / "vlm.pth", weights_only=True)
    for sizes in ((24, 24),), ((40, 20),), ((17, 33), (50, 50)):
        sample = asked("what red?", *sizes)
        ids = torch.tensor(processor.encode(sample, prompt_only=True).input_ids)
        pixels = torch.cat([processor.pixels(picture) for picture in sample.pictures()])
        with torch.no_grad():
            features = model.encoder(pixels).flatten(0, 1)
        assert len(features) == len(sizes) * (10 if year == 2024 else 9)
        mark = processor.image_token_id
        if year == 2024:
            wanted = logits_2024(w, ids, mark, features, HEADS)
        else:
            wanted = logits_2026(w, ids, mark, features)
        found = logits(model, {"input_ids": ids[None], "pixel_values": pixels})[0]
        assert wanted.std() > 0.5
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_written_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    year, experts = KINDS[kind]
    half = {key: value.half() for key, value in tensors(year, experts).items()}
    told = saved(tmp_path, year, experts, **half)
    model, processor = read(**told)
    assert model.dtype is torch.float16
    write(model, tmp_path / "again.pth")
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("vlm.pth", "again.pth"))
    assert one.keys() == other.keys() and len(one) == len(half)
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
    # Through our own form, too.
    sightling.save(model, processor, tmp_path / "ours")
    again, same = sightling.load(tmp_path / "ours", device="cpu")
    sample = asked("what red?", (24, 24))
    assert same.encode(sample).input_ids == processor.encode(sample).input_ids
    write(again, tmp_path / "third.pth")
    third = torch.load(tmp_path / "third.pth", weights_only=True)
    assert all(torch.equal(value, third[key]) for key, value in one.items())


def test_a_picture_is_the_unknown_token_and_never_what_fills_a_row(tmp_path: Path) -> None:
    _, processor = read(**saved(tmp_path, 2024))
    assert processor.image_token_id == 0 and processor.pad_token_id == 2 and processor.stop_token_id == 2
    assert 0 not in processor.plain("<unk> <<<>>> \u5b57 <s>")


PUBLISHED = {
    "2024, 512": (language_2024(512, 8, 1408), LINEAR, 26.88, 27.27),
    "2024, 768": (language_2024(768, 16, 2048), LINEAR, 108.75, 109.34),
    "2026, 768": (language_2026(768, 8, 2432, 96, (8, 4)), PERCEPTRON, 63.91, 65.09),
    "2026, 768, experts": (language_2026(768, 8, 2432, 96, (8, 4), experts=4), PERCEPTRON, 198.42, 199.60),
}
"""Sizes in millions of parameters: the language model's, and with the projection."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_are_the_published_ones(name: str) -> None:
    text, connector, language, whole = PUBLISHED[name]
    vision: Any = CLIPVisionConfig() if name.startswith("2024") else SiglipVisionConfig(image_size=256, patch_size=32)
    early = name.startswith("2024")
    config = sightling.VisionLanguageConfig(
        vision_config=vision, text_config=text, connector=connector, encoder={"keep_cls": early}
    )
    with torch.device("meta"):
        model = sightling.VisionLanguageModel(config)
    counted = {part: sum(one.numel() for one in module.parameters()) for part, module in model.parts().items()}
    assert round(counted["language_model"] / 1e6, 2) == language
    assert round((counted["language_model"] + counted["connector"]) / 1e6, 2) == whole
    # What a person counts who trains with it: every weight once.
    assert sum(one.numel() for one in model.parameters()) == sum(counted.values())
    grid = config.vision_config.image_size // 32
    assert config.connector_options().tokens(grid, grid, int(early)) == (50 if early else 64)


BROKEN: dict[str, tuple[Any, str]] = {
    "missing": (lambda w: w.pop("layers.1.ffn_norm.weight"), r"lack the key: layers\.1\.ffn_norm\.weight;"),
    "extra": (lambda w: w.update(more=torch.zeros(2)), "hold an unknown key: more;"),
    "misshapen": (
        lambda w: w.update({"layers.1.attention.wk.weight": torch.zeros(6, WIDTH)}),
        r"another shape: layers\.1\.attention\.wk\.weight, \(6, 48\) where the model has \(24, 48\)",
    ),
    "untied": (lambda w: w["output.weight"].add_(1), "output head and embeddings differ"),
    "shared experts": (
        lambda w: w.update({"layers.0.feed_forward.experts.0.w1.weight": torch.zeros(2)}),
        "of 2024 with experts, one of them shared",
    ),
    "another model": (lambda w: w.pop("tok_embeddings.weight"), "is no MiniMind-V file"),
    "a training": (lambda w: w.update(epoch=3), "something else than names and tensors"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_files_of_another_model_are_refused(what: str, tmp_path: Path) -> None:
    told = saved(tmp_path, 2024)
    w = torch.load(told["file"], weights_only=True)
    change, message = BROKEN[what]
    change(w)
    torch.save(w, told["file"])
    with pytest.raises(UserError, match=message):
        read(**told)


def test_nothing_but_weights_is_read(tmp_path: Path) -> None:
    told = saved(tmp_path, 2024)
    whole = told["file"].read_bytes()
    told["file"].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as weights"):
        read(**told)
    torch.save({"run": Path("/tmp")}, told["file"])
    with pytest.raises(UserError, match="cannot be read as weights: Weights only load failed"):
        read(**told)


def test_heads_that_no_table_gives_must_be_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width 48 is not known; it is for 512 and 768"):
        read(**{**saved(tmp_path, 2024), "heads": None})


def test_what_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    cases = {
        "cannot hold connector = .*'mlp'": {},
        "cannot hold language_model.rms_norm_eps = 1e-06": {"connector": LINEAR},
        "cannot hold a mistral": {"language_model": {"type": "mistral", "hidden_size": 32, "num_attention_heads": 4}},
    }
    for message, told in cases.items():
        model, _ = grow(**told)
        if "rms" not in message:
            model.config.text_config.rms_norm_eps = 1e-5
        model.config.text_config.tie_word_embeddings = True
        with pytest.raises(UserError, match=message):
            write(model, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
