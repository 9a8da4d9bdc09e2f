"""A detector's words: the truth where it never errs, and errors as often as told where it does."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.world.captions import score_caption
from sightling.world.facts import facts_of
from sightling.world.grounding import thing_boxes
from sightling.world.notes import Errors, Found, boxes, caption, found_things, tags
from sightling.world.parse import parse
from sightling.world.scenes import SceneSpec, sample_scene

SPEC = SceneSpec(letters=0.2)
LANGUAGES = st.sampled_from(("en", "zh"))


def found(seed: int, errors: Errors) -> list[Found]:
    return found_things(sample_scene(seed, SPEC), SPEC, errors, Random(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), LANGUAGES)
def test_a_perfect_detector_tells_the_truth(seed: int, language: str) -> None:
    scene = sample_scene(seed, SPEC)
    seen = found(seed, Errors())
    score = score_caption(caption(seen, language), scene, language)
    assert (score.right, score.absent, score.missed) == (len(scene.things), 0, 0)
    where = thing_boxes(scene)
    assert sorted(box for _, box in seen) == sorted(where)
    for mention, box in seen:
        assert mention.fits(facts_of(scene)[where.index(box)])
    said = tags(seen, language).split(", ")
    assert len(set(said)) == len(said)
    assert boxes(seen, language).count("{") == len(scene.things)


def test_the_words_of_a_scene() -> None:
    seen = found(1, Errors())
    assert caption(seen, "en") == "an orange ring and a brown square"
    assert tags(seen, "en") == "ring, square, orange, brown"
    assert boxes(seen, "en") == "orange ring {<38><7><72><42>}, brown square {<60><47><90><77>}"
    assert boxes(seen, "zh") == "橙色的圆环 {<38><7><72><42>}, 棕色的正方形 {<60><47><90><77>}"


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_errors_come_as_often_as_told(rate: float) -> None:
    things = dropped = colors = shapes = named = 0
    for seed in range(300):
        truth = found(seed, Errors())
        things += len(truth)
        dropped += len(truth) - len(found(seed, Errors(drop=rate)))
        for true, wrong in zip(truth, found(seed, Errors(color=rate, shape=rate)), strict=True):
            assert true[1] == wrong[1]
            colors += true[0].color != wrong[0].color
            if true[0].glyph is None:
                named += 1
                shapes += true[0].shape != wrong[0].shape
            else:
                assert (true[0].shape, true[0].glyph) == (wrong[0].shape, wrong[0].glyph)
    # Three standard deviations of some 700 draws are 5 points.
    assert dropped / things == pytest.approx(rate, abs=0.055)
    assert colors / things == pytest.approx(rate, abs=0.055)
    assert shapes / named == pytest.approx(rate, abs=0.06)


def test_what_a_good_detector_misses_a_worse_one_misses_too() -> None:
    for seed in range(60):
        better, worse = (dict.fromkeys(box for _, box in found(seed, Errors(drop=rate))) for rate in (0.2, 0.6))
        assert set(worse) <= set(better)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_found_is_nothing_said(language: str) -> None:
    seen = found(3, Errors(drop=1.0))
    assert (seen, caption(seen, language), tags(seen, language), boxes(seen, language)) == ([], "", "", "")


def test_like_things_are_counted_in_the_caption() -> None:
    spec = SceneSpec(shapes=("circle",), colors=("red",), min_things=3, max_things=3)
    seen = found_things(sample_scene(0, spec), spec, Errors(color=1.0, shape=1.0), Random(0))
    assert caption(seen, "en") == "three red circles"
    assert [one.count for one in parse(caption(seen, "en"), "en").mentions] == [3]
