from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.data.sample import Sample
from sightling.data.sources import SOURCES
from sightling.data.texts import TEXTS, TextSource
from sightling.data.world import FAMILY_WEIGHTS, WorldOptions, WorldSource
from sightling.errors import UserError
from sightling.parts import make
from sightling.train.order import derive_seed
from sightling.world.captions import score_caption
from sightling.world.render import render

HELD_OUT = 1 << 63
"""Evaluation draws its scenes from seeds of this size and above."""


def source(seed: int = 0, **told: Any) -> WorldSource:
    made = make(SOURCES, {"type": "world", "image_size": 16, **told}, "data").open(seed)
    assert isinstance(made, WorldSource)
    return made


def texts(seed: int = 0, **told: Any) -> TextSource:
    return make(TEXTS, {"type": "world", **told}, "data").open(seed)


def said(samples: list[Sample]) -> list[tuple[str, str]]:
    return [(sample.turns[0].text, sample.answer) for sample in samples]


def pixels(samples: list[Sample]) -> np.ndarray[Any, Any]:
    return np.asarray(next(iter(samples[0].pictures())).load())


SEEDS = st.integers(0, 2**63 - 1)
INDICES = st.integers(0, 2**38)


@settings(max_examples=15, deadline=None)
@given(SEEDS, INDICES, st.lists(INDICES, max_size=2))
def test_a_group_is_a_function_of_seed_and_index_alone(seed: int, index: int, before: list[int]) -> None:
    used, fresh = source(seed), source(seed)
    for other in before:
        used.group(other)
    one, two = used.group(index), fresh.group(index)
    assert said(one) == said(two)
    assert np.array_equal(pixels(one), pixels(two))
    assert [sample.meta["scene"] for sample in one] == [fresh.scene(index)] * len(one)


def test_a_group_is_one_picture_and_the_questions_about_it() -> None:
    group = source(4, questions_per_picture=6).group(9)
    assert 1 <= len(group) <= 6
    pictures = {id(shown) for sample in group for shown in sample.pictures()}
    assert len(pictures) == 1
    assert np.array_equal(pixels(group), np.asarray(render(group[0].meta["scene"], 16)))
    for sample in group:
        assert [turn.role for turn in sample.turns] == ["user", "assistant"]
        assert sample.meta["index"] == 9 and sample.meta["family"] in FAMILY_WEIGHTS
        assert not sample.meta["choices"] or sample.answer in sample.meta["choices"]


def test_words_are_those_of_the_group_with_no_picture() -> None:
    made = source(2)
    for index in range(10):
        words = made.words(index)
        assert said(words) == said(made.group(index))
        assert not any(list(sample.pictures()) for sample in words)


def test_other_seeds_and_indices_are_other_scenes() -> None:
    scenes = {repr(source(seed).scene(index)) for seed in range(6) for index in range(20)}
    assert len(scenes) == 6 * 20


@settings(max_examples=200, deadline=None)
@given(st.integers(), st.text(max_size=8), INDICES, st.integers(0, 2**32), INDICES)
def test_held_out_seeds_never_meet_training_seeds(base: int, stage: str, index: int, own: int, other: int) -> None:
    trained = source(derive_seed(base, stage))
    held_out = source(HELD_OUT + own)
    assert trained.seed < HELD_OUT <= held_out.seed
    assert trained._seed(index) < HELD_OUT << 40 <= held_out._seed(other)


@settings(max_examples=200, deadline=None)
@given(SEEDS, SEEDS, INDICES, INDICES)
def test_two_stages_share_no_scene(one: int, two: int, index: int, other: int) -> None:
    meet = source(one)._seed(index) == source(two)._seed(other)
    assert meet == (one == two and index == other)


# ---- balance


def test_families_and_languages_come_by_their_weights() -> None:
    told = source(1, families={"existence": 3, "color": 1, "count": 0}, languages={"en": 1, "zh": 3}, synonyms=0)
    samples = [sample for index in range(250) for sample in told.words(index)]
    families = Counter(sample.meta["family"] for sample in samples)
    languages = Counter(sample.meta["language"] for sample in samples)
    assert set(families) == {"existence", "color"} and set(languages) == {"en", "zh"}
    # Some scenes carry no question about a colour, so its share may fall short of a quarter, never exceed it by much.
    assert 0.15 < families["color"] / len(samples) < 0.3
    assert 0.7 < languages["zh"] / len(samples) < 0.8


def test_yes_and_no_are_equally_likely() -> None:
    told = source(5, families=["existence"], languages=["en"], questions_per_picture=2)
    answers = Counter(sample.answer for index in range(400) for sample in told.words(index))
    assert set(answers) == {"yes", "no"}
    assert abs(answers["yes"] / answers.total() - 0.5) < 0.06


def test_synonyms_come_as_often_as_told() -> None:
    none, all_of_them = ([said(source(3, synonyms=chance, languages=["en"]).words(index)) for index in range(30)]
                         for chance in (0, 1))  # fmt: skip
    assert none != all_of_them
    first = source(3, synonyms=0, languages=["en"])
    assert [said(first.words(index)) for index in range(30)] == none


# ---- texts


