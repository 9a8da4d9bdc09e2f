"""Tokens per second of decoding, against transformers' own `generate`, in one run on this machine.

A Llama-shaped language model of 27M parameters (512 wide, 8 layers, 16 heads that share 8 key-value heads, vocabulary
6,400) behind a CLIP B/32-shaped tower, random weights, float32. Everyone decodes the same model, greedily, in turns, so
that a noisy machine hurts all.

* transformers: `model.generate` with its default cache; a batch is padded to its longest prompt.
* sightling, transformers: `answer_all` by the same layers, with pictures and caches of its own.
* sightling, own: by its own decoder; own_float16, own_bfloat16 (where the processor has instructions for it),
  own_int8 and own_int4 with rounded weights, which may say other words.

    python benchmarks/decoding.py [--tokens 64] [--rounds 5] [--threads 1 2]

A token's time is that of a whole answer less that of an answer of one token, over the tokens between: prompt and
picture are counted apart. The first token of a second question about a picture is set beside that of the first. Figures
are medians, ratios are those of medians; by the clock on the wall and, where other work shares the machine, by the
processor time of this process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from sightling.data.sample import Picture, Sample, Turn, question
from sightling.decode.batch import answer_all
from sightling.decode.decoder import STORED
from sightling.decode.generate import Trace, generate
from sightling.decode.memory import Memory
from sightling.decode.rounded import brief_is_fast
from sightling.model.build import build_model
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

SECTION = {
    "encoder": {"type": "clip", "image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": 3072},
    "language_model": {"type": "llama", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 16,
                       "num_key_value_heads": 8, "intermediate_size": 1408, "vocab_size": 6400},
    "connector": {"type": "mlp"},
}  # fmt: skip
ROUNDED = ("float16", "bfloat16", "int8", "int4")
"""How the ways end whose answers may differ."""
WORDS = 24
"""Words of a question; those of a batch have up to half as many more."""


def grown() -> tuple[Any, Any]:
    """The model and its processor; the token that ends an answer is never said, so that answers have one length."""
    drawn = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    texts = [" ".join("".join(drawn.choice(letters, 5)) for _ in range(400)) for _ in range(60)]
    with tempfile.TemporaryDirectory() as folder:
        train_bpe(texts, 6400, TEMPLATES.get("chatml")).save_pretrained(Path(folder) / "tokenizer")
        model, processor = build_model(SECTION, 0, Path(folder))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.dim() == 2:
                # A fresh model's last matrices are zero, and it would say one word for ever.
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.06)
    listed = {*model.generation_config.suppress_tokens, processor.stop_token_id}
    model.generation_config.suppress_tokens = sorted(listed)
    return model.eval(), processor


def asked(rows: int) -> list[Sample]:
    """Questions of unequal length about pictures of their own."""
    drawn = np.random.default_rng(1)
    found = []
    for row in range(rows):
        pixels = drawn.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        words = WORDS + (WORDS // 2) * row // max(1, rows - 1)
        found.append(question(" ".join("what" for _ in range(words)), Picture(image=Image.fromarray(pixels))))
    return found


def _by_them(model: Any, processor: Any, samples: list[Sample], tokens: int) -> list[str]:
    """Pictures prepared as for us; prompts padded before their beginning."""
    prompts = [processor.encode(sample, prompt_only=True) for sample in samples]
    width = max(len(prompt.input_ids) for prompt in prompts)
    pad = processor.pad_token_id
    ids = torch.tensor([[pad] * (width - len(one.input_ids)) + list(one.input_ids) for one in prompts])
    mask = torch.tensor([[0] * (width - len(one.input_ids)) + [1] * len(one.input_ids) for one in prompts])
    shown = processor.inputs(*(picture for prompt in prompts for picture in prompt.pictures)).tensors()
    said = model.generate(input_ids=ids, attention_mask=mask, **shown, max_new_tokens=tokens, do_sample=False)
    return [processor.decode_answer(row[width:].tolist()) for row in said]


class Clock:
    """Seconds of each thing that was timed, by the wall and by the processor."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """What the work gives."""
        wall, processor = time.perf_counter(), time.process_time()
        given = work()
        self.found.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - processor))
        return given

    def median(self, name: str, which: int) -> float:
        """Of the wall (0) or the processor (1)."""
        return statistics.median(pair[which] for pair in self.found[name])


def first_tokens(clock: Clock, model: Any, processor: Any, sample: Sample, way: str) -> None:
    """Two questions about one picture, and the second one without what was said before."""
    memory = Memory()
    (picture,) = sample.pictures()
    other = "is there one more?"

    def first(given: Sample) -> str:
        return "".join(generate(model, processor, given, max_new_tokens=1, decoder=way, memory=memory, trace=Trace()))

    said = clock.time("first question", lambda: first(sample))
    memory.forget()
    clock.time("second question alone", lambda: first(question(other, picture)))
    memory.forget()
    first(sample)
    talk = Sample((*sample.turns, Turn("assistant", (said,)), Turn("user", (other,))))
    clock.time("second question in the conversation", lambda: first(talk))


def _by_us(model: Any, processor: Any, samples: list[Sample], way: str, tokens: int) -> list[str]:
    return answer_all(model, processor, samples, max_new_tokens=tokens, decoder=way)


def measured(model: Any, processor: Any, rows: int, tokens: int, rounds: int) -> tuple[dict[str, Any], bool]:
    """Each way's times for a batch, and whether all of unrounded weights said the same."""
    samples = asked(rows)
    ways: dict[str, Callable[[int], list[str]]] = {}
    ways["transformers generate"] = partial(_by_them, model, processor, samples)
    for way in ("transformers", *STORED):
        if way == "own_bfloat16" and not brief_is_fast():
            continue
        ways[f"sightling, {way}"] = partial(_by_us, model, processor, samples, way)
    clock, said = Clock(), {}
    for turn in range(rounds + 1):
        # What is done once for all (weights laid out, kernels chosen) belongs to no answer.
        used = Clock() if turn == 0 else clock
        for name, answer in ways.items():
            with torch.inference_mode():
                used.time(f"{name}: prompt", partial(answer, 1))
                said[name] = used.time(f"{name}: answer", partial(answer, 1 + tokens))
    table: dict[str, Any] = {}
    for name in ways:
        begun, whole = ([clock.median(f"{name}: {what}", which) for which in (0, 1)] for what in ("prompt", "answer"))
        table[name] = {
            "prompt_seconds": begun, "answer_seconds": whole,
            "token_seconds": [(end - start) / tokens for end, start in zip(whole, begun)],
        }  # fmt: skip
    first = table["transformers generate"]
    for told in table.values():
        told["ratio"] = [theirs / ours for theirs, ours in zip(first["token_seconds"], told["token_seconds"])]
        told["answer_ratio"] = [theirs / ours for theirs, ours in zip(first["answer_seconds"], told["answer_seconds"])]
    kept = [tuple(answers) for name, answers in said.items() if not name.endswith(ROUNDED)]
    for name, answers in said.items():
        pairs = zip(answers, said["transformers generate"])
        table[name]["same_words"] = statistics.mean(ours == theirs for ours, theirs in pairs)
    return table, len(set(kept)) == 1


