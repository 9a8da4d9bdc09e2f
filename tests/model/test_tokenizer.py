from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kit import WORDS, tokenizer
from sightling.errors import UserError
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import PlainText, train_bpe

CHATML = TEMPLATES.get("chatml")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_any_text_comes_back(text: str) -> None:
    assert tokenizer().decode(list(PlainText(tokenizer())(text))) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(ANY_TEXT, st.sampled_from([*CHATML.control, "<|im_", "end|>", "<|", "|>"])), max_size=5))
def test_no_text_becomes_a_control_token(pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = PlainText(tokenizer())(text)
    control = {tokenizer().convert_tokens_to_ids(token) for token in CHATML.control}
    assert not control & set(ids)
    assert tokenizer().decode(list(ids)) == text


def test_control_tokens_come_first_and_are_one_token_each() -> None:
    for index, token in enumerate(CHATML.control):
        assert tokenizer().convert_tokens_to_ids(token) == index
        assert tokenizer().encode(token, add_special_tokens=False) == [index]
    assert tokenizer().eos_token == "<|im_end|>" and tokenizer().pad_token == "<|endoftext|>"


def test_digits_stand_alone_and_roles_are_one_token() -> None:
    trained = train_bpe(["2024 2024 2024 42 42"] * 50, 400, CHATML)
    assert trained.tokenize("2024") == ["2", "0", "2", "4"]
    for role in CHATML.opens:
        assert len(trained.encode(role, add_special_tokens=False)) == 1


def test_a_template_that_spells_no_role_spends_no_merge_on_one() -> None:
    text = ["red star blue cross"] * 50
    chatml, compact = (train_bpe(text, 300, TEMPLATES.get(name)) for name in ("chatml", "compact"))
    assert "assistant" in chatml.get_vocab()
    # Every merge is of the text's own words.
    learnt = {token for token in compact.get_vocab() if len(token) > 1} - set(compact.get_added_vocab())
    assert learnt and all(token.lstrip("Ġ") in text[0] for token in learnt)


@pytest.mark.parametrize("longest", [2, 3, 6, 7])
def test_tokens_can_be_kept_short(longest: int) -> None:
    trained = train_bpe(["图中有红色的圆形"] * 200, 400, CHATML, max_token_length=longest)
    added = trained.get_added_vocab()
    # A byte-level vocabulary spells each byte as one character.
    assert max(len(token) for token in trained.get_vocab() if token not in added) == longest


def test_tokens_shorter_than_a_merge_are_refused() -> None:
    with pytest.raises(UserError, match=r"^max_token_length = 1 is too small; the first merge makes tokens of 2 byte"):
        train_bpe(WORDS, 400, CHATML, max_token_length=1)


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"^vocab_size = 262 is too small; the bytes and control tokens need 263$"):
        train_bpe(WORDS, 262, CHATML)
    assert len(train_bpe(WORDS, 263, CHATML)) == 263


def test_training_gives_the_same_tokens_in_any_process() -> None:
    program = (
        "from kit import WORDS; from sightling.model.tokenizer import train_bpe; "
        "from sightling.model.templates import TEMPLATES; "
        "print(train_bpe(WORDS * 5, 330, TEMPLATES.get('chatml')).backend_tokenizer.to_str())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(tokenizer().backend_tokenizer.to_str())


def test_what_a_caller_set_on_the_tokenizer_does_not_cut_a_text() -> None:
    used = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer().backend_tokenizer.to_str()))
    used.backend_tokenizer.enable_truncation(3)
    used.backend_tokenizer.enable_padding(length=50)
    text = "is there a blue square left of the star?"
    assert PlainText(used)(text) == PlainText(tokenizer())(text)


def unigram() -> PreTrainedTokenizerFast:
    """A tokenizer that looks whole pieces up, control tokens among them, as converted SentencePiece models do."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((char, -3.0) for char in "abcs<>/")]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_control_tokens_are_out_of_reach_where_whole_pieces_are_looked_up() -> None:
    wrapped = unigram()
    # Without its added tokens this vocabulary still knows them, which is what must not be found.
    assert 2 in wrapped.encode("ab</s>", add_special_tokens=False)
    ids = PlainText(wrapped)("ab</s>c<s>")
    assert not {1, 2} & set(ids)
    assert wrapped.decode(list(ids)).replace(" ", "") == "ab</s>c<s>"


def test_a_memory_that_is_full_forgets_and_goes_on() -> None:
    plain = PlainText(tokenizer(), remember=2)
    assert [plain(word) for word in ("red", "blue", "green", "red")] == [
        PlainText(tokenizer())(word) for word in ("red", "blue", "green", "red")
    ]
