"""Cutting English and Chinese text into the small world's tokens; the one place that knows how each is spelled.

Both languages give the same kinds of token, so that one reader (:mod:`~sightling.world.parse`) understands both.
Words are looked up longest first; what is in no table is an unknown word and is kept as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from sightling.world.describe import en, zh
from sightling.world.lexicon import (
    COLORS,
    DIGIT,
    GLYPHS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    THING,
)

LETTER, ANY = "letter", ""
"""Values of a noun: a shape's key, or ``ANY`` for "thing"."""


@dataclass(frozen=True, slots=True)
class Token:
    """One word or phrase with its meaning.

    ``kind`` is one of: ``number`` (``value`` in digits), ``noun`` (a shape), ``color``, ``size``, ``texture``,
    ``place``, ``relation``, ``glyph``, ``the``, ``it``, ``no``, ``and``, ``of``, ``at`` (Chinese 在), ``have`` (Chinese
    有 and 是), ``comma``, ``stop``, ``background``, ``picture``, ``filler`` and ``unknown``.
    """

    kind: str
    value: str = ""
    text: str = ""
    plural: bool = False


_Table = dict[tuple[str, ...], Token]

_EN_WORDS = {
    "number": "",
    "the": "the this that these those",
    "it": "it they them",
    "no": "no not without neither nor",
    "and": "and as well as plus",
    "background": "background backdrop",
    "picture": "picture image scene photo photograph drawing canvas frame",
    "filler": "there is are was were be has have with of in on at to from i we you see sees seen can could show shows "
    "shown shape shapes contains contain containing appear appears located positioned placed lies lie sits sit stands "
    "while which here also another other its their side corner part area near next beside by some several many few "
    "color colored colour coloured size sized very just only then where nothing else one's s",
}
_EN_NUMBERS = {"a": "1", "an": "1", "pair": "2", "zero": "0", "single": "1", "both": "2"}

_ZH_WORDS = {
    "the": "这个|那个|这|那|该",
    "it": "它们|它|他",
    "no": "没有|没|无|不",
    "and": "和|与|及|以及|还有|跟",
    "of": "的",
    "at": "位于|处于|在",
    "have": "有|是|为",
    "background": "背景",
    "picture": "图片|图像|图画|画面|照片|图|画",
    "comma": "，|、|,",
    "stop": "。|；|！|？|.|;|!|?|\n|：|:",
    "filler": "一共|总共|可以看到|可以看见|看到|看见|能看到|显示|展示|出现|存在|包含|里面|里|中|内|上|下|处|"
    "还|也|另|又|并且|而且|而|且|其|张|一张|这张|这里|那里|到|了|着|都|只有|一些|许多|什么|都没有|什么都没有|"
    "个|颗|只|枚|块|条|支|片|形状|颜色|大小|位置|画着|写着|放着|一边|边|带|色|形",
}


def _split(phrase: str) -> tuple[str, ...]:
    return tuple(phrase.replace("-", " ").lower().split())


@lru_cache(maxsize=1)
def _english() -> tuple[_Table, int]:
    table: _Table = {}
    for kind, words in _EN_WORDS.items():
        table.update({(word,): Token(kind) for word in words.split()})
    table.update({(word,): Token("number", value) for word, value in _EN_NUMBERS.items()})
    table.update({(word,): Token("number", str(value)) for value, word in enumerate(en.NUMBERS) if value})
    for kind, entries in (("size", SIZES), ("texture", TEXTURES), ("color", COLORS), ("place", PLACES)):
        for key, entry in entries.items():
            table.update({_split(word): Token(kind, key) for word in entry.en})
    for key, entry in RELATIONS.items():
        table.update({_split(word): Token("relation", key) for word in entry.en})
    table.update({("on", "top", "of"): Token("relation", "above"), ("at", "left", "of"): Token("relation", "left")})
    for key, entry in (*SHAPES.items(), (LETTER, DIGIT), (ANY, THING)):
        table.update({_split(word): Token("noun", key) for word in entry.en})
        table.update({_split(word): Token("noun", key, plural=True) for word in entry.plural})
    return table, max(map(len, table))


