from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import logging

import sightling
from sightling.errors import UserError


def test_importing_costs_nothing() -> None:
    program = "import sys, sightling; print(sorted({'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    assert set(sightling._HOMES) | {"__version__"} == set(sightling.__all__) <= set(dir(sightling))
    for name in sightling.__all__:
        assert getattr(sightling, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = sightling.lod  # type: ignore[attr-defined]


def test_load_a_model_or_a_run(saved_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved_model, run / "model")
    for path in (saved_model, str(saved_model), run):
        model, processor = sightling.load(path)
        assert isinstance(model, sightling.VisionLanguageModel) and not model.training
        assert isinstance(processor, sightling.VisionLanguageProcessor)
    assert sightling.load(saved_model, device="cpu", dtype="bfloat16")[0].dtype is torch.bfloat16
    assert sightling.load(saved_model, dtype=torch.float64)[0].dtype is torch.float64


def test_ask_takes_pictures_of_every_kind(saved_model: Path, png: Path) -> None:
    model, processor = sightling.load(saved_model)
    image = Image.open(png)
    kinds: list[Any] = [png, str(png), png.read_bytes(), image, sightling.Picture(path=png), [png], (image,)]
    answers = {sightling.ask(model, processor, kind, "red?", max_new_tokens=6) for kind in kinds}
    assert len(answers) == 1
    two = sightling.ask(model, processor, [png, image], "red?", max_new_tokens=6)
    none = sightling.ask(model, processor, None, "red?", max_new_tokens=6)
    assert len({two, none, *answers}) == 3
    with pytest.raises(UserError, match="not 'int'"):
        sightling.ask(model, processor, 3, "red?")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        sightling.ask(model, processor, png, "red?", temprature=1)


def test_loading_is_quiet_and_leaves_transformers_as_it_was(
    saved_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    sightling.load(saved_model)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def set_to(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return write


def changed(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        *outer, last = key.split(".")
        inner = tree
        for part in outer:
            inner = inner[part]
        inner[last] = value
        (folder / name).write_text(json.dumps(tree))

    return change


@pytest.mark.parametrize(
    "damage, told",
    [
        (shutil.rmtree, "there is no folder"),
        (without("config.json"), "holds no model"),
        (cut("config.json"), "config.json is damaged or cut short"),
        (changed("config.json", "model_type", "llama"), "a model of the type 'llama'"),
        (changed("config.json", "text_config.model_type", "lama"), "text_config.model_type is 'lama'"),
        (changed("config.json", "connector.type", "mpl"), "config.json: connector.type: there is no connector 'mpl'"),
        (changed("config.json", "image_token_id", 1), "its image placeholder is token"),
        (without("model.safetensors"), "lacks its weights"),
        (cut("model.safetensors"), "are damaged or cut short"),
        (changed("config.json", "text_config.num_hidden_layers", 3), "lack the key: language_model.model.layers.2"),
        (changed("config.json", "text_config.num_hidden_layers", 1), "hold an unknown key: language_model.model"),
        (changed("config.json", "text_config.intermediate_size", 64), "hold a key of another shape: language_model"),
        (without("processor_config.json"), "lacks its processor"),
        (set_to("processor_config.json", "{}"), "is damaged: it describes none of a known kind"),
        (changed("config.json", "text_config.hidden_size", "big"), "config.json describes no model"),
        (changed("config.json", "dtype", "float7"), "no attribute 'float7'"),
        (set_to("tokenizer.json", "{}"), "is damaged: the key 'added_tokens' is missing"),
        (cut("processor_config.json"), "processor_config.json is damaged or cut short"),
        (without("tokenizer.json"), "lacks its tokenizer"),
        (cut("tokenizer.json"), "tokenizer.json is damaged or cut short"),
        (without("tokenizer_config.json"), "there is no tokenizer_config.json"),
        (cut("generation_config.json"), "generation_config.json is damaged or cut short"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_told_in_one_sentence(
    saved_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    told: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        sightling.load(folder)
    assert told in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_other_folders_devices_and_dtypes(saved_model: Path, tmp_path: Path, png: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for wrong, told in (
        ({"path": tmp_path}, "no finished model yet"),
        ({"path": png}, "is a file"),
        ({"path": saved_model, "device": "nowhere"}, "there is no device 'nowhere'"),
        ({"path": saved_model, "device": "meta"}, "the device 'meta' computes nothing"),
        ({"path": saved_model, "dtype": "bfloat"}, "did you mean 'bfloat16'"),
    ):
        with pytest.raises(UserError, match=told):
            sightling.load(**wrong)  # type: ignore[arg-type]
