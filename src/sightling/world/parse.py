"""Reading what a text says about a scene: the way back from words to facts.

It reads every sentence that :mod:`~sightling.world.describe` writes back into exactly the facts it was made from, and
of any other text (a model's answer, a person's) what it can: phrases with colours, sizes, textures and numbers, places
before or after their thing, relations in either order, "it" and "the ..." for things mentioned before. It never fails;
words that it does not know are handed back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sightling.world.describe.plan import refers
from sightling.world.mentions import Description, Mention
from sightling.world.tokens import ANY, LETTER, Token, chinese, english

__all__ = ["Description", "Mention", "parse"]

_READERS = {"en": english, "zh": chinese}

# "on the left" as a place, "left of" as a relation: the same direction seen from the picture and from a thing.
_SIDES = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
_PLACES = {relation: place for place, relation in _SIDES.items()}
_REVERSED = {"right": "left", "below": "above"}


def parse(text: str, language: str) -> Description:
    """All that ``text`` says, in the world's keys.

    A plural without a number counts as two. Relations are told as ``left`` and ``above`` only: "a is right of b" is
    read as "b is left of a". Total: any text gives a description, if an empty one.

    Args:
        text: any text.
        language: ``"en"`` or ``"zh"``.

    Raises:
        ValueError: an unknown language.
    """
    if language not in _READERS:
        raise ValueError(f"unknown language {language!r}; known are: {', '.join(_READERS)}")
    return _Reader(_READERS[language](text), language == "zh").read()


@dataclass(slots=True)
class _Phrase:
    """A noun phrase that is being read, before its noun."""

    attributes: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    definite: bool = False
    denied: bool = False


@dataclass(slots=True)
class _Clause:
    """What has been read since the last stop or comma."""

    first: int | None = None
    last: int | None = None
    place: str | None = None
    relation: tuple[int, str] | None = None  # subject and relation, waiting for the object
    front: str | None = None  # a relation that came before its subject ...
    front_object: int | None = None  # ... and its object, once read
    again: Mention | None = None  # what the last mention was called, when it was mentioned before
    background: bool = False


class _Reader:
    """Goes through the tokens once, keeping an open phrase, an open clause, and what was mentioned."""

    def __init__(self, tokens: list[Token], is_chinese: bool) -> None:
        self.tokens = tokens
        self.is_chinese = is_chinese
        self.mentions: list[Mention] = []
        self.relations: list[tuple[int, str, int]] = []
        self.unknown: list[str] = []
        self.phrase = _Phrase()
        self.clause = _Clause()
        self.subject: int | None = None
        self.at = 0

    def read(self) -> Description:
        steps = {
            "noun": self._noun,
            "glyph": self._glyph,
            "place": self._place,
            "relation": self._relation,
            "it": self._it,
            "comma": self._comma,
            "stop": self._stop,
            "background": self._background,
            "picture": self._picture,
        }
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            kind = token.kind
            if kind in ("color", "size", "texture"):
                self.phrase.attributes[kind] = token.value
            elif kind in steps:
                steps[kind](token)
            elif kind == "number":
                self._adjectives()
                self.phrase.count = int(token.value)
            elif kind == "the":
                self._adjectives()
                self.phrase.definite = True
            elif kind == "no":
                self.phrase.denied = True
            elif kind == "unknown":
                self.unknown.append(token.text)
            self.at += 1
        self._stop(Token("stop"))
        return Description(tuple(self.mentions), tuple(dict.fromkeys(self.relations)), tuple(self.unknown))

    def _next(self, *skip: str) -> Token:
        """The token after this one, passing over the kinds to skip."""
        for token in self.tokens[self.at + 1 :]:
            if token.kind not in skip:
                return token
        return Token("stop")

    def _previous(self, *skip: str) -> Token:
        """The token before this one, passing over the kinds to skip."""
        for token in reversed(self.tokens[: self.at]):
            if token.kind not in skip:
                return token
        return Token("stop")

    # --- things -------------------------------------------------------------------------------------------------

    def _noun(self, token: Token) -> None:
        glyph = None
        if token.value == LETTER and self._next().kind == "glyph":
            self.at += 1
            glyph = self.tokens[self.at].value
        elif token.value == LETTER and self._next().kind == "number" and not token.plural:
            glyph = self._digit(self._next().value)
        self._mention(None if token.value == ANY else token.value, glyph, token.plural)

    def _digit(self, number: str) -> str | None:
        """The number after "digit" as a sign, unless it begins a phrase of its own ("a letter 2 circles")."""
        if len(number) != 1:
            return None
        self.at += 1
        return number

    def _glyph(self, token: Token) -> None:
        self._mention(LETTER, token.value, False)

    def _mention(self, shape: str | None, glyph: str | None, plural: bool) -> None:
        phrase, self.phrase = self.phrase, _Phrase()
        count = phrase.count if phrase.count is not None else 2 if plural else 1
        attributes: dict[str, Any] = phrase.attributes
        said = Mention(count=0 if phrase.denied else count, shape=shape, glyph=glyph, **attributes)
        clause = self.clause
        clause.again = None
        index = self._earlier(said, phrase)
        if index is not None:
            clause.again = said
        else:
            index = len(self.mentions)
            self.mentions.append(said)
        if clause.place is not None and self.mentions[index].place is None:
            self.mentions[index] = replace(self.mentions[index], place=clause.place)
            clause.place = None
        self._point(index)

    def _point(self, index: int) -> None:
        """The clause speaks of this mention now: complete the relation that waited for it."""
        clause = self.clause
        if clause.relation is not None:
            self._relate(clause.relation[0], clause.relation[1], index)
            clause.relation = None
        elif clause.front is not None:
            if clause.front_object is None:
                clause.front_object = index
                return
            self._relate(index, clause.front, clause.front_object)
            clause.front = clause.front_object = None
        if clause.first is None:
            clause.first = index
        clause.last = index

    def _earlier(self, said: Mention, phrase: _Phrase) -> int | None:
        """The mention that a phrase without a number takes up again, if there is one."""
        if phrase.count is not None or phrase.denied or not (phrase.definite or self._bare_refers()):
            return None
        for index, mention in enumerate(self.mentions):
            if refers(said, mention) and index != self.clause.last and mention.count > 0:
                return index
        return None

    def _bare_refers(self) -> bool:
        """Chinese has no "the": a bare phrase takes up an earlier one where something is said of it (在, 是)."""
        if not self.is_chinese:
            return False
        start = end = self.at
        while start > 0 and self.tokens[start - 1].kind not in ("comma", "stop"):
            start -= 1
        while end < len(self.tokens) and self.tokens[end].kind not in ("comma", "stop"):
            end += 1
        return any(token.kind in ("at", "have", "place") for token in self.tokens[start:end])

    def _it(self, token: Token) -> None:
        self._adjectives()
        index = self.subject if self.subject is not None else len(self.mentions) - 1
        if index >= 0:
            self._point(index)

    def _adjectives(self) -> None:
        """Close a phrase that found no noun: its adjectives describe the thing just spoken of ("it is red")."""
        phrase, self.phrase = self.phrase, _Phrase()
        attributes: dict[str, Any] = phrase.attributes
        if not attributes or self.clause.background or phrase.denied:
            return
        index = self.clause.last
        if index is None:
            place = attributes.pop("place", None)
            if place is not None:
                self.clause.place = place
            if attributes:
                self.mentions.append(Mention(**attributes))
                self._point(len(self.mentions) - 1)
            return
        mention = self.mentions[index]
        new = {name: value for name, value in attributes.items() if getattr(mention, name) is None}
        if new:
            self.mentions[index] = replace(mention, **new)

    # --- where they are -----------------------------------------------------------------------------------------

    def _place(self, token: Token) -> None:
        if self.is_chinese:
            after_thing = self._previous("of").kind in ("noun", "glyph", "it")
            if after_thing and token.value in _SIDES and self._chinese_relation(_SIDES[token.value]):
                return
            if self._next().kind == "of" and self._next("of").kind not in ("comma", "stop"):
                self.phrase.attributes["place"] = token.value
                return
        elif (self.phrase.definite or self.phrase.count is not None or self.phrase.attributes) and self._next(
            "color", "size", "texture"
        ).kind == "noun":
            self.phrase.attributes["place"] = token.value  # "the top left circle"
            return
        self._adjectives()
        self._put(token.value)

    def _put(self, place: str) -> None:
        """The place belongs to the thing just named, or, if that has one or none was named, to the next."""
        clause = self.clause
        index = clause.last
        if index is None:
            clause.place = place
            return
        mention = self.mentions[index]
        if mention.place is None:
            self.mentions[index] = replace(mention, place=place)
        elif clause.again is not None and mention.place != place:
            # Called alike, but elsewhere: another thing after all.
            self.mentions.append(replace(clause.again, place=place))
            clause.last = len(self.mentions) - 1
            clause.again = None
        elif mention.place != place:
            clause.place = place

    def _relation(self, token: Token) -> None:
        """English: "a is left of b" and "left of b is a"."""
        self._adjectives()
        clause = self.clause
        if clause.last is not None:
            chained = self._previous().kind in ("and", "comma") and clause.first is not None
            subject = clause.first if chained else clause.last
            assert subject is not None
            clause.relation = (subject, token.value)
        else:
            clause.front, clause.front_object = token.value, None

    def _chinese_relation(self, name: str) -> bool:
        """Chinese, at the direction after a thing b: "a 在 b 的左边", "b 的左边有 a", "b 左边的 a"."""
        clause = self.clause
        object_ = clause.last if clause.front_object is None else clause.front_object
        if object_ is None or clause.front is not None:
            return False
        following = self.tokens[self.at + 1 :]
        more = False
        for token in following:
            if token.kind in ("stop", "comma"):
                break
            more = more or token.kind in ("noun", "glyph", "it")
        if clause.first is not None and clause.first != object_:
            self._relate(clause.first, name, object_)
        elif more:
            clause.front, clause.front_object = name, object_
            clause.first = clause.last = None
        elif self.subject is not None and self.subject != object_:
            self._relate(self.subject, name, object_)
        else:
            return False
        return True

    def _relate(self, first: int, name: str, second: int) -> None:
        if first == second:
            return
        if name in _REVERSED:
            first, name, second = second, _REVERSED[name], first
        self.relations.append((first, name, second))

    # --- where clauses end --------------------------------------------------------------------------------------

    def _comma(self, token: Token) -> None:
        """A comma closes a clause, but a place or relation told in advance waits on for its thing."""
        self._adjectives()
        old = self.clause
        if old.place is not None and old.first is None and self.subject is not None:
            waiting = self.mentions[self.subject].place is not None
        else:
            waiting = old.first is None
        kept = _Clause(front=old.front, front_object=old.front_object, place=old.place if waiting else None)
        if waiting:
            old.place = old.front = None
        self._close()
        self.clause = kept if waiting else _Clause()

    def _stop(self, token: Token) -> None:
        self._adjectives()
        self._close()
        self.clause = _Clause()

    def _close(self) -> None:
        """Give what still waits in the clause to the thing it must belong to."""
        clause = self.clause
        if clause.first is not None:
            self.subject = clause.first
        owner = clause.last if clause.last is not None else self.subject
        place = clause.place
        if clause.relation is not None:
            owner, place = clause.relation[0], _PLACES[clause.relation[1]]
        elif clause.front is not None and clause.front_object is not None:
            if self.subject is not None:
                self._relate(self.subject, clause.front, clause.front_object)
        elif clause.front is not None:
            place = _PLACES[clause.front]
        if place is not None and owner is not None and self.mentions[owner].place is None:
            self.mentions[owner] = replace(self.mentions[owner], place=place)

    def _background(self, token: Token) -> None:
        self.phrase = _Phrase()
        self.clause.background = True

    def _picture(self, token: Token) -> None:
        """ "On the left of the picture" is a place; a "small picture" says nothing of things."""
        self.phrase = _Phrase()
        clause = self.clause
        if clause.relation is not None:
            clause.last = clause.relation[0]
            name = clause.relation[1]
            clause.relation = None
            self._put(_PLACES[name])
        elif clause.front is not None and clause.front_object is None:
            clause.place, clause.front = _PLACES[clause.front], None
