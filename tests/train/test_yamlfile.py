from __future__ import annotations

import pytest

from sightling.errors import UserError
from sightling.train.yamlfile import parse_yaml


def test_numbers_words_and_merged_keys() -> None:
    assert parse_yaml("{a: 1e-3, b: no, c: true}", "here") == {"a": 1e-3, "b": "no", "c": True}
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, c: 3}\nz: {<<: *x, c: 4}"
    assert parse_yaml(text, "here")["z"] == {"a": 1, "b": 2, "c": 4}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{r: 8, r: 16}", "here, line 1: the key 'r' is written a second time; the first is on line 1"),
        ("a: 1\nb: 2\na: 3", "here, line 3: the key 'a' is written a second time; the first is on line 1"),
        ("2026-13-45", "here is not valid YAML: month must be in 1..12"),
        ("0x_", "here is not valid YAML: invalid literal"),
        ("[" * 3000, "here is not valid YAML: it is nested too deeply"),
        ("a: [1", "here, line 1 is not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse_yaml(text, "here")
    assert str(error.value).startswith(sentence)
