"""``sightling export``: a model of ours in another layout and back, a ``.pth`` file, and what is told."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

import kit
import sightling
from sightling import cli
from sightling.errors import UserError
from sightling.interop import writing
from sightling.loading import quiet


def outcome(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(part) for part in argv])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def saved(folder: Path, **told: object) -> Path:
    model, processor = kit.grow(**told)
    with quiet():
        sightling.save(model, processor, folder)
    return folder


def test_out_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = saved(tmp_path / "ours", encoder={**kit.CLIP, "layer": -2})
    code, out, err = outcome(capsys, "export", ours, tmp_path / "a", "--layout", "llava")
    assert (code, out, err) == (0, f"wrote {tmp_path / 'a'} in the layout llava\n", "")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["model_type"] == "llava"
    code, out, err = outcome(capsys, "export", tmp_path / "a", tmp_path / "b")
    assert (code, out, err) == (0, f"wrote {tmp_path / 'b'} in our own layout\n", "")
    first, second = (sightling.load(folder, device="cpu")[0].state_dict() for folder in (ours, tmp_path / "b"))
    assert first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_file_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {**kit.QWEN3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}
    connector = {"type": "mlp", "depth": 2, "norm": True}
    saved(tmp_path / "ours", language_model=told, connector=connector)
    code, _, err = outcome(capsys, "export", tmp_path / "ours", tmp_path / "m.pth", "--layout", "minimind_v")
    assert (code, err) == (0, "") and (tmp_path / "m.pth").is_file()
    code, _, err = outcome(capsys, "export", tmp_path / "m.pth", tmp_path / "c")
    assert code == 2 and "neither its image tower nor its tokenizer; give --tower and --tokenizer" in err
    code, _, err = outcome(capsys, "export", tmp_path / "ours", tmp_path / "m.pth", "--layout", "minimind_v")
    assert code == 2 and "m.pth is there already" in err


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = saved(tmp_path / "ours", connector={"type": "mlp", "positions": True})
    cases = {
        "there is no layout 'lava'; did you mean 'llava'": (ours, tmp_path / "a", "--layout", "lava"),
        "the layout 'llava' cannot hold connector": (ours, tmp_path / "a", "--layout", "llava"),
        "is there already and not empty": (ours, ours, "--layout", "llava"),
        "are for a .pth file": (ours, tmp_path / "a", "--tower", ours),
        "there is no folder": (tmp_path / "none", tmp_path / "a"),
    }
    for message, argv in cases.items():
        code, _, err = outcome(capsys, "export", *argv)
        assert code == 2 and message in err and err.count("\n") == 1, (message, err)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("layout", [None, "llava", "minimind_v"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_export_that_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str | None, stop: BaseException
) -> None:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}
    told: dict[str, object] = {"encoder": {**kit.CLIP, "layer": -2}, "connector": {"type": "mlp", "depth": 2}}
    if layout == "minimind_v":
        told = {"language_model": {**kit.QWEN3, **rope}, "connector": {"type": "mlp", "depth": 2, "norm": True}}
    model, processor = kit.grow(**told)

    def stopped(*args: object, **kwargs: object) -> None:
        # Something is written before it goes wrong.
        for path in args:
            if isinstance(path, Path):
                (path / "half" if path.is_dir() else path).write_bytes(b"half")
        raise stop

    late = {None: (type(processor), "save_pretrained"), "llava": (writing, "store"), "minimind_v": (torch, "save")}
    monkeypatch.setattr(*late[layout], stopped)
    expected = KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else UserError
    with pytest.raises(expected) as end, quiet():
        sightling.save(model, processor, tmp_path / "out", layout=layout)
    assert end.value is stop or "the disk is full" in str(end.value) or "No space left" in str(end.value)
    assert list(tmp_path.iterdir()) == []
