"""Describing: golden texts, varied wording, and a content that does not depend on the wording."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.world.describe import DETAILS, describe, described_facts
from sightling.world.describe.en import noun_phrase as english
from sightling.world.describe.words import Words
from sightling.world.describe.zh import noun_phrase as chinese
from sightling.world.facts import facts_of
from sightling.world.mentions import Mention
from sightling.world.scene import Background, Scene, Thing
from sightling.world.scenes import SceneSpec, sample_scene

WORDS = Words(Random(0))


def _thing(shape: str, color: str, size: str, x: float, y: float, texture: str = "plain", glyph: str = "") -> Thing:
    return Thing(shape, color, size, texture, x, y, 0.1, 0.0, (0, 0, 0), glyph)


SCENE = Scene(
    (_thing("star", "blue", "small", 0.5, 0.8, "striped"), _thing("circle", "red", "large", 0.8, 0.2),
     _thing("circle", "red", "large", 0.2, 0.2), _thing("letter", "orange", "small", 0.5, 0.5, glyph="7")),
    Background("plain", (255, 255, 255), (255, 255, 255), 0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("mention", "article", "en", "zh"),
    [
        (Mention(shape="circle"), "a", "a circle", "一个圆形"),
        (Mention(shape="arrow", color="orange"), "a", "an orange arrow", "一个橙色的箭头"),
        (Mention(shape="star", size="large", color="red"), "the", "the large red star", "大的红色星形"),
        (Mention(2, shape="cross"), "count", "two crosses", "两个十字形"),
        (Mention(3, shape="heart", texture="striped"), "count", "three striped hearts", "三颗条纹的心形"),
        (Mention(color="blue"), "the", "the blue thing", "蓝色的东西"),
        (Mention(color="blue", size="small"), "the", "the small blue thing", "小的蓝色的东西"),
        (Mention(shape="letter", glyph="A"), "a", "a letter A", "一个字母A"),
        (Mention(shape="letter", glyph="7", color="red"), "the", "the red digit 7", "红色的数字7"),
        (Mention(place="top left"), "the", "the thing at the top left", "左上角的东西"),
        (Mention(place="center"), "the", "the thing in the center", "中间的东西"),
    ],
)
def test_noun_phrases(mention: Mention, article: str, en: str, zh: str) -> None:
    assert english(mention, article, WORDS) == en
    assert chinese(mention, article, WORDS) == zh


def test_the_content_follows_the_reading_order() -> None:
    short = described_facts(SCENE, "short").mentions
    assert short == (
        Mention(2, "circle", "red", "large"),
        Mention(1, "letter", "orange", "small", glyph="7"),
        Mention(1, "star", "blue", "small"),
    )
    full = described_facts(SCENE, "paragraph")
    assert [mention.place for mention in full.mentions] == ["top left", "top right", "center", "bottom"]
    assert full.mentions[3].texture == "striped"
    # The circles cannot be told apart by name, so nothing is said between them and others.
    assert full.relations == ((2, "above", 3),)


def test_every_wording_comes_up_and_only_those() -> None:
    scene = Scene(SCENE.things[:1], SCENE.background)
    assert {describe(scene, "en", "short", Random(seed), 0.0) for seed in range(50)} == {
        "A small blue star.",
        "There is a small blue star.",
        "The picture shows a small blue star.",
    }
    assert {describe(scene, "zh", "detailed", Random(seed), 0.0) for seed in range(50)} == {
        "一颗小的蓝色条纹星形在下方。",
        "下方有一颗小的蓝色条纹星形。",
    }


def test_synonyms_come_at_the_rate_that_is_set() -> None:
    scene = Scene(SCENE.things[:1], SCENE.background)
    rng = Random(0)
    tiny = sum("small" not in describe(scene, "en", "phrase", rng, 0.0) for _ in range(10))
    assert tiny == 10  # a phrase says colour and shape only
    replaced = sum("star" in describe(scene, "en", "phrase", rng, 0.2).split()[-1] for _ in range(500))
    assert replaced == 500  # "five-pointed star" ends in the same word
    other = sum("blue" not in describe(scene, "en", "phrase", rng, 0.2) for _ in range(500))
    assert 60 < other < 140


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), detail=st.sampled_from(DETAILS))
def test_every_thing_is_said_once(seed: int, detail: str) -> None:
    scene = sample_scene(seed, SceneSpec(letters=0.2, max_things=6))
    said = described_facts(scene, detail)
    assert sum(mention.count for mention in said.mentions) == len(scene.things)
    for fact in facts_of(scene):
        assert any(mention.fits(fact) for mention in said.mentions)


def test_an_empty_scene_is_said_to_be_empty() -> None:
    empty = Scene((), SCENE.background)
    assert describe(empty, "en", "short", Random(0)) == "There is nothing."
    assert describe(empty, "zh", "phrase", Random(0)) == "什么都没有"


def test_unknown_languages_and_details_are_refused() -> None:
    with pytest.raises(ValueError, match="known are: en, zh"):
        describe(SCENE, "fr", "short", Random(0))
    with pytest.raises(ValueError, match="known are: phrase, short"):
        describe(SCENE, "en", "long", Random(0))
