"""Tokens per second of training a language model on captions, against transformers' own Trainer, lever by lever.

The model is LLaVA's: a frozen tower of CLIP B/32's shape, two layers between, and a language model with a vocabulary of
6,400: 8 layers of width 512 (27M parameters), or with `--size 109M` 16 of width 768. The data are pictures with a
caption each, whose lengths have a long tail (log-normal, mean 230 tokens or what `--mean` says). Both sides train a
model of the same sizes on the same samples in one run, in turns, so that a noisy machine hurts both.

* sightling: the command `sightling train`, which reads pictures and captions from files as it goes. Each lever is
  switched on beside those before it.
* Trainer: transformers' `LlavaForConditionalGeneration`, every sample its own row, padded to the longest of its batch,
  with the batch size with which it is fastest of those tried, and with its own default, 8, where that is another. Its
  samples are encoded before the clock starts.

    python benchmarks/training.py [--rounds 3] [--seconds 40] [--captions 128] [--plot levers.svg]
    python benchmarks/training.py --size 109M --mean 1800 --batch 16 --compile      # with a GPU

Tokens are real ones, visual tokens among them, padding not. The figures are medians over the rounds, and their ratios.
The last lever is then profiled for its model FLOP utilisation: operations of the model's products over what a large
product of the same precision reaches here.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from plots import bars
from sightling.model.build import build_model
from sightling.train.objectives.answer import Answer
from sightling.train.precision import choose_bf16
from sightling.train.recipe import load_recipe
from sightling.train.run import check_recipe
from sightling.train.trackers import read_metrics
from sightling.train.yamlfile import dump_yaml
from throughput import Rows, padded, trainer_steps

SIGMA = 0.6
"""The standard deviation of the logarithm of the captions' lengths."""
TOKENS_A_WORD = 1.05
SIDE, PATCH = 224, 32
TOWER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
WORDS = {
    "27M": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2,
            "intermediate_size": 1408, "max_position_embeddings": 2048},
    "109M": {"hidden_size": 768, "num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 2,
             "intermediate_size": 2048, "max_position_embeddings": 2048},
}  # fmt: skip
"""The language models of MiniMind-V's two sizes."""

RECIPE: dict[str, Any] = {
    "name": "captions",
    "model": {
        "encoder": {"type": "clip", "image_size": SIDE, "patch_size": PATCH, "layer": -2, **TOWER},
        "connector": {"type": "mlp", "depth": 2},
        "template": "llava-plain",
    },
    "report_to": "none",
    "bf16": False,
}

STAGE: dict[str, Any] = {
    "objective": {"type": "answer", "max_length": 2048, "pack": False},
    "train": {"connector": True, "language_model": True},
    "learning_rate": 1e-4,
    "max_steps": 100_000,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
}

DEFAULT = 8
"""The batch size of transformers' Trainer where none is told."""

LEVERS: list[tuple[str, dict[str, Any]]] = [
    ("a row each, padded", {}),
    ("packed rows", {"objective.pack": True}),
    ("bfloat16", {"bf16": True}),
    ("processes in place of threads", {"/cpu_processes": 2}),
    ("compiled layers", {"torch_compile": True}),
    ("features of the tower cached", {"features": {"cache": True}}),
]
"""Each on top of those before it; a key with a stroke is the recipe's, the others are the stage's."""


