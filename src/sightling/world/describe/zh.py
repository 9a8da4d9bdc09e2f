"""Chinese: noun phrases for mentions ("两个大的红色条纹圆形")."""

from __future__ import annotations

from collections.abc import Sequence

from sightling.world.describe.plan import reference
from sightling.world.describe.words import Words
from sightling.world.lexicon import COLORS, DIGIT, DIGITS, PLACES, SHAPES, SIZES, TEXTURES, THING
from sightling.world.mentions import Description, Mention

NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")
"""Number words as they stand before a measure word; larger counts are written in digits."""

EXTREMES = {"left": "最左边", "right": "最右边", "above": "最上面", "below": "最下面"}
"""Where the thing is that lies farthest to one side."""

_MEASURES = {"star": "颗", "heart": "颗", "drop": "颗"}


def number(count: int) -> str:
    """``2`` as ``"两"``."""
    return NUMBERS[count] if 0 <= count < len(NUMBERS) else str(count)


def measure_word(shape: str | None) -> str:
    """The measure word that goes with a shape: 颗 for star, heart and drop, 个 for the rest."""
    return _MEASURES.get(shape or "", "个")


def noun_phrase(mention: Mention, article: str, words: Words, place: bool = True) -> str:
    """The phrase for a mention, attributes in the order place, size, colour, texture, shape.

    Args:
        mention: what to say; a missing shape is said as "东西".
        article: ``"a"`` (一个…), ``"count"`` (the mention's own number, 两个…), ``"measure"`` (the measure word
            without a number, as after 几), ``"where"`` (the place alone) or anything else for the bare phrase, which
            Chinese uses both for "the" and for the plural.
        words: draws the words.
        place: whether to say the mention's place.
    """
    if article == "where" and mention.place is not None:
        return words.zh(PLACES[mention.place])
    adjectives: list[str] = []
    if mention.size is not None:
        adjectives.append(words.zh(SIZES[mention.size]))
    if mention.color is not None:
        adjectives.append(words.zh(COLORS[mention.color]))
    if mention.texture is not None:
        adjectives.append(words.zh(TEXTURES[mention.texture]))
    entry = THING if mention.shape is None else SHAPES[mention.shape]
    if mention.glyph in DIGITS:
        entry = DIGIT
    text = words.zh(entry) + (mention.glyph or "")
    if adjectives:
        # One 的 after the first adjective: "大的红色圆形", "红色的圆形"; more would be clumsy.
        adjectives[0] += "的"
        if mention.shape is None and len(adjectives) > 1:
            adjectives[-1] += "的"
        text = "".join(adjectives) + text
    if article == "a":
        text = "一" + measure_word(mention.shape) + text
    elif article == "count":
        text = number(mention.count) + measure_word(mention.shape) + text
    elif article == "measure":
        text = measure_word(mention.shape) + text
    if place and mention.place is not None:
        text = words.zh(PLACES[mention.place]) + "的" + text
    return text


def extreme_phrase(side: str, words: Words) -> str:
    """``"最左边的东西"``."""
    return f"{EXTREMES[side]}的{words.zh(THING)}"


NOTHING = "什么都没有"
"""What is said of a scene without things."""

_LISTS = ("{}。", "图中有{}。", "这里有{}。")
_DETAILED = ("{at}有{a}。", "{a}在{at}。")
_PARAGRAPH = (*_DETAILED, "{at}可以看到{a}。", "图的{at}有{a}。")
_FIRST = {"left": "{a}在{b}的左边。", "above": "{a}在{b}的上方。"}
_SECOND = {"left": "{b}在{a}的右边。", "above": "{b}在{a}的下方。"}


def listing(mentions: Sequence[Mention], words: Words) -> str:
    """``"一个红色的圆形、两个蓝色的正方形和一颗星形"``."""
    phrases = [noun_phrase(mention, "count", words) for mention in mentions]
    return "、".join(phrases[:-1]) + "和" + phrases[-1] if len(phrases) > 1 else phrases[0]


def sentences(said: Description, detail: str, words: Words) -> str:
    """The text of a description; see :func:`sightling.world.describe.describe`."""
    if not said.mentions:
        return NOTHING if detail == "phrase" else NOTHING + "。"
    if detail == "phrase":
        return listing(said.mentions, words)
    if detail == "short":
        return words.one_of(_LISTS).format(listing(said.mentions, words))
    # One wording for all sentences of a plain description, a new one for each sentence of a paragraph.
    kept = words.one_of(_DETAILED)
    text = []
    for mention in said.mentions:
        template = words.one_of(_PARAGRAPH) if detail == "paragraph" else kept
        phrase = noun_phrase(mention, "count", words, place=False)
        at = words.zh(PLACES[mention.place]) if mention.place is not None else ""
        text.append(template.format(a=phrase, at=at))
    for first, name, second in said.relations:
        a, b = reference(said.mentions, first), reference(said.mentions, second)
        assert a is not None and b is not None  # the plan tells relations of such mentions only
        template = words.one_of((_FIRST[name], _SECOND[name]))
        text.append(template.format(a=noun_phrase(a, "", words), b=noun_phrase(b, "", words)))
    return "".join(text)
