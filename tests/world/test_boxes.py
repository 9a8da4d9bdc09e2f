"""Boxes as text: the form, and the four families that ask for boxes or tell them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.model.templates.minigpt import box
from sightling.world.facts import facts_of
from sightling.world.families.boxes import BOXED, grounded
from sightling.world.grounding import (
    Grounded,
    overlap,
    read_groups,
    thing_boxes,
    write_box,
    write_group,
)
from sightling.world.mentions import Mention
from sightling.world.parse import parse
from sightling.world.questions import FAMILIES, Question, ask
from sightling.world.render import boxes, picture_shape
from sightling.world.scene import Scene
from sightling.world.scenes import SceneSpec, sample_scene

SPEC = SceneSpec(letters=0.15, textured=0.3, min_aspect=0.5, max_aspect=2.0)
SPANS = st.integers(0, 99).flatmap(lambda start: st.tuples(st.just(start), st.integers(start + 1, 100)))
BOXES = st.tuples(SPANS, SPANS).map(lambda spans: (spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
SIDES = {(0, 1): ("leftmost", "最左"), (0, -1): ("rightmost", "最右"), (1, 1): ("topmost", "最上"),
         (1, -1): ("bottommost", "最下")}  # fmt: skip
FEW = settings(max_examples=25, deadline=None)
LANGUAGES = st.sampled_from(("en", "zh"))


def asked(family: str, language: str, seed: int) -> tuple[Scene, Question] | None:
    scene = sample_scene(seed, SPEC)
    found = ask(scene, family, language, Random(seed), SPEC, synonyms=0.0)
    return (scene, found) if found is not None else None


def meant(text: str, language: str) -> Mention:
    (said,) = parse(text, language).mentions
    return said


# --- the form ---------------------------------------------------------------------------------------------------


def test_a_box_is_written_as_minigpt_v2_writes_it() -> None:
    assert write_box((3, 20, 45, 100)) == "{<3><20><45><100>}"
    two = write_group("red circle", [(1, 2, 3, 4), (5, 6, 7, 8)])
    assert two == "<p>red circle</p> {<1><2><3><4>}<delim>{<5><6><7><8>}"


@pytest.mark.parametrize("spec", [SPEC, SceneSpec(sizes=("miniature", "large"), needles=1)], ids=["usual", "needle"])
def test_boxes_are_those_of_the_picture_in_hundredths(spec: SceneSpec) -> None:
    for seed in range(60):
        scene = sample_scene(seed, spec)
        width, height = picture_shape(scene, 1000)
        for found, exact in zip(thing_boxes(scene), boxes(scene, 1000), strict=True):
            assert 0 <= found[0] < found[2] <= 100 and 0 <= found[1] < found[3] <= 100
            if exact[2] - exact[0] > width / 50 and exact[3] - exact[1] > height / 50:
                assert write_box(found) == box(exact, width, height)


@given(st.lists(st.tuples(st.sampled_from(("", "red circle", "红色的圆形")), BOXES), min_size=1, max_size=4))
def test_what_is_written_is_read_again(groups: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    text = " and ".join(write_group(phrase, [found]) if phrase else write_box(found) for phrase, found in groups)
    assert read_groups(text) == tuple(Grounded(phrase, found) for phrase, found in groups)


@pytest.mark.parametrize(
    "text",
    ["", "none", "{<1><2><3>}", "{<1><2><3><4>", "{<10><2><3><4>}", "{<1><2><3><101>}", "{<1><2><1><4>}",
     "<1><2><3><4>", "{<1> <2> <3> <4>}", "{<-1><2><3><4>}", "{<1.0><2><3><4>}", "{<１><2><3><4>}",
     "there is {<1><2><3><4>}", "{<1><2><3><4>} or {<1><2><3><4>}", "<p>a</p>", "<p></p> {<1><2><3><4>}",
     "<p>a</p> {<1><2><3><4>}<delim>",
     "{<1><2><3><4>}<delim>x", "<p>a<p>b</p> {<1><2><3><4>}", "{<1><2><3><4>} android"],
)  # fmt: skip
def test_what_is_malformed_is_no_box(text: str) -> None:
    assert read_groups(text) is None


@settings(max_examples=30)
@given(BOXES, BOXES)
def test_overlap_is_a_share_and_the_same_both_ways(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    first, second = (one[0], one[1], one[2], one[3]), (other[0], other[1], other[2], other[3])
    assert 0 <= overlap(first, second) == overlap(second, first) <= 1
    assert overlap(first, first) == 1
    covered = {(x, y) for x in range(first[0], first[2]) for y in range(first[1], first[3])}
    others = {(x, y) for x in range(second[0], second[2]) for y in range(second[1], second[3])}
    assert overlap(first, second) == pytest.approx(len(covered & others) / len(covered | others))


# --- the families -----------------------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 2**40), LANGUAGES)
def test_refer_gives_the_box_of_the_one_thing_that_is_meant(seed: int, language: str) -> None:
    drawn = asked("refer", language, seed)
    if drawn is None:
        return
    scene, found = drawn
    (said,) = read_groups(found.answer) or ()
    index = thing_boxes(scene).index(said.box)
    extreme = next((side for side, words in SIDES.items() if any(word in found.text for word in words)), None)
    if extreme is None:
        phrase = meant(found.text, language)
        assert [at for at, fact in enumerate(facts_of(scene)) if phrase.fits(fact)] == [index]
    else:
        axis, sign = extreme
        things = [(thing.x, thing.y) for thing in scene.things]
        assert index == min(range(len(things)), key=lambda at: sign * things[at][axis])
    assert found.choices == ()


@FEW
@given(st.integers(0, 2**40), LANGUAGES)
def test_identify_names_what_is_in_the_box(seed: int, language: str) -> None:
    drawn = asked("identify", language, seed)
    assert drawn is not None
    scene, found = drawn
    text = found.text[found.text.index("{") : found.text.index("}") + 1]
    (said,) = read_groups(text) or ()
    fact = facts_of(scene)[thing_boxes(scene).index(said.box)]
    answer = meant(found.answer, language)
    assert answer.fits(fact) and {"shape", "color"} <= set(answer.stated())


@FEW
@given(st.integers(0, 2**40), LANGUAGES)
def test_detection_gives_every_thing_that_the_phrase_fits(seed: int, language: str) -> None:
    drawn = asked("detection", language, seed)
    assert drawn is not None
    scene, found = drawn
    groups = read_groups(found.answer) or ()
    phrase = meant(groups[0].phrase, language)
    assert {one.phrase for one in groups} == {groups[0].phrase}
    assert phrase.stated() == meant(found.text, language).stated()
    fitting = [at for at, fact in enumerate(facts_of(scene)) if phrase.fits(fact)]
    assert sorted(one.box for one in groups) == sorted(thing_boxes(scene)[at] for at in fitting)


@FEW
@given(st.integers(0, 2**40), LANGUAGES)
def test_grounding_tells_every_thing_with_its_box(seed: int, language: str) -> None:
    drawn = asked("grounding", language, seed)
    assert drawn is not None
    scene, found = drawn
    assert found.answer == grounded(scene, language)
    groups = read_groups(found.answer) or ()
    assert len(groups) == len(scene.things)
    for one in groups:
        fact = facts_of(scene)[thing_boxes(scene).index(one.box)]
        assert meant(one.phrase, language).fits(fact)


def test_boxed_families_are_those_whose_words_hold_boxes() -> None:
    for name in ("existence", "caption", "description", *sorted(BOXED)):
        drawn = [asked(name, "en", seed) for seed in range(10)]
        said = [one[1].text + one[1].answer for one in drawn if one is not None]
        assert said and all(("{<" in text) == (name in BOXED) for text in said), name
    assert {name for name, family in FAMILIES.items() if family.task == name} - {"caption"} == BOXED
