"""A tiny tokenizer of BERT's kind, for Q-Formers that read the user's words."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

from transformers import BertTokenizer

from kit import SIGLIP, grow

PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789?.!,[]<>/|",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"),
    "what", "is", "red", "blue", "the", "how", "many", "##ed", "##le", "circ",
]  # fmt: skip


def wordpiece(**told: str) -> BertTokenizer:
    """Lower case, every letter known; ``told`` are further control tokens, as ``bos_token="[DEC]"``."""
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)}, **told)


FORMER: dict[str, Any] = {
    "type": "qformer", "queries": 3, "width": 24, "depth": 2, "heads": 2,
    "instruction": {"vocab_size": 128, "max_position_embeddings": 48},
}  # fmt: skip


def reader(**told: Any) -> Any:
    """A tiny model whose Q-Former reads the user's words, and its processor."""
    with tempfile.TemporaryDirectory() as folder:
        wordpiece().save_pretrained(folder)
        return grow(**{"encoder": SIGLIP, "connector": FORMER, "qformer_tokenizer": {"pretrained": folder}, **told})


@cache
def usual() -> Any:
    """The usual one, shared between tests: nobody changes it."""
    return reader()
