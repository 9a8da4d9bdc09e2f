from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sightling.data.texts import TEXTS
from sightling.errors import UserError
from sightling.model.templates import TEMPLATES
from sightling.parts import make
from sightling.train.steps import STEPS, StepContext

WORLD = {"type": "world", "languages": ["en"]}


def step(folder: Path, seed: int = 3, model: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What the step says; its files are in the folder."""
    folder.mkdir(exist_ok=True)
    made = make(STEPS, {"type": "tokenizer", "data": WORLD, "texts": 60, "vocab_size": 320, **options}, "words")
    assert made.folder == "tokenizer"
    said: list[str] = []
    return made.run(StepContext(model or {}, seed, folder, folder.parent, said.append))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_writes_a_tokenizer_that_can_be_loaded_and_says_what_it_made(tmp_path: Path) -> None:
    told = step(tmp_path / "one", vocab_size=400)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert told["vocab_size"] == len(loaded) == 400
    source = make(TEXTS, WORLD, "data").open(3)
    texts = [source.text(index) for index in range(60)]
    tokens = sum(len(loaded.encode(text, add_special_tokens=False)) for text in texts)
    assert told["characters_per_token"] == round(sum(map(len, texts)) / tokens, 2)
    assert told["characters_per_token"] > 2
    assert loaded.chat_template == TEMPLATES.get("chatml").jinja()


def test_it_is_the_same_by_seed(tmp_path: Path) -> None:
    step(tmp_path / "one"), step(tmp_path / "again"), step(tmp_path / "other", seed=4)
    assert files(tmp_path / "one") == files(tmp_path / "again")
    assert files(tmp_path / "one") != files(tmp_path / "other")


@pytest.mark.parametrize("template", ["chatml", "compact"])
def test_control_tokens_are_those_of_the_models_template(tmp_path: Path, template: str) -> None:
    step(tmp_path / "one", model={"template": template})
    loaded = AutoTokenizer.from_pretrained(tmp_path / "one")
    form = TEMPLATES.get(template)
    assert loaded.convert_tokens_to_ids(list(form.control)) == list(range(len(form.control)))
    assert loaded.eos_token == form.stop and loaded.chat_template == form.jinja()


def test_tokens_have_at_most_the_bytes_that_are_told(tmp_path: Path) -> None:
    for longest in (3, 9):
        step(tmp_path / str(longest), vocab_size=500, max_token_length=longest)
        loaded = AutoTokenizer.from_pretrained(tmp_path / str(longest))
        added = loaded.get_added_vocab()
        assert max(len(token) for token in loaded.get_vocab() if token not in added) == longest


def test_it_reads_as_many_texts_as_told_and_no_more_than_there_are(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("aaaa bbbb\n" * 5 + "cccc\n" * 5, encoding="utf-8")
    data = {"type": "file", "path": str(lines)}
    step(tmp_path / "half", data=data, texts=5, vocab_size=300)
    step(tmp_path / "all", data=data, texts=50, vocab_size=300)
    half, whole = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("half", "all"))
    assert half.tokenize("cccc") == ["c"] * 4
    assert whole.tokenize("cccc") == ["cccc"]
    assert half.tokenize("aaaa") == whole.tokenize("aaaa") == ["aaaa"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabsize": 9}, "words has no key 'vocabsize'; did you mean 'vocab_size'?"),
        ({"vocab_size": 0}, "words.vocab_size = 0 is wrong: input should be greater than 0"),
        ({"vocab_size": 262}, "vocab_size = 262 is too small; the bytes and control tokens need 263"),
        ({"texts": 0}, "words.texts = 0 is wrong: input should be greater than 0"),
        ({"max_token_length": 1}, "words.max_token_length = 1 is wrong: input should be greater than or equal to 2"),
        ({"data": {"type": "word"}}, "words.data.type: there is no text source 'word'; did you mean 'world'?"),
        ({"data": {"type": "world", "languages": ["english"]}}, "words.data.languages: there is no language 'english'; "
                                                                "known are: en, zh"),
        ({"data": {"type": "file", "path": "no/such.txt"}}, "text file no/such.txt does not exist"),
        ({"model": {"template": "chatlm"}}, "model.template: there is no chat template 'chatlm'; did you mean "
                                            "'chatml'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        step(tmp_path / "one", **options)
    assert str(error.value) == message
    assert files(tmp_path / "one") == {}
