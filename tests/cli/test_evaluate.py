from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from typer.testing import CliRunner

from sightling.cli import app, evaluate, main
from sightling.evaluate.run import evaluate as measure
from sightling.model.build import build_model
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

RUN = CliRunner()
TEXTS = [
    "what color is the circle? red is there a large square? how many things are there? 图中有没有红色的圆形？"
] * 10
SECTION: dict[str, Any] = {
    "encoder": {"type": "siglip", "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1},
    "language_model": {"type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 256},
}
RECIPE = """
name: tiny
description: a tiny model
model: {}
stages:
  learn: {objective: {type: answer}, data: {type: world}, train: {encoder: true}, learning_rate: 0.1, max_steps: 1}
evaluate:
  data: {type: world, image_size: 32, scene: {max_things: 2, textured: 0.0}, families: [color, existence, caption]}
  scenes: 4
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with TemporaryDirectory() as tokenizer:
        train_bpe(TEXTS, 330, TEMPLATES.get("chatml")).save_pretrained(tokenizer)
        model, processor = build_model({**SECTION, "tokenizer": {"pretrained": tokenizer}}, 0, folder)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "model" / "recipe.yaml").write_text(RECIPE)
    state = {"stages": {"learn": {"status": "finished", "steps": 1, "seconds": 2.0, "peak_memory_bytes": 1000}}}
    (folder / "run.json").write_text(json.dumps({"created": "now", "device": "cpu", "threads": 1, **state}))
    (folder / "metrics.jsonl").write_text('{"stage": "learn", "step": 1, "loss": 3.0, "accuracy": 0.1}\n')
    return folder


def invoke(*arguments: object) -> Any:
    return RUN.invoke(evaluate.app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_a_run_is_measured_and_reported(run: Path) -> None:
    result = invoke(run, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "exactly right" in result.output
    assert "existence" in result.output
    assert "…" not in result.output
    folder = run / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.jsonl", "report.html", "results.json"]
    told = json.loads((folder / "results.json").read_text())
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert told["about"]["questions"] == len(lines)
    assert {line["family"] for line in lines} == {"color", "existence", "caption"}
    assert told["about"]["command"].endswith("--seed 1")
    whole = next(cell for cell in told["cells"] if cell["family"] is None and cell["language"] == "en")
    own = [line for line in lines if line["language"] == "en" and line["family"] != "caption"]
    assert whole["accuracy"]["value"] == sum(line["right"] for line in own) / len(own)
    page = (folder / "report.html").read_text()
    assert "learn" in page
    assert "sightling train" in page


def test_json_and_the_same_numbers_again(run: Path, tmp_path: Path) -> None:
    first = invoke(run / "model", "--json", "--scenes", 3, "--seed", 5, "--output", tmp_path, "--threads", 1)
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert (told["about"]["pictures"], told["about"]["seed"]) == (3, 5)
    one = invoke(run / "model", "--scenes", 1, "--output", tmp_path / "one", "--threads", 1)
    assert re.match(r"\d+ questions about 1 picture, ", one.stdout), one.stdout
    again = measure(run, scenes=3, seed=5, output=tmp_path / "again").results.to_dict()
    assert [again[key] for key in ("cells", "captions", "gaps")] == [told[key] for key in ("cells", "captions", "gaps")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no model folder nowhere"),
        (["RUN", "--data", "quickstrat"], "did you mean 'quickstart'"),
        (["RUN", "--data", "{type: world, size: 3}"], "has no key 'size'"),
        (["RUN", "--device", "gpu7"], "there is no device 'gpu7' here; available are: cpu"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *(str(run) if word == "RUN" else word for word in arguments)])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_the_command_is_listed() -> None:
    result = RUN.invoke(app, ["--help"])
    assert "evaluate" in result.output
