"""``sightling recipes``: one recipe's parameters and stages."""

from __future__ import annotations

import pytest

from sightling.cli import main


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_a_recipe_s_parameters_by_part_and_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "recipes", "quickstart")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("quickstart: ") and lines[1] == "parameters: 1.97 M"
    assert [line.split()[0] for line in lines[2:5]] == ["encoder", "connector", "language_model"]
    assert sum(float(line.split()[1]) for line in lines[2:5]) == pytest.approx(1.97, abs=0.01)
    assert lines[6].split() == ["tokenizer", "tokenizer"]
    assert " ".join(lines[8].split()) == "align answer: trains connector at 0.004, language_model at 0.004"


def test_an_unknown_recipe_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "recipes", "quickstrat")
    assert (code, out, err) == (2, "", "error: there is no recipe 'quickstrat'; did you mean 'quickstart'?\n")