def write_captions(folder: Path, count: int, mean: int) -> Path:
    """Pictures and LLaVA's JSON; pseudo-words of two syllables, so that a token is about a word."""
    drawn = random.Random(0)
    syllables = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = [first + second for first in syllables for second in syllables]
    (folder / "pictures").mkdir()
    records = []
    for number in range(count):
        length = max(8, round(drawn.lognormvariate(0.0, SIGMA) * mean * math.exp(-(SIGMA**2) / 2) / TOKENS_A_WORD))
        caption = " ".join(drawn.choices(words, k=min(length, 1600)))
        name = f"{number:05d}.jpg"
        Image.effect_noise((SIDE, SIDE), 60).convert("RGB").save(folder / "pictures" / name, quality=90)
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]
        records.append({"image": name, "conversations": turns})
    path = folder / "captions.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def recipe_tree(captions: Path, size: str, recipe: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a stage as a lever left both."""
    data = {"type": "files", "format": "llava", "path": str(captions), "images_root": str(captions.parent / "pictures")}
    words = {"type": "tokenizer", "vocab_size": 6400, "texts": 10_000, "data": {"type": "samples", "data": data}}
    model = {**RECIPE["model"], "language_model": {"type": "llama", **WORDS[size]}}
    return {**RECIPE, **recipe, "model": model, "stages": {"words": words, "learn": {**stage, "data": data}}}


