"""Pairs and clips of the small world as sources of samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.data.sample import Part, Picture, Sample
from sightling.data.series import GREY, LAYOUTS, SeriesSource, laid_out, shown_pictures
from sightling.data.sources import SOURCES
from sightling.errors import UserError
from sightling.parts import make
from sightling.world.clip_families import CLIPS
from sightling.world.pair_families import PAIRS
from sightling.world.render import render

FAST = {"world_pairs": ["gone", "added", "recolored"], "world_clips": ["appearing", "colors", "turned"]}
KINDS = st.sampled_from(sorted(FAST))


def source(kind: str, seed: int = 0, **told: Any) -> SeriesSource:
    made = make(SOURCES, {"type": kind, "image_size": 16, "families": FAST[kind], **told}, "data").open(seed)
    assert isinstance(made, SeriesSource)
    return made


def pixels(sample: Sample) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(picture.load()) for picture in sample.pictures()]


def shape(parts: tuple[Part, ...]) -> str:
    """ "P" for each picture and "t" for each text."""
    return "".join("P" if isinstance(part, Picture) else "t" for part in parts)


@settings(max_examples=10, deadline=None)
@given(KINDS, st.integers(0, 2**63 - 1), st.integers(0, 2**38))
def test_a_group_is_a_function_of_seed_and_index_alone(kind: str, seed: int, index: int) -> None:
    used = source(kind, seed)
    used.group(index + 1)
    (one,), (two,) = used.group(index), source(kind, seed).group(index)
    assert [turn.text for turn in one.turns] == [turn.text for turn in two.turns]
    assert one.meta == two.meta
    assert all(np.array_equal(a, b) for a, b in zip(pixels(one), pixels(two), strict=True))


@pytest.mark.parametrize("kind", FAST)
def test_the_pictures_are_the_scenes_in_order(kind: str) -> None:
    for index in range(6):
        (sample,) = source(kind).group(index)
        scenes = sample.meta["scenes"]
        assert len(scenes) == (4 if kind == "world_clips" else 2)
        assert all(np.array_equal(seen, np.asarray(render(scene, 16)))
                   for seen, scene in zip(pixels(sample), scenes, strict=True))  # fmt: skip
        assert sample.answer and sample.turns[-1].supervised
        assert (sample.meta["clip"] is None) == (kind == "world_pairs")


def test_frames_and_size_are_as_told() -> None:
    (sample,) = source("world_clips", frames=7, image_size=24).group(0)
    assert [picture.size() for picture in sample.pictures()] == [(24, 24)] * 7


def test_seeds_and_indices_share_nothing() -> None:
    told = {repr(source("world_pairs", seed).group(index)[0].meta["scenes"]) for seed in range(3) for index in range(5)}
    assert len(told) == 15


def test_families_languages_and_layouts_come_by_their_weights() -> None:
    made = source("world_pairs", families={"gone": 3, "added": 1}, languages={"en": 1, "zh": 3},
                  layouts={"before": 1, "around": 1})  # fmt: skip
    samples = [made.group(index)[0].meta for index in range(160)]
    count = {key: Counter(meta[key] for meta in samples) for key in ("family", "language", "layout")}
    assert set(count["family"]) == {"gone", "added"} and 0.64 < count["family"]["gone"] / 160 < 0.86
    assert 0.64 < count["language"]["zh"] / 160 < 0.86
    assert set(count["layout"]) == {"before", "around"} and 0.35 < count["layout"]["around"] / 160 < 0.65


def test_the_same_question_is_asked_in_every_language() -> None:
    one, two = source("world_pairs", synonyms=0).asked(5, "gone")
    assert [one.meta["language"], two.meta["language"]] == ["en", "zh"]
    assert one.meta["layout"] == two.meta["layout"] and one.meta["scenes"] == two.meta["scenes"]
    assert list(one.pictures()) == list(two.pictures())
    assert one.meta["choices"].index(one.answer) == two.meta["choices"].index(two.answer)


# ---- layouts


@pytest.mark.parametrize(
    "layout, two, three",
    [
        ("before", ["PPt"], ["PPPt"]),
        ("after", ["tPP"], ["tPPP"]),
        ("around", ["PtP"], ["PPtP"]),
        ("numbered", ["tPtPt"], ["tPtPtPt"]),
        ("turns", ["Pt", "t", "Pt"], ["Pt", "t", "Pt", "t", "Pt"]),
    ],
)
def test_layouts_put_pictures_and_words_in_their_places(layout: str, two: list[str], three: list[str]) -> None:
    (sample,) = source("world_clips").group(0)
    pictures = list(sample.pictures())[:3]
    for count, expected in ((2, two), (3, three)):
        turns = laid_out(pictures[:count], "why?", layout, "en")
        assert [shape(turn.parts) for turn in turns] == expected
        assert [part for turn in turns for part in turn.parts if isinstance(part, Picture)] == pictures[:count]
        assert turns[-1].text.endswith("why?") or layout == "after"
        assert not any(turn.supervised for turn in turns if turn.role == "assistant")
    assert set(LAYOUTS) >= {layout}


def test_numbers_are_said_in_the_questions_language() -> None:
    pictures = list(source("world_clips").group(0)[0].pictures())[:2]
    assert laid_out(pictures, "why?", "numbered", "en")[0].text == "Picture 1: \nPicture 2: \nwhy?"
    assert laid_out(pictures, "？", "numbered", "zh", "frames")[0].text == "第1帧：\n第2帧：\n？"
    with pytest.raises(ValueError, match="there is no layout 'besides'"):
        laid_out(pictures, "why?", "besides", "en")


# ---- what is hidden


@pytest.mark.parametrize("kind, see, shown", [("world_pairs", "first", 0), ("world_clips", "middle", 2)])
def test_all_but_one_picture_can_be_hidden(kind: str, see: str, shown: int) -> None:
    (whole,), (part,) = source(kind).group(3), source(kind, see=see).group(3)
    assert [turn.text for turn in whole.turns] == [turn.text for turn in part.turns]
    for number, (one, two) in enumerate(zip(pixels(whole), pixels(part), strict=True)):
        if number == shown:
            assert np.array_equal(one, two)
        else:
            assert two.shape == one.shape and (two == GREY).all() and not np.array_equal(one, two)


def test_the_middle_is_where_the_frames_after_it_are_fewer_by_one_or_none() -> None:
    assert [sorted(shown_pictures(count, "middle")) for count in (1, 2, 3, 4, 5)] == [[0], [1], [1], [2], [2]]
    assert shown_pictures(3, "all") == {0, 1, 2} and shown_pictures(3, "first") == {0}


# ---- options


@pytest.mark.parametrize("kind, families", [("world_pairs", PAIRS), ("world_clips", CLIPS)])
def test_every_family_is_asked_when_none_is_named(kind: str, families: dict[str, Any]) -> None:
    made = make(SOURCES, {"type": kind}, "data").open(0)
    assert isinstance(made, SeriesSource) and made.families == dict.fromkeys(families, 1.0)


@pytest.mark.parametrize(
    "told, message",
    [
        ({"families": ["gon"]}, "data.families: there is no question family 'gon'; did you mean 'gone'?"),
        ({"layouts": {"before": 0}}, "data.layouts: no layout has a weight above 0"),
        ({"languages": ["fr"]}, "data.languages: there is no language 'fr'; known are: en, zh"),
        ({"scene": {"letters": 0.5}}, "data.scene: letters is 0.5; scenes that change cannot have it"),
        ({"scene": {"colors": ["red", "blue"]}},
         "data.scene: colors has 2 entries; scenes that change need at least 3"),
        ({"see": "last"}, "data.see = 'last' is wrong: input should be 'all', 'first' or 'middle'"),
        ({"frames": 4}, "data has no key 'frames'; did you mean 'families'?"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_one_sentence(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make(SOURCES, {"type": "world_pairs", **told}, "data")
    assert str(error.value) == message


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.frames = 3 is wrong: input should be greater than or equal to 4"):
        make(SOURCES, {"type": "world_clips", "frames": 3}, "data")
