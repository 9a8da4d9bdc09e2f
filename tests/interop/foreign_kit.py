"""Tiny checkpoints in foreign layouts, written by transformers itself, and what compares them with what we read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from kit import noise, stir
from sightling.data.sample import Picture, Sample, Turn

SIZES = ((40, 28), (28, 28), (20, 51))
"""(width, height) of pictures that lie, that are square, and that stand."""

CLIP = {"image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 48}  # fmt: skip
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 1024}  # fmt: skip


def sentencepiece(*control: str, legacy: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of Llama's kind with a few merges; ``control`` follow its own tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:?.!,<>|/", "\u2581w", "wh", "ha"]
    pieces += ["\u2581wh", "US", "ER", "USER", "\u2581USER", "re", "red", "\u2581red"]
    merges = [("\u2581", "w"), ("w", "h"), ("h", "a"), ("\u2581w", "h"), ("U", "S"), ("E", "R"), ("US", "ER")]
    merges += [("\u2581", "USER"), ("r", "e"), ("re", "d"), ("\u2581", "red")]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = LlamaTokenizer(vocabulary, merges, legacy=legacy, add_bos_token=True)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def byte_level(*control: str, **told: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few merges, control tokens first; ``told`` is what transformers' class takes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(control) + 40, special_tokens=list(control), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["user what red?", "assistant yes"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **told)


def save_foreign(model: Any, folder: Path, seed: int = 0) -> Any:
    """A model of transformers with weights that make everything matter, saved by transformers."""
    stir(model, seed).eval().save_pretrained(folder)
    return model


def write_json(file: Path, told: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(told), encoding="utf-8")


def change_json(file: Path, **told: Any) -> None:
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **told})


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, whatever the shards."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def rewrite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Other weights in the place of a folder's."""
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip


def rename(folder: Path, *pairs: tuple[str, str]) -> None:
    """The first prefix that fits a key is replaced, in every key."""

    def named(key: str) -> str:
        for before, after in pairs:
            if key.startswith(before):
                return after + key.removeprefix(before)
        return key

    rewrite(folder, {named(key): tensor for key, tensor in weights(folder).items()})


def check_same_weights(first: Path, second: Path) -> None:
    """The same keys, every one with the same bytes."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert tensor.dtype == other[key].dtype and torch.equal(tensor, other[key]), key


def check_same_json(first: Path, second: Path, name: str) -> None:
    one, other = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (first, second))
    assert one == other


def asked(question: str, *sizes: tuple[int, int]) -> Sample:
    """A question about pictures of noise of these sizes, which come first."""
    pictures = tuple(Picture(image=noise(*size, seed=seed)) for seed, size in enumerate(sizes))
    return Sample((Turn("user", (*pictures, question)),))


def images(sample: Sample) -> list[Any]:
    return [picture.load() for picture in sample.pictures()]


def logits(model: Any, told: Mapping[str, Any], names: Sequence[str] = ()) -> Tensor:
    with torch.no_grad():
        return model(**told, use_cache=False).logits
