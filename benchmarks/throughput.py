"""Samples per second of the quickstart's instruct stage, against transformers' own Trainer.

Both train the same model on the same samples in one run, in turns, so that a noisy machine hurts both.

* sightling: the command `sightling train`, as the recipe has the stage. It draws and encodes its samples as it goes.
* Trainer: one padded sample a row, float32, the batch size with which it is fastest of those tried. Its samples are
  encoded before the clock starts.

    python benchmarks/throughput.py [--recipe quickstart] [--stage instruct] [--rounds 3] [--seconds 20]

A sample is a question with its answer. The figure is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from sightling.model.build import build_model
from sightling.train.checked import check_recipe
from sightling.train.objectives.answer import Answer
from sightling.train.recipe import StepStage, TrainStage, load_recipe
from sightling.train.trackers import read_metrics
from sightling.train.yamlfile import dump_yaml


class Rows(Dataset[Any]):
    """Single samples, encoded before the clock starts."""

    def __init__(self, samples: list[Any], processor: Any) -> None:
        self.items = []
        for sample in samples:
            encoded = processor.encode(sample)
            self.items.append(
                {"ids": encoded.input_ids, "labels": encoded.labels, "pixels": processor.pixels(encoded.pictures[0])}
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def padded(items: list[Any], pad_id: int) -> dict[str, torch.Tensor]:
    """What a user would write first: every sample its own row, padded to the longest."""
    width = max(len(item["ids"]) for item in items)
    batch = {
        "input_ids": torch.full((len(items), width), pad_id),
        "labels": torch.full((len(items), width), -100),
        "attention_mask": torch.zeros(len(items), width, dtype=torch.long),
    }
    for row, item in enumerate(items):
        length = len(item["ids"])
        batch["input_ids"][row, :length] = torch.tensor(item["ids"])
        batch["labels"][row, :length] = torch.tensor(item["labels"])
        batch["attention_mask"][row, :length] = 1
    batch["pixel_values"] = torch.cat([item["pixels"] for item in items])
    return batch


class Clock(TrainerCallback):
    """Seconds of each step, and a stop when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps: list[float] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it; end the training when the time is over."""
        self.steps.append(time.perf_counter() - self.started)
        control.should_training_stop = sum(self.steps) > self.seconds


def trainer_steps(model: Any, rows: Rows, batch_size: int, seconds: float, collate: Any, bf16: bool) -> list[float]:
    """Seconds of each step of transformers' Trainer, in so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=10_000,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            learning_rate=1e-4,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            bf16=bf16,
            disable_tqdm=True,
        )
        clock = Clock(seconds)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.train()
    return clock.steps


def trainer_rate(model: Any, rows: Rows, batch_size: int, seconds: float, pad_id: int) -> float:
    """Samples per second of transformers' Trainer."""
    steps = trainer_steps(model, rows, batch_size, seconds, lambda items: padded(items, pad_id), bf16=False)
    return batch_size / statistics.median(steps[1:])


def our_rate(recipe: Path, folder: Path, seconds: float) -> float:
    """Samples per second that the command reports: it starts or goes on, trains for a while and is told to stop."""
    metrics = folder / "metrics.jsonl"
    before = len(list(read_metrics(metrics)))
    command = [sys.executable, "-m", "sightling", "train", str(recipe), "--output", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        # The first line of a start holds what happens once; the clock runs from there.
        while len(list(read_metrics(metrics))) <= before:
            if running.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with exit code {running.returncode}")
            time.sleep(0.2)
        time.sleep(seconds)
        running.terminate()
    rates = [line["samples_per_second"] for line in list(read_metrics(metrics))[before + 1 :]]
    if not rates:
        raise SystemExit(f"no step ended within {seconds:g} s; give --seconds more")
    return statistics.median(rates)


def main() -> None:
    """Measure and print; write JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--stage", default="instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/throughput.json"))
    told = parser.parse_args()
    recipe = load_recipe(told.recipe)
    stage = recipe.stages[told.stage]
    assert isinstance(stage, TrainStage)
    checked: Any = check_recipe(recipe)
    tree = recipe.to_dict()
    steps = {name: kept for name, kept in tree["stages"].items() if isinstance(recipe.stages[name], StepStage)}
    alone = tree["stages"][told.stage] | {"max_steps": 100_000, "logging_steps": 5}
    tree |= {"stages": steps | {told.stage: alone}, "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder:
        written, run = Path(folder) / "recipe.yaml", Path(folder) / "run"
        written.write_text(dump_yaml(tree), encoding="utf-8")
        # The first start trains the tokenizer, too; its rate is thrown away.
        our_rate(written, run, told.seconds / 4)
        model, processor = build_model(recipe.model, recipe.seed, run)
        objective = Answer(model, processor, checked[told.stage].options, checked[told.stage].data, seed=1)
        dataset: Any = objective.dataset()
        rows = Rows([sample for index in range(64) for sample in dataset.source.group(index)], processor)
        pad = processor.pad_token_id
        sizes = {size: trainer_rate(model, rows, size, told.seconds / 4, pad) for size in (8, 32, 128)}
        best = max(sizes, key=lambda size: sizes[size])
        ours, theirs = [], []
        for _ in range(told.rounds):
            ours.append(our_rate(written, run, told.seconds))
            theirs.append(trainer_rate(model, rows, best, told.seconds, pad))
    result = {
        "sightling_samples_per_second": statistics.median(ours),
        "trainer_samples_per_second": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "trainer_batch_size": best,
        "rounds": {"sightling": ours, "trainer": theirs},
        "threads": torch.get_num_threads(),
        "cpu_processes": recipe.cpu_processes,
    }
    table = Table(
        "", "samples/s", "ratio", title=f"{told.recipe}, stage {told.stage}, {torch.get_num_threads()} cores"
    )
    table.add_row("transformers Trainer", f"{result['trainer_samples_per_second']:.0f}", "1.0")
    table.add_row("sightling", f"{result['sightling_samples_per_second']:.0f}", f"{result['ratio']:.1f}")
    Console().print(table)
    told.output.parent.mkdir(parents=True, exist_ok=True)
    told.output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
