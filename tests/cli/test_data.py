from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightling.cli import data
from sightling.errors import UserError

RUN = CliRunner()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "[red] a square"}]
    path = tmp_path / "it.json"
    path.write_text(json.dumps([{"id": "0", "image": "a.png", "conversations": turns}]))
    return path


@pytest.fixture
def bad(good: Path) -> Path:
    records = json.loads(good.read_text())
    records += [dict(records[0], image="gone.png") for _ in range(25)]
    path = good.with_name("bad.json")
    path.write_text(json.dumps(records))
    return path


def invoke(*arguments: object) -> Any:
    return RUN.invoke(data.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_check_of_a_clean_data_set(good: Path) -> None:
    result = invoke("check", good)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.split() == ["records", "1"] for line in lines)
    assert any("llava: LLaVA conversations" in line for line in lines)
    assert any("8 to 8 pixels, median 8" in line for line in lines)
    assert lines[-1].strip() == "clean"


def test_check_names_bad_records_and_exits_with_2(bad: Path) -> None:
    result = invoke("check", bad)
    assert result.exit_code == 2
    assert "26, of which 25 bad" in result.stdout and "not clean" in result.stdout
    assert result.stdout.count("gone.png does not exist") == 20
    assert "and 5 more problems (--all lists them)" in result.stdout
    assert invoke("check", bad, "--all").stdout.count("gone.png does not exist") == 25


def test_check_as_json(good: Path, bad: Path) -> None:
    result = invoke("check", good, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["format"] == "llava" and report["samples"] == 1 and report["clean"] is True
    result = invoke("check", bad, "--json", "--headers-only")
    report = json.loads(result.stdout)
    assert result.exit_code == 2
    assert (report["records"], report["bad"], len(report["problems"])) == (26, 25, 25)
    assert report["problems"][0]["index"] == 1 and report["problems"][0]["line"] == 1


def test_format_images_and_options(tmp_path: Path, good: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert invoke("check", good, "--images", elsewhere).exit_code == 2
    assert invoke("check", good, "--format", "minimind_json").exit_code == 0
    prefixed = invoke("check", good, "--format", "minimind_json", "--option", "prefix=COCO_", "--json")
    assert "COCO_a.png does not exist" in json.loads(prefixed.stdout)["problems"][0]["problem"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere"), "nowhere does not exist"),
        (("check", "{good}", "--format", "lava"), "there is no data format 'lava'; did you mean 'llava'"),
        (("check", "{good}", "-O", "three"), "the option 'three' is not KEY=VALUE"),
        (("check", "{good}", "-O", "three=["), "the value of the option 'three=[' is not YAML"),
        (("show", "{good}", "--model", "{good}"), "is a file; give the folder that holds the model"),
        (("show", "{good}", "--html", "{good}/page.html"), "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], message: str, good: Path) -> None:
    result = invoke(*(argument.format(good=good) for argument in arguments))
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_show_prints_turns_as_they_are(good: Path) -> None:
    result = invoke("show", good, "-n", 3)
    assert result.exit_code == 0
    assert f"user: [{good.with_name('a.png')} 8 x 6] what is it?" in result.stdout
    # Text in brackets is text, not markup.
    assert "assistant: [red] a square" in result.stdout


def test_show_says_what_is_wrong(bad: Path) -> None:
    result = invoke("show", bad, "-n", 26)
    assert result.exit_code == 0
    assert result.stdout.count("gone.png does not exist") == 25


def test_show_writes_a_page(good: Path, tmp_path: Path) -> None:
    page = tmp_path / "new/page.html"
    result = invoke("show", good, "--html", page)
    assert result.exit_code == 0 and f"wrote {page}" in " ".join(result.stdout.split("\n"))
    assert "data:image/png;base64," in page.read_text()


def test_show_with_a_model_shows_its_tokens(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoded:
        input_ids = (7, 7, 7, 7, 7, 65, 66)
        labels = (-100, -100, -100, -100, -100, -100, 66)

    class Tokenizer:
        def decode(self, ids: list[int], **options: Any) -> str:
            return "".join("<image>" if token == 7 else chr(token) for token in ids)

    class Processor:
        tokenizer = Tokenizer()

        def encode(self, sample: Any) -> Encoded:
            return Encoded()

    monkeypatch.setattr(data, "_processor", lambda folder: Processor())
    result = invoke("show", good, "--model", tmp_path)
    assert result.exit_code == 0
    assert "7 tokens, 1 supervised" in result.stdout
    assert "<image> x 5|A|B|" in result.stdout


def test_show_takes_a_runs_folder_for_its_model(good: Path, saved_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(saved_model)
    result = invoke("show", good, "-n", 1, "--model", tmp_path)
    assert result.exit_code == 0, result.exception
    assert "supervised" in result.stdout


def test_the_module_is_light() -> None:
    import subprocess

    heavy = "[name for name in ('torch', 'transformers', 'pyarrow', 'PIL', 'jinja2') if name in sys.modules]"
    code = f"import sys, sightling.cli.data; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
