"""Tokenizers: a byte-level BPE trained from the user's own text, and text kept free of control tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.model.templates import Template

# Qwen2's splitting pattern: what serving engines know, and digits stand alone.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ROLE_REPEATS = 10_000
"""How often each role's words stand in the tokenizer's training text, so that they become one token."""


def train_bpe(
    texts: Iterable[str], vocab_size: int, template: Template, max_token_length: int | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocab_size`` tokens, control tokens first.

    ``max_token_length`` is the most bytes of a token: a Chinese phrase has no spaces, so without a limit
    common phrases become one token each, and the model never sees the words they are made of.

    Source of the method: GPT-2's byte-level BPE with Qwen2's splitting pattern.

    Raises:
        UserError: a vocabulary too small to hold the bytes and the control tokens, or tokens shorter than a pair.
    """
    least = 256 + len(template.control)
    if vocab_size < least:
        raise UserError(f"vocab_size = {vocab_size} is too small; the bytes and control tokens need {least}")
    if max_token_length is not None and max_token_length < 2:
        raise UserError(f"max_token_length = {max_token_length} is too small; the first merge makes tokens of 2 bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(template.control),
        # The trainer merges only into what is shorter than its limit.
        max_token_length=None if max_token_length is None else max_token_length + 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Every prompt holds what opens a turn, and many a system message; spelt in letters they would cost more than a
    # short answer.
    told = [*template.opens.values(), template.opening, template.begin, template.system or ""]
    opens = [words for opening in told if (words := _plain(opening, template.control))]
    tokenizer.train_from_iterator(chain(opens * ROLE_REPEATS, texts), trainer)
    return wrap(tokenizer, template)


def _plain(text: str, control: Iterable[str]) -> str:
    """What is left of a template's string without its control tokens."""
    for token in control:
        text = text.replace(token, "")
    return text


def wrap(tokenizer: Tokenizer, template: Template) -> PreTrainedTokenizerFast:
    """The transformers tokenizer around a trained one, with its roles and chat template set."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=template.eos,
        pad_token=template.pad,
        additional_special_tokens=[token for token in template.control if token not in (template.pad, template.eos)],
        chat_template=template.jinja(),
        clean_up_tokenization_spaces=False,
    )


class PlainText:
    """Text to token ids with no added token in sight: what a user writes stays text.

    The same merges as the tokenizer's, but its added tokens are removed, so ``<|im_end|>`` in a
    question becomes the bytes of those ten characters. Short texts repeat a lot in training:
    up to ``remember`` of them are remembered, by each worker process for itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, remember: int = 20_000) -> None:
        specification = json.loads(tokenizer.backend_tokenizer.to_str())
        added = {token["content"] for token in specification["added_tokens"] if token["special"]}
        specification["added_tokens"] = []
        # A post-processor may add control tokens around a text (a BOS); segments must not have them. Cutting
        # and padding are set by whoever called the tokenizer last.
        specification["post_processor"] = specification["truncation"] = specification["padding"] = None
        _hide(specification["model"], added)
        self._tokenizer = self._later = Tokenizer.from_str(json.dumps(specification))
        cutting = specification["pre_tokenizer"] or {}
        if any(one.get("prepend_scheme") == "first" for one in [cutting, *cutting.get("pretokenizers", ())]):
            # Such a tokenizer puts a blank before a row's first words, and before no others.
            self._later = Tokenizer.from_str(json.dumps(specification).replace('"first"', '"never"'))
        self.bos = tokenizer.bos_token_id
        self._known: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._remember = remember

    def __call__(self, text: str, first: bool = True) -> tuple[int, ...]:
        """Token ids of a text; ``first`` says whether no other text stands before it in its row."""
        ids = self._known.get((text, first))
        if ids is None:
            tokenizer = self._tokenizer if first else self._later
            ids = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
            if len(self._known) >= self._remember:
                self._known.clear()
            self._known[text, first] = ids
        return ids


def _hide(model: dict[str, Any], tokens: set[str]) -> None:
    """Control tokens out of a vocabulary's reach, in place; ids stay as they are.

    A model that picks whole pieces (unigram) or whole words would find them in a text. A piece with a blank in
    it is never looked up: blanks are spelt otherwise in every vocabulary.
    """
    tokens = tokens - {model.get("unk_token")}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {f" hidden {id} " if piece in tokens else piece: id for piece, id in vocabulary.items()}
    else:
        unknown = model.get("unk_id")
        model["vocab"] = [
            [f" hidden {id} ", score] if piece in tokens and id != unknown else [piece, score]
            for id, (piece, score) in enumerate(vocabulary)
        ]