def test_a_text_is_a_question_with_its_answer_or_a_caption_alone() -> None:
    made, beside = texts(7, questions_per_picture=3), source(7, questions_per_picture=3)
    open_ended = 0
    for index in range(60):
        known = {answer if not sample.meta["choices"] else f"{asked}\n{answer}": sample
                 for sample in beside.words(index) for asked, answer in said([sample])}  # fmt: skip
        text = made.text(index)
        assert text in known and text == texts(7, questions_per_picture=3).text(index)
        open_ended += not known[text].meta["choices"]
    assert 0 < open_ended < 60
    assert len({made.text(index) for index in range(60)}) > 50
    assert [texts(8).text(index) for index in range(5)] != [texts(7).text(index) for index in range(5)]


def test_the_words_of_any_source_are_a_text_source() -> None:
    data = {"type": "world", "image_size": 16, "length": 5, "questions_per_picture": 2}
    made = make(TEXTS, {"type": "samples", "data": data}, "data").open(3)
    beside = source(3, length=5, questions_per_picture=2)
    assert len(made) == len(beside) == 5
    assert made.text(2) == "\n".join(words for pair in said(beside.words(2)) for words in pair)
    with pytest.raises(UserError, match=r"^data\.data\.type: there is no data source 'wrld'; did you mean 'world'\?$"):
        make(TEXTS, {"type": "samples", "data": {"type": "wrld"}}, "data")


def test_the_lines_of_a_file_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\r\n\n  \n图中\u2028有\nlast".encode())
    made = make(TEXTS, {"type": "file", "path": str(path)}, "data").open(0)
    assert [made.text(index) for index in range(len(made))] == ["one", "图中\u2028有", "last"]
    path.write_bytes(b"ok\n\xff")
    with pytest.raises(UserError, match=r"lines\.txt is not UTF-8: invalid start byte at byte 3$"):
        make(TEXTS, {"type": "file", "path": str(path)}, "data").open(0)
    path.write_bytes(b" \n\n")
    with pytest.raises(UserError, match=r"lines\.txt is empty$"):
        make(TEXTS, {"type": "file", "path": str(path)}, "data").open(0)
    with pytest.raises(UserError, match=r"nothing\.txt does not exist$"):
        make(TEXTS, {"type": "file", "path": str(tmp_path / "nothing.txt")}, "data").open(0)


# ---- options


def test_lists_are_equal_weights_and_lengths_are_told() -> None:
    listed = make(SOURCES, {"type": "world", "families": ["color", "shape"], "languages": ["zh"]}, "data")
    assert isinstance(listed, WorldOptions)
    assert listed.families == {"color": 1.0, "shape": 1.0} and listed.languages == {"zh": 1.0}
    assert len(source(length=7)) == 7 and len(source()) == 0
    assert len(texts(length=7)) == 7


@pytest.mark.parametrize("registry", [SOURCES, TEXTS])
@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"familes": {}}, "data has no key 'familes'; did you mean 'families'?"),
        ({"families": {"colour": 1}}, "data.families: there is no question family 'colour'; did you mean 'color'?"),
        ({"families": ["colr"]}, "data.families: there is no question family 'colr'; did you mean 'color'?"),
        ({"families": {"color": -1}}, "data.families: the weight of 'color' is -1.0; it must be 0 or more"),
        ({"families": {"color": float("nan")}}, "data.families: the weight of 'color' is nan; it must be 0 or more"),
        ({"families": {"color": 0}}, "data.families: no question family has a weight above 0"),
        ({"families": []}, "data.families: no question family has a weight above 0"),
        ({"languages": {"de": 1}}, "data.languages: there is no language 'de'; did you mean 'en'?"),
        ({"questions_per_picture": 0}, "data.questions_per_picture = 0 is wrong: input should be greater than or equal "
                                       "to 1"),
        ({"image_size": 8}, "data.image_size = 8 is wrong: input should be greater than or equal to 16"),
        ({"synonyms": 2}, "data.synonyms = 2 is wrong: input should be less than or equal to 1"),
        ({"length": -1}, "data.length = -1 is wrong: input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_by_name(registry: Any, told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make(registry, {"type": "world", **told}, "data")
    assert str(error.value) == message


def test_a_wrong_scene_is_refused_by_its_key() -> None:
    with pytest.raises(UserError, match=r"^data\.scene: .*'max_thing'.*max_things"):
        make(SOURCES, {"type": "world", "scene": {"max_thing": 3}}, "data")


def test_families_that_find_nothing_to_ask_say_so() -> None:
    made = source(0, families=["relation"], scene={"min_things": 1, "max_things": 1})
    with pytest.raises(UserError, match=r"^the families \['relation'\] find nothing to ask about scene 4; add one"):
        made.group(4)


def test_a_picture_that_is_told_stands_in_words_that_hold_the_scene() -> None:
    told, shown = source(3, told=1.0), source(3)
    for index in range(20):
        for one, other in zip(told.group(index), shown.group(index), strict=True):
            assert not list(one.pictures()) and one.turns[1:] == other.turns[1:] and one.meta == other.meta
            words, question = one.turns[0].parts
            assert isinstance(words, str) and words.endswith("\n") and question == other.turns[0].parts[1]
            # Everything is told: nothing is made up and nothing is missed.
            score = score_caption(words, one.meta["scene"], one.meta["language"])
            assert (score.absent, score.missed) == (0, 0) and score.right == len(one.meta["scene"].things)
    mixed = [bool(list(source(3, told=0.5).group(index)[0].pictures())) for index in range(60)]
    assert 15 < sum(mixed) < 45
