from __future__ import annotations

from functools import lru_cache

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sightling.decode.stream import TextStream
from tinymodel import tiny

SIZE = len(tiny()[1].tokenizer)


@lru_cache
def sentence_pieces() -> PreTrainedTokenizerFast:
    """Another kind of tokenizer: words with a mark for the space, bytes for the rest."""
    words = ["<s>", "▁", "▁red", "圆", "▁.", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.push(token) for token in ids), stream.end()]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, SIZE - 1), max_size=24))
def test_pieces_make_the_whole_text_for_any_ids(ids: list[int]) -> None:
    tokenizer = tiny()[1].tokenizer
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True).strip()


PARTS = st.one_of(st.sampled_from(["▁red", "圆", "▁.", "a", "<s>"]), st.characters(exclude_categories=["Cs"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, max_size=12))
def test_pieces_make_the_whole_text_with_another_tokenizer(parts: list[str]) -> None:
    tokenizer = sentence_pieces()
    known = tokenizer.get_vocab()
    ids = [
        token
        for part in parts
        for token in ([known[part]] if part in known else [known[f"<0x{byte:02X}>"] for byte in part.encode()])
    ]
    told = pieces(tokenizer, ids)
    assert "".join(told) == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert all("\ufffd" not in piece for piece in told) or "\ufffd" in parts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 261), max_size=16))
@example([6, 134])
@example([7, 200, 8, 128, 5])
def test_any_bytes_pass_with_another_tokenizer(ids: list[int]) -> None:
    # One bad byte makes its decoder take back good ones that were told already; nothing may break over it.
    assert isinstance("".join(pieces(sentence_pieces(), ids)), str)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20))
def test_no_piece_holds_half_a_character(text: str) -> None:
    processor = tiny()[1]
    told = pieces(processor.tokenizer, list(processor.plain(text)))
    assert "".join(told) == text.strip()
    assert all("\ufffd" not in piece for piece in told) or "\ufffd" in text


def test_a_chinese_character_comes_whole_and_at_once() -> None:
    processor = tiny()[1]
    # Bytes of a character that the tokenizer has not learnt.
    ids = list(processor.plain("鸢"))
    assert len(ids) == 3
    assert pieces(processor.tokenizer, ids) == ["", "", "鸢", ""]


def test_bytes_that_never_become_a_character_show() -> None:
    processor = tiny()[1]
    ids = list(processor.plain("鸢"))[:2]
    assert pieces(processor.tokenizer, ids)[:2] == ["", ""] and pieces(processor.tokenizer, ids)[-1] == "\ufffd"


def test_white_space_waits_for_what_follows() -> None:
    processor = tiny()[1]
    ids = list(processor.plain(" \n a \n b \n "))
    told = pieces(processor.tokenizer, ids)
    assert "".join(told) == "a \n b"
    assert told[-1] == ""