def main() -> None:
    """Measure, print, write JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/decoding.json"))
    told = parser.parse_args()
    model, processor = grown()
    result: dict[str, Any] = {"tokens": told.tokens, "rounds": told.rounds, "runs": []}
    console = Console()
    for threads in told.threads:
        torch.set_num_threads(threads)
        for rows in told.batch:
            found, same = measured(model, processor, rows, told.tokens, told.rounds)
            result["runs"].append({"threads": threads, "batch": rows, "ways": found, "same_answers": same})
            table = Table(
                "", "prompt ms", "token ms", "tokens/s", "ratio", "whole answer", "ratio by processor time",
                title=f"batch {rows}, {threads} threads, answers {'equal' if same else 'NOT equal'}",
            )  # fmt: skip
            for name, way in found.items():
                table.add_row(
                    name, f"{1e3 * way['prompt_seconds'][0]:.0f}", f"{1e3 * way['token_seconds'][0]:.1f}",
                    f"{rows / way['token_seconds'][0]:.0f}", f"{way['ratio'][0]:.2f}", f"{way['answer_ratio'][0]:.2f}",
                    f"{way['ratio'][1]:.2f}",
                )  # fmt: skip
            console.print(table)
        clock = Clock()
        for turn in range(told.rounds + 1):
            first_tokens(Clock() if turn == 0 else clock, model, processor, asked(1)[0], "own")
        medians = {name: [clock.median(name, which) for which in (0, 1)] for name in clock.found}
        result["runs"].append({"threads": threads, "first_tokens": medians})
        table = Table("time to the first token", "ms", "ratio", title=f"{threads} threads")
        for name, (wall, _) in medians.items():
            table.add_row(name, f"{1e3 * wall:.0f}", f"{wall / medians['first question'][0]:.2f}")
        console.print(table)
    told.output.parent.mkdir(parents=True, exist_ok=True)
    told.output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
