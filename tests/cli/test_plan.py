"""``sightling plan``: the command, its JSON and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import kit
from sightling.cli import main


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A recipe file whose first stage trains the tokenizer."""
    data = {"type": "world", "languages": ["en"], "families": ["color"], "questions_per_picture": 1}
    stages = {
        "words": {"type": "tokenizer", "vocab_size": 400, "texts": 50, "data": data},
        "learn": {"objective": {"type": "answer", "max_length": 128}, "data": data, "train": {"connector": True},
                  "learning_rate": 1e-3, "max_steps": 7, "per_device_train_batch_size": 2, "bf16": False},
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "model": kit.section(), "stages": stages}))
    return str(path)


def test_json_tells_every_stage_that_trains(
    capsys: pytest.CaptureFixture[str], small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(
        capsys, "plan", small, "stages.learn.gradient_accumulation_steps=2", "--probe", "0", "--json", "--threads", "1"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["recipe"] == "small" and told["machine"]["threads"] == 1
    (stage,) = told["stages"]
    assert stage["name"] == "learn" and stage["steps"] == 7 and stage["time"] is None
    assert [part["learning_rate"] for part in stage["parts"]] == [0.0, 1e-3, 0.0]
    assert stage["flops_in_all"] == 7 * stage["flops"]
    assert stage["memory"]["total"] == sum(
        stage["memory"][key] for key in ("weights", "gradients", "optimizer", "activations")
    )
    # Two micro-batches of two pictures, 16 visual tokens each.
    assert stage["tokens"]["visual"] == 2 * 2 * 16
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_launchers_processes_are_those_that_it_says_or_that_are_asked_for(
    capsys: pytest.CaptureFixture[str], small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = []
    for more in ([], ["--processes", "2"]):
        code, out, err = outcome(capsys, "plan", small, "parallel=fsdp", "--probe", "0", "--json", *more)
        assert (code, err) == (0, "")
        told = json.loads(out)
        (stage,) = told["stages"]
        assert stage["sharded"]["shards"] == told["machine"]["processes"]
        keys = ("rest_weights", "rest_gradients", "unit_weights", "unit_gradients")
        assert stage["sharded"]["gathered"] == sum(stage["sharded"][key] for key in keys)
        found.append((stage["sharded"]["shards"], stage["flops"]))
    (four, more_flops), (two, flops) = found
    assert (four, two) == (4, 2) and more_flops == 2 * flops
    monkeypatch.setenv("WORLD_SIZE", "many")
    code, _, err = outcome(capsys, "plan", small, "--probe", "0")
    assert code == 2 and err == "error: WORLD_SIZE many is wrong; give a number of processes, at least 1\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["stages.learn.lerning_rate=1"], "has no key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["--probe", "11"], "--probe 11 is wrong; give seconds from 0 to 10"),
        (["--processes", "0"], "--processes 0 is wrong; give a number of processes, at least 1"),
        (["--threads", "0", "--probe", "0"], "--threads 0 is too few; at least 1 is needed"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    capsys: pytest.CaptureFixture[str], small: str, more: list[str], told: str
) -> None:
    code, out, err = outcome(capsys, "plan", small, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and told in err and err.count("\n") == 1