@lru_cache(maxsize=1)
def _chinese() -> tuple[dict[str, Token], int]:
    table: dict[str, Token] = {}
    for kind, words in _ZH_WORDS.items():
        table.update({word: Token(kind) for word in words.split("|")})
    table.update({word: Token("number", str(value)) for value, word in enumerate(zh.NUMBERS) if value})
    table.update({"二": Token("number", "2"), "俩": Token("number", "2"), "一对": Token("number", "2")})
    for kind, entries in (("size", SIZES), ("texture", TEXTURES), ("color", COLORS), ("place", PLACES)):
        for key, entry in entries.items():
            table.update({word: Token(kind, key) for word in entry.zh})
    for key, entry in (*SHAPES.items(), (LETTER, DIGIT), (ANY, THING)):
        table.update({word: Token("noun", key) for word in entry.zh})
    return table, max(map(len, table))


# Words, numbers, and the marks that end a clause; other marks (quotes, brackets) part words and say nothing.
_PIECES = re.compile(r"[^\W\d_]+|\d+|[.;:!?\n。；！？]|[,，、]")


def english(text: str) -> list[Token]:
    """The tokens of an English text."""
    table, longest = _english()
    raw = _PIECES.findall(text.replace("’", "'"))
    words = [piece.lower() for piece in raw]
    tokens: list[Token] = []
    at = 0
    while at < len(raw):
        word = words[at]
        if not word.isalnum():
            tokens.append(Token("comma" if word in ",，、" else "stop"))
            at += 1
            continue
        glyph = _glyph(raw, at, tokens)
        if glyph:
            tokens.append(Token("glyph", glyph))
            at += 1
            continue
        for length in range(min(longest, len(raw) - at), 0, -1):
            found = table.get(tuple(words[at : at + length]))
            if found is not None:
                tokens.append(found)
                at += length
                break
        else:
            number = _count(word)
            tokens.append(Token("number", number) if number else Token("unknown", text=raw[at]))
            at += 1
    return tokens


def _glyph(raw: list[str], at: int, before: list[Token]) -> str:
    """The letter or digit that stands at ``raw[at]`` for itself, or ``""``.

    After "letter" or "digit" any single sign is one, save an "a" that begins the next phrase. Elsewhere only a capital
    is, and "A" and "I" only within a noun phrase ("a red A").
    """
    sign = raw[at].upper()
    if len(sign) != 1 or sign not in GLYPHS:
        return ""
    last = before[-1] if before else Token("stop")
    if last.kind == "noun" and last.value == LETTER:
        ends = at + 1 == len(raw) or not raw[at + 1].isalnum()
        return sign if raw[at] != "a" or ends else ""
    if not raw[at].isupper():
        return ""
    return sign if sign != "A" or last.kind in ("number", "the", "color", "size", "texture") else ""


def _count(word: str) -> str:
    """``word`` in plain digits if it is a number that could count things, else ``""``."""
    return str(int(word)) if word.isdecimal() and len(word) <= 4 else ""


def chinese(text: str) -> list[Token]:
    """The tokens of a Chinese text."""
    table, longest = _chinese()
    tokens: list[Token] = []
    unknown = ""
    at = 0

    def close() -> None:
        nonlocal unknown
        if unknown:
            tokens.append(Token("unknown", text=unknown))
            unknown = ""

    while at < len(text):
        if text[at].isascii() and text[at].isalnum():
            close()
            end = at
            while end < len(text) and text[end].isascii() and text[end].isalnum():
                end += 1
            tokens.append(_latin(text[at:end], tokens))
            at = end
            continue
        for length in range(min(longest, len(text) - at), 0, -1):
            found = table.get(text[at : at + length])
            if found is not None:
                close()
                tokens.append(found)
                at += length
                break
        else:
            if text[at].isalnum():
                unknown += text[at]
            else:
                close()
            at += 1
    close()
    return tokens


def _latin(word: str, before: list[Token]) -> Token:
    """A Latin word within Chinese: a sign that stands for itself, a number, or unknown."""
    after_letter = bool(before) and before[-1].kind == "noun" and before[-1].value == LETTER
    if word.upper() in GLYPHS and (after_letter or word.isupper()):
        return Token("glyph", word.upper())
    number = _count(word)
    return Token("number", number) if number else Token("unknown", text=word)


def words_of(language: str) -> Iterable[str]:
    """Every word and phrase that the language's tokens are read from, for tests and vocabularies."""
    return [" ".join(phrase) for phrase in _english()[0]] if language == "en" else list(_chinese()[0])