def changed(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The section with these keys set."""
    new = json.loads(json.dumps(tree))
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = new
        for section in sections:
            place = place[section]
        place[last] = value
    return new


def possible(told: argparse.Namespace) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The levers that this machine has: name, and the recipe's and the stage's keys with all before it."""
    gpu = torch.cuda.is_available()
    lacking = set()
    if not gpu and not choose_bf16("auto", torch.device("cpu")).value:
        lacking.add("bf16")
    if gpu or (torch.get_num_threads() == 1):
        lacking.add("/cpu_processes")
    if not told.compile:
        lacking.add("torch_compile")
    recipe: dict[str, Any] = {}
    stage = {**STAGE, "per_device_train_batch_size": told.batch}
    found = []
    for name, keys in LEVERS:
        if lacking & set(keys):
            continue
        recipe = changed(recipe, {key[1:]: value for key, value in keys.items() if key[0] == "/"})
        stage = changed(stage, {key: value for key, value in keys.items() if key[0] != "/"})
        found.append((name, recipe, stage))
    return found


def utilisation(recipe: Path, folder: Path) -> str:
    """What the command's profile says of a step: model FLOP utilisation, as a sentence."""
    command = [sys.executable, "-m", "sightling", "train", str(recipe), "--output", str(folder), "--profile", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("model FLOP utilisation"):
                running.terminate()
                return line.strip()
    raise SystemExit(f"{' '.join(command)} ended without a profile")


def our_rates(recipe: Path, folder: Path, seconds: float, first: int) -> tuple[list[float], list[float]]:
    """Real tokens a second of each step: (after the step ``first``, for so many seconds; the ones before, but one)."""
    metrics = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "sightling", "train", str(recipe), "--output", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        begun = len(list(read_metrics(metrics)))
        while len(list(read_metrics(metrics))) <= max(begun, first):
            try:
                running.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise SystemExit(f"{' '.join(command)} ended with exit code {running.returncode}")
        kept = len(list(read_metrics(metrics)))
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.terminate()
    rates = [line["tokens_per_second"] for line in read_metrics(metrics)]
    if not rates[kept:]:
        raise SystemExit(f"no step ended within {seconds:g} s; give --seconds more")
    return rates[kept:], rates[begun + 1 : first]


def trainer_rates(rows: Rows, model: Any, batch_size: int, seconds: float, pad_id: int, bf16: bool) -> list[float]:
    """Real tokens a second of each step of transformers' Trainer, the first left out."""
    counts: list[int] = []

    def collate(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = padded(items, pad_id)
        counts.append(int(batch["attention_mask"].sum()))
        batch["pixel_values"] = batch["pixel_values"].float() / 127.5 - 1
        return batch

    steps = trainer_steps(model, rows, batch_size, seconds, collate, bf16)
    # The first step pays for what happens once; where it is the only one, it is all there is.
    pairs = list(zip(counts, steps, strict=False))
    return [count / took for count, took in pairs[1:] or pairs]


def peer(size: str, image_token_id: int, pad_id: int, vocabulary: int) -> Any:
    """transformers' LLaVA of the same sizes; its tower is frozen, as ours is."""
    tower = CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=PATCH)
    words = LlamaConfig(**WORDS[size], vocab_size=vocabulary, pad_token_id=pad_id)
    config = LlavaConfig(
        vision_config=tower, text_config=words, image_token_index=image_token_id, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.requires_grad_(False)
    return model


def main() -> None:
    """Measure and print; write JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each side in each round")
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--mean", type=int, default=230, help="tokens of a caption")
    parser.add_argument("--size", choices=sorted(WORDS), default="27M")
    parser.add_argument("--batch", type=int, default=8, help="captions of our batches")
    parser.add_argument("--compile", action="store_true", help="compile layers, too; it takes minutes to begin")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--plot", type=Path, help="an SVG of the medians")
    told = parser.parse_args()
    pulled = possible(told)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        captions = write_captions(folder, told.captions, told.mean)
        recipes: dict[str, Path] = {}
        for name, recipe, stage in pulled:
            recipes[name] = folder / f"{len(recipes)}.yaml"
            tree = recipe_tree(captions, told.size, recipe, stage)
            recipes[name].write_text(dump_yaml(tree), encoding="utf-8")
        first = next(iter(recipes.values()))
        # A first start trains the tokenizer; the model that both sides' samples are encoded for is built from it.
        our_rates(first, folder / "run", 1.0, 0)
        read = load_recipe(str(first))
        model, processor = build_model(read.model, read.seed, folder / "run")
        checked: Any = check_recipe(read)
        objective = Answer(model, processor, checked["learn"].options, checked["learn"].data, seed=1)
        source = objective.data.open(1)
        rows = Rows([sample for index in range(told.captions) for sample in source.group(index)], processor)
        lengths = [len(item["ids"]) for item in rows.items]
        pad = processor.pad_token_id
        theirs = peer(told.size, processor.image_token_id, pad, model.config.text_config.vocab_size)
        precisions = (False, True) if pulled[-1][2].get("bf16") else (False,)
        best = {}
        for bf16 in precisions:
            tried = {
                size: statistics.median(trainer_rates(rows, theirs, size, told.seconds / 4, pad, bf16))
                for size in (2, 4, 8, 16)
            }
            best[bf16] = max(tried, key=lambda size: tried[size])
        rates: dict[str, list[float]] = {}
        for number in range(told.rounds):
            for bf16, batch in dict.fromkeys((one, size) for one in precisions for size in (best[one], DEFAULT)):
                name = f"transformers Trainer, {'bfloat16' if bf16 else 'float32'}, batches of {batch}"
                found = trainer_rates(rows, theirs, batch, told.seconds, pad, bf16)
                rates.setdefault(name, []).append(statistics.median(found))
            for name, path in recipes.items():
                # The second epoch is what a cache is for; the first fills it.
                epoch = -(-told.captions // told.batch) if "cached" in name and number == 0 else 0
                found, filling = our_rates(path, folder / f"run {name}", told.seconds, epoch)
                if filling:
                    rates[f"{name}: its first epoch"] = [statistics.median(filling)]
                rates.setdefault(name, []).append(statistics.median(found))
        used = utilisation(recipes[pulled[-1][0]], folder / "profiled")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    base = next(iter(medians.values()))
    count = sum(parameter.numel() for parameter in model.language_model.parameters())
    title = (
        f"{count / 1e6:.1f}M language model, captions of {statistics.mean(lengths):.0f} tokens with their picture's, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else f'{torch.get_num_threads()} threads'}"
    )
    table = Table("", "real tokens/s", "ratio", title=title)
    for name, median in medians.items():
        table.add_row(name, f"{median:,.0f}", f"{median / base:.2f}")
    Console().print(table)
    print(f"{pulled[-1][0]}: {used}")
    told.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"rates": rates, "medians": medians, "parameters": count, "lengths": lengths, "utilisation": used}
    told.output.write_text(json.dumps(result, indent=2))
    if told.plot is not None:
        peers = [name for name in medians if name.startswith("transformers")]
        told.plot.write_text(bars(medians, "real tokens a second", peers), encoding="utf-8")


if __name__ == "__main__":
    main()
