from __future__ import annotations

import importlib
import re
import subprocess
import sys
from types import ModuleType

import pytest
import typer

from sightling import cli
from sightling.errors import UserError
from sightling.train.stopping import Interrupted


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command ``boom`` that raises what its module's ``error`` holds."""
    module = ModuleType("sightling.cli.boom")
    module.app = typer.Typer(add_completion=False)
    module.error = None

    @module.app.command()
    def boom(count: int = 1) -> None:
        if module.error is not None:
            raise module.error
        typer.echo(f"count {count}")

    monkeypatch.setitem(sys.modules, "sightling.cli.boom", module)
    monkeypatch.setitem(cli.COMMANDS, "boom", "Raise something.")
    return module


def test_every_command_has_its_file_and_its_line() -> None:
    for name, line in cli.COMMANDS.items():
        assert isinstance(importlib.import_module(f"sightling.cli.{name}").app, typer.Typer)
        assert line.endswith(".") and "\n" not in line


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = """
import sys
from sightling.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code in (0, None), end.code
print("HEAVY", sorted({"torch", "transformers", "pydantic", "numpy", "yaml", "accelerate"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name, line in cli.COMMANDS.items():
        assert re.search(rf"{name}\s.*{re.escape(line.split()[0])}", done.stdout), name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from sightling import __version__

    assert outcome(capsys, "--version")[:2] == (0, f"sightling {__version__}\n")


def test_a_command_runs_with_its_own_options(capsys: pytest.CaptureFixture[str], command: ModuleType) -> None:
    assert outcome(capsys, "boom", "--count", "3")[:2] == (0, "count 3\n")
    assert "--count" in outcome(capsys, "boom", "--help")[1]


def test_bad_input_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], command: ModuleType) -> None:
    command.error = UserError("the picture\nis missing")
    assert outcome(capsys, "boom") == (2, "", "error: the picture is missing\n")


def test_a_stop_ends_with_its_signal(capsys: pytest.CaptureFixture[str], command: ModuleType) -> None:
    command.error = Interrupted("stopped after step 3; the same command continues from there", 15)
    assert outcome(capsys, "boom") == (143, "", "stopped after step 3; the same command continues from there\n")


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], command: ModuleType) -> None:
    command.error = KeyboardInterrupt()
    code, out, err = outcome(capsys, "boom")
    assert (code, out) == (130, "")
    assert "the same command" in err and err.count("\n") == 1


def test_a_bug_keeps_its_traceback(command: ModuleType) -> None:
    command.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        cli.main(["boom"])


def test_unknown_command_and_option_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "trian")
    assert code == 2 and "train" in err
    code, _, err = outcome(capsys, "train", "x", "--thread", "2")
    assert code == 2 and "--threads" in err


def test_unknown_recipe_and_key_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sightling.train import recipe

    class Entry:
        name = "quickstart.yaml"

        def read_text(self, encoding: str) -> str:
            return "name: quickstart\ndescription: Grow a small one.\nmodel: {}\nstages: {a: {type: x}}\n"

    monkeypatch.setattr(recipe, "packaged", lambda: {"quickstart": Entry()})
    code, _, err = outcome(capsys, "train", "quickstrat")
    assert (code, err) == (2, "error: there is no recipe 'quickstrat'; did you mean 'quickstart'?\n")
    code, _, err = outcome(capsys, "train", "quickstart", "stagse.a.size=1")
    assert (code, err) == (2, "error: quickstart.yaml: the recipe has no key 'stagse'; did you mean 'stages'?\n")
    assert outcome(capsys, "recipes")[:2] == (0, "quickstart  Grow a small one.\n")
