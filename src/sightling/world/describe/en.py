"""English: noun phrases for mentions ("two large striped red circles")."""

from __future__ import annotations

from collections.abc import Sequence

from sightling.world.describe.plan import reference
from sightling.world.describe.words import Words
from sightling.world.lexicon import COLORS, DIGIT, DIGITS, PLACES, SHAPES, SIZES, TEXTURES, THING
from sightling.world.mentions import Description, Mention

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Number words by value; larger counts are written in digits."""

EXTREMES = {"left": "leftmost", "right": "rightmost", "above": "topmost", "below": "bottommost"}
"""What the thing is called that lies farthest to one side."""

_PREPOSITIONS = {"left": "on the ", "right": "on the ", "center": "in the "}


def number(count: int) -> str:
    """``2`` as ``"two"``."""
    return NUMBERS[count] if 0 <= count < len(NUMBERS) else str(count)


def place_phrase(place: str, words: Words) -> str:
    """A region with its preposition: ``"at the top left"``, ``"in the center"``."""
    return _PREPOSITIONS.get(place, "at the ") + words.en(PLACES[place])


def noun_phrase(mention: Mention, article: str, words: Words, place: bool = True) -> str:
    """The phrase for a mention, attributes in the order size, texture, colour, shape, place.

    Args:
        mention: what to say; a missing shape is said as "thing".
        article: ``"a"`` (a/an), ``"the"``, ``""`` (bare singular), ``"many"`` (bare plural) or ``"count"``
            (the mention's own number: "a ..." for one, "two ...s" for two). ``"where"`` says the place alone.
        words: draws the words.
        place: whether to say the mention's place.
    """
    if article == "where" and mention.place is not None:
        return place_phrase(mention.place, words)
    if article == "count":
        article, lead = ("a", "") if mention.count == 1 else ("many", number(mention.count) + " ")
    else:
        lead = ""
    parts: list[str] = []
    if mention.size is not None:
        parts.append(words.en(SIZES[mention.size]))
    if mention.texture is not None:
        parts.append(words.en(TEXTURES[mention.texture]))
    if mention.color is not None:
        parts.append(words.en(COLORS[mention.color]))
    entry = THING if mention.shape is None else SHAPES[mention.shape]
    if mention.glyph in DIGITS:
        entry = DIGIT
    parts.append(words.plural(entry) if article == "many" else words.en(entry))
    if mention.glyph is not None:
        parts.append(mention.glyph)
    if place and mention.place is not None:
        parts.append(place_phrase(mention.place, words))
    text = " ".join(parts)
    if article == "a":
        return ("an " if text[0] in "aeiou" else "a ") + text
    return "the " + text if article == "the" else lead + text


def extreme_phrase(side: str, words: Words) -> str:
    """``"the leftmost thing"``."""
    return f"the {EXTREMES[side]} {words.en(THING)}"


NOTHING = "nothing"
"""What is said of a scene without things."""

_LISTS = ("{}.", "there {be} {}.", "the picture shows {}.")
_DETAILED = ("{a} {be} {at}.", "{at} there {be} {a}.")
_PARAGRAPH = (*_DETAILED, "there {be} {a} {at}.", "{at} you see {a}.")
_FIRST = {"left": "{a} is to the left of {b}.", "above": "{a} is above {b}."}
_SECOND = {"left": "{b} is to the right of {a}.", "above": "{b} is below {a}."}


def listing(mentions: Sequence[Mention], words: Words) -> str:
    """``"a red circle, two blue squares and a star"``."""
    phrases = [noun_phrase(mention, "count", words) for mention in mentions]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]


def sentences(said: Description, detail: str, words: Words) -> str:
    """The text of a description; see :func:`sightling.world.describe.describe`."""
    if not said.mentions:
        return NOTHING if detail == "phrase" else "There is nothing."
    if detail == "phrase":
        return listing(said.mentions, words)
    if detail == "short":
        be = "is" if said.mentions[0].count == 1 else "are"
        return capital(words.one_of(_LISTS).format(listing(said.mentions, words), be=be))
    # One wording for all sentences of a plain description, a new one for each sentence of a paragraph.
    kept = words.one_of(_DETAILED)
    text = []
    for mention in said.mentions:
        template = words.one_of(_PARAGRAPH) if detail == "paragraph" else kept
        phrase = noun_phrase(mention, "count", words, place=False)
        at = place_phrase(mention.place, words) if mention.place is not None else ""
        be = "is" if mention.count == 1 else "are"
        text.append(template.format(a=phrase, at=at, be=be))
    for first, name, second in said.relations:
        a, b = reference(said.mentions, first), reference(said.mentions, second)
        assert a is not None and b is not None  # the plan tells relations of such mentions only
        template = words.one_of((_FIRST[name], _SECOND[name]))
        text.append(template.format(a=noun_phrase(a, "the", words), b=noun_phrase(b, "the", words)))
    return " ".join(capital(sentence) for sentence in text)


def capital(text: str) -> str:
    """The text with its first letter capital."""
    return text[0].upper() + text[1:]
