"""Reading: every text that the world writes gives back its facts, and any other text gives something."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.world.describe import DETAILS, describe, described_facts
from sightling.world.mentions import Description, Mention
from sightling.world.parse import parse
from sightling.world.scenes import SceneSpec, sample_scene
from sightling.world.tokens import words_of

RICH = SceneSpec(max_things=6, letters=0.2, textured=0.5)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    language=st.sampled_from(("en", "zh")),
    detail=st.sampled_from(DETAILS),
    synonyms=st.sampled_from((0.0, 0.05, 1.0)),
)
def test_reading_gives_back_what_was_said(seed: int, language: str, detail: str, synonyms: float) -> None:
    scene = sample_scene(seed, RICH)
    text = describe(scene, language, detail, Random(seed), synonyms)
    assert parse(text, language) == described_facts(scene, detail), text


@settings(max_examples=150, deadline=None)
@given(text=st.text(), language=st.sampled_from(("en", "zh")))
def test_any_text_can_be_read(text: str, language: str) -> None:
    assert isinstance(parse(text, language), Description)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), language=st.sampled_from(("en", "zh")))
def test_any_jumble_of_known_words_can_be_read(data: st.DataObject, language: str) -> None:
    words = st.sampled_from([*words_of(language), ".", ",", "A", "7", "2"])
    text = (" " if language == "en" else "").join(data.draw(st.lists(words, max_size=14)))
    said = parse(text, language)
    assert all(0 <= a < len(said.mentions) > b >= 0 for a, _, b in said.relations)


RED = Mention(shape="circle", color="red")
BLUE = Mention(shape="square", color="blue")


@pytest.mark.parametrize(
    ("language", "text", "mentions", "relations"),
    [
        ("en", "a red circle", (RED,), ()),
        ("en", "RED CIRCLE!!!", (RED,), ()),
        ("en", "2 circles", (Mention(2, shape="circle"),), ()),
        ("en", "There are two small boxes", (Mention(2, shape="square", size="small"),), ()),
        ("en", "circles", (Mention(2, shape="circle"),), ()),
        ("en", "no red circle", (Mention(0, shape="circle", color="red"),), ()),
        ("en", "a red letter A and a digit 7", (Mention(shape="letter", color="red", glyph="A"),
                                               Mention(shape="letter", glyph="7")), ()),
        ("en", "A red circle is to the left of a blue square.", (RED, BLUE), ((0, "left", 1),)),
        ("en", "The red circle is right of the blue square", (RED, BLUE), ((1, "left", 0),)),
        ("en", "Below the red circle there is a blue square.", (RED, BLUE), ((0, "above", 1),)),
        ("en", "A red circle and a blue square. The circle is above the square.", (RED, BLUE), ((0, "above", 1),)),
        ("en", "A blue square. It is below a red circle.", (BLUE, RED), ((1, "above", 0),)),
        ("en", "There is a circle. It is red.", (RED,), ()),
        ("en", "a red circle at the top-left corner of the picture",
         (Mention(shape="circle", color="red", place="top left"),), ()),
        ("en", "At the top left, there is a red circle; a blue square in the middle",
         (Mention(shape="circle", color="red", place="top left"),
          Mention(shape="square", color="blue", place="center")), ()),
        ("en", "a red circle on the left of the picture", (Mention(shape="circle", color="red", place="left"),), ()),
        ("en", "a red circle on a white background", (RED,), ()),
        ("en", "a red thing", (Mention(color="red"),), ()),
        ("zh", "红色的圆形", (RED,), ()),
        ("zh", "图中有两个圆形和3颗星星", (Mention(2, shape="circle"), Mention(3, shape="star")), ()),
        ("zh", "一个红圆，一个蓝色方块。", (RED, BLUE), ()),
        ("zh", "没有红色的圆形", (Mention(0, shape="circle", color="red"),), ()),
        ("zh", "红色的圆形在蓝色的正方形的左边。", (RED, BLUE), ((0, "left", 1),)),
        ("zh", "红色的圆形的右边有一个蓝色的正方形。", (RED, BLUE), ((0, "left", 1),)),
        ("zh", "红色的圆形左边的蓝色正方形", (RED, BLUE), ((1, "left", 0),)),
        ("zh", "左上角有一个红色的圆形，中间是一个蓝色的正方形。",
         (Mention(shape="circle", color="red", place="top left"),
          Mention(shape="square", color="blue", place="center")), ()),
        ("zh", "一个红色的字母A和一个数字7", (Mention(shape="letter", color="red", glyph="A"),
                                    Mention(shape="letter", glyph="7")), ()),
        ("zh", "有一个圆形。它是红色的。", (RED,), ()),
        ("zh", "白色背景上有一个红色的圆形", (RED,), ()),
    ],
)  # fmt: skip
def test_free_wordings(
    language: str, text: str, mentions: tuple[Mention, ...], relations: tuple[tuple[int, str, int], ...]
) -> None:
    said = parse(text, language)
    assert said == Description(mentions, relations, ())


def test_unknown_words_are_handed_back() -> None:
    assert parse("a red elephant near a circle", "en").unknown == ("elephant",)
    assert parse("一个红色的圆形和大象", "zh").unknown == ("象",)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="known are"):
        parse("ein Kreis", "de")
