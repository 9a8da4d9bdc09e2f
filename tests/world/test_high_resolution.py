"""Things that need high resolution: their scenes, what is asked about them, and that only many pixels show it."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightling.data.world import WorldOptions
from sightling.errors import UserError
from sightling.world.captions import score_caption
from sightling.world.describe import DETAILS, describe, described_facts
from sightling.world.facts import facts_of
from sightling.world.lexicon import COLORS, GLYPHS, PLACES, SHAPES, SIZES
from sightling.world.mentions import Mention
from sightling.world.outlines import scale_of
from sightling.world.parse import parse
from sightling.world.questions import Question, ask, ask_many
from sightling.world.render import boxes, picture_shape, render
from sightling.world.scene import Background, Scene, Thing
from sightling.world.scenes import Habit, SceneSpec, sample_scene
from sightling.world.spec import MINIATURE, MOST_SMALL_THINGS, RADII, crowd_counts, most_things

SIGNS = SceneSpec(sizes=(MINIATURE,), letters=1.0, max_things=6)
CROWD = SceneSpec(sizes=(MINIATURE,), max_things=40, crowd=2)
NEEDLE = SceneSpec(sizes=(MINIATURE, "small", "large"), min_things=5, max_things=9, needles=1, letters=0.3)
WIDE = SceneSpec(sizes=(MINIATURE,), max_things=8, letters=0.5, min_aspect=0.25, max_aspect=4.0, log_aspect=True)
WHITE = Background("plain", (255, 255, 255), (255, 255, 255), 0)

seeds = st.integers(0, 2**40)
languages = st.sampled_from(("en", "zh"))


# --- scenes -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from((SIGNS, CROWD, NEEDLE, WIDE, replace(CROWD, scale=0.3))))
def test_miniature_things_are_that_and_touch_nothing(seed: int, spec: SceneSpec) -> None:
    scene = sample_scene(seed, spec)
    size = 1000
    width, height = picture_shape(scene, size)
    found = boxes(scene, size)
    for thing, (left, top, right, bottom) in zip(scene.things, found):
        edge = spec.margin * size - 1
        assert left >= edge and top >= edge and right <= width - edge and bottom <= height - edge
        if thing.size == MINIATURE:
            low, high = (side * spec.scale for side in RADII[MINIATURE])
            assert low - 1e-4 <= thing.radius / scale_of(thing.shape) <= high + 1e-4
    for (a, first), (b, second) in itertools.combinations(zip(found, scene.things), 2):
        if MINIATURE in (first.size, second.size):
            apart = max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))
            assert apart >= 0.99 * spec.gap * size - 1


def test_all_miniature_things_are_smaller_than_any_other() -> None:
    assert 4 * RADII[MINIATURE][1] < RADII["small"][0]
    assert SceneSpec().sizes == ("small", "large") and set(SIZES) == set(RADII)


def test_as_many_things_as_can_be_told_apart() -> None:
    assert most_things(SceneSpec()) == 12 and most_things(CROWD) == MOST_SMALL_THINGS
    assert most_things(SceneSpec(sizes=("small",))) == 12 < most_things(SceneSpec(sizes=("small",), scale=0.5))
    full = SceneSpec(sizes=(MINIATURE,), min_things=48, max_things=48, min_aspect=0.125, max_aspect=8.0)
    assert {len(sample_scene(seed, full).things) for seed in range(10)} == {48}


def test_the_shapes_of_a_crowd_are_counted_out_evenly_and_apart() -> None:
    spec = replace(CROWD, min_things=3, max_things=13)
    assert list(crowd_counts(spec)) == [2, 3, 4, 5, 6]
    pairs = Counter(
        tuple(count for _, count in sorted(Counter(thing.shape for thing in sample_scene(seed, spec).things).items()))
        for seed in range(1000)
    )
    assert set(pairs) == set(itertools.product(crowd_counts(spec), repeat=2))
    # Expected 40 each, with a standard deviation of 6.
    assert min(pairs.values()) > 18 and max(pairs.values()) < 66
    three = sample_scene(5, replace(spec, crowd=3))
    assert len({thing.shape for thing in three.things}) == 3 and len({thing.color for thing in three.things}) <= 3


def test_there_are_so_many_needles_and_no_more() -> None:
    for needles in (1, 3):
        spec = replace(NEEDLE, needles=needles, min_things=2)
        for seed in range(60):
            sizes = [thing.size for thing in sample_scene(seed, spec).things]
            assert sizes.count(MINIATURE) == min(needles, len(sizes))


def test_tall_and_wide_are_equally_likely() -> None:
    aspects = [sample_scene(seed, WIDE).aspect for seed in range(400)]
    assert 0.25 <= min(aspects) < 0.29 and 3.5 < max(aspects) <= 4
    assert abs(sum(aspect > 1 for aspect in aspects) / 400 - 0.5) < 0.08
    assert picture_shape(Scene((), WHITE, 8.0), 224) == (1792, 224)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sizes": ["tiny"]}, "sizes has no 'tiny'"),
        ({"sizes": ["miniature"], "max_things": 49}, "<= 48 for things of these sizes"),
        ({"sizes": ["miniature", "large"], "max_things": 13}, "<= 12 for things of these sizes"),
        ({"scale": 0.1}, "scale must lie between 0.2 and 1, not 0.1"),
        ({"needles": 1}, "needles need sizes to hold 'miniature' and one more, not small, large"),
        ({"needles": 1, "sizes": ["miniature"]}, "and one more, not miniature"),
        ({"needles": -1}, "needles must lie between 0 and max_things 4, not -1"),
        ({"crowd": 1}, "crowd must be 0 or lie between 2 and the number of shapes, 12, not 1"),
        ({"crowd": 3, "shapes": ["star", "ring"]}, "the number of shapes, 2, not 3"),
        ({"crowd": 2, "min_things": 3, "max_things": 3}, "leave no number that a crowd of 2 shapes"),
        ({"crowd": 2, "letters": 0.1}, "a crowd has neither letters nor a habit"),
        ({"crowd": True}, "crowd must be a whole number, not True"),
        ({"log_aspect": 1}, "log_aspect must be true or false, not 1"),
        ({"max_aspect": 8.5}, "0.125 <= min_aspect <= max_aspect <= 8"),
    ],
)
def test_a_wrong_specification_is_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SceneSpec.from_dict(mapping)
    assert message in str(caught.value)


def test_the_new_keys_survive_plain_data() -> None:
    for spec in (SIGNS, replace(CROWD, scale=0.5), NEEDLE, WIDE):
        assert SceneSpec.from_dict(spec.to_dict()) == spec


# --- pixels -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def _drawn(glyph: str, x: float, y: float, angle: float) -> Image.Image:
    radius = 0.012 * scale_of("letter")
    sign = Thing("letter", "black", MINIATURE, "plain", x, y, radius, angle, (20, 20, 22), glyph)
    return render(Scene((sign,), WHITE), 896).convert("L")


def _seen(glyph: str, size: int, x: float = 0.5, y: float = 0.5, angle: float = 0.0) -> np.ndarray:
    """The surroundings of a miniature sign, darkness 0 to 1, in a picture of 896 px or in the overview made from it."""
    picture = _drawn(glyph, x, y, angle).resize((size, size), Image.Resampling.BICUBIC)
    side = round(0.017 * size)
    left, top = round(x * size) - side, round(y * size) - side
    return 1 - np.asarray(picture.crop((left, top, left + 2 * side, top + 2 * side))) / 255


def _read_rightly(size: int) -> float:
    """The share of signs that are likest to their own template, wherever they stand and however they are turned."""
    rng = Random(0)
    known = {glyph: _seen(glyph, size) for glyph in GLYPHS}
    right = 0
    for glyph in GLYPHS:
        shown = _seen(glyph, size, rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.randint(-12, 12))
        right += min(known, key=lambda other: float(np.square(known[other] - shown).sum())) == glyph
    return right / len(GLYPHS)


def test_a_miniature_sign_is_read_at_896_and_lost_in_the_overview() -> None:
    assert _read_rightly(896) > 0.97 and _read_rightly(448) > 0.97
    # A picture without noise holds a trace of the sign even then; no more than a trace.
    assert _read_rightly(112) < 0.75 and _read_rightly(64) < 0.3


def test_strokes_survive_at_896_and_run_together_at_112() -> None:
    fine, coarse = ({glyph: _seen(glyph, size) for glyph in GLYPHS} for size in (896, 112))
    for first, second in itertools.combinations(GLYPHS, 2):
        # Where one has a stroke the other has none; in the overview all are gray.
        assert np.abs(fine[first] - fine[second]).max() > 0.8, (first, second)
    assert np.abs(coarse["3"] - coarse["8"]).max() < 0.4 and np.abs(coarse["E"] - coarse["F"]).max() < 0.4
    assert min(crop.max() for crop in fine.values()) > 0.9
    assert max(crop.max() for crop in coarse.values()) < 0.75


def test_miniature_shapes_blur_likewise() -> None:
    def disc(shape: str, size: int) -> np.ndarray:
        radius = RADII[MINIATURE][0] * scale_of(shape)
        thing = Thing(shape, "black", MINIATURE, "plain", 0.5, 0.5, radius, 0.0, (20, 20, 22))
        return 1 - np.asarray(render(Scene((thing,), WHITE), size).convert("L")) / 255

    fine = [disc(shape, 896) for shape in ("circle", "pentagon")]
    coarse = [disc(shape, 64) for shape in ("circle", "pentagon")]
    assert np.abs(fine[0] - fine[1]).max() > 0.8
    assert np.abs(coarse[0] - coarse[1]).max() < 0.2


# --- questions --------------------------------------------------------------------------------------------------


def _said_place(text: str, language: str) -> str:
    """The region that a question names: its longest word for one, for "bottom left" holds "left"."""
    words = [(word, key) for key, entry in PLACES.items() for word in entry.words(language) if word in text.lower()]
    return max(words, key=lambda found: len(found[0]))[1]


def _check(question: Question, scene: Scene) -> None:
    """Reads the question back with the parser, and answers it from the facts."""
    facts = facts_of(scene)
    said = [replace(mention, count=1) for mention in parse(question.text, question.language).mentions]
    answer, language = question.answer, question.language
    if question.family == "reading_place":
        (sign,) = [fact for fact in facts if fact.place == _said_place(question.text, language)]
        assert answer == sign.glyph
    elif question.family == "tally":
        assert answer == str(sum(said[0].fits(fact) for fact in facts))
    else:
        (named,) = [mention for mention in said if mention.size is not None]
        fits = [fact for fact in facts if named.fits(fact)]
        assert named.size == MINIATURE
        if answer in ("yes", "no", "有", "没有"):
            assert (answer in ("yes", "有")) == bool(fits)
            return
        (only,) = fits
        words = [table[key].canonical(language) for table, key in
                 ((COLORS, only.color), (SHAPES, only.shape), (PLACES, only.place))]  # fmt: skip
        assert answer in (*words, only.glyph)


NEEDED = {"reading_place": SIGNS, "tally": CROWD, "finding": NEEDLE}


@settings(max_examples=60, deadline=None)
@given(seeds, languages, st.sampled_from(sorted(NEEDED)), st.sampled_from((0.0, 0.3)))
def test_answers_are_true(seed: int, language: str, family: str, synonyms: float) -> None:
    spec = NEEDED[family]
    scene = sample_scene(seed, spec)
    for question in ask_many(scene, Random(seed), spec, {family: 1}, language, 6, synonyms=synonyms):
        assert question.answer in question.choices
        _check(question, scene)


@pytest.mark.parametrize("family", ["tally", "finding"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_scene_made_for_them_can_be_asked(family: str, language: str) -> None:
    spec = NEEDED[family]
    assert all(ask_many(sample_scene(seed, spec), Random(seed), spec, {family: 1}, language, 1) for seed in range(200))


def test_other_scenes_carry_none() -> None:
    plain = SceneSpec()
    for family in NEEDED:
        assert all(ask(sample_scene(seed, plain), family, "en", Random(seed), plain) is None for seed in range(20))


def _answers(family: str, spec: SceneSpec, scenes: int) -> dict[tuple[str, ...], Counter[str]]:
    found: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for seed in range(scenes):
        question = ask(sample_scene(seed, spec), family, "en", Random(seed), spec)
        if question is not None:
            found[question.choices][question.answer] += 1
    return found


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("tally", replace(CROWD, max_things=20)),
        ("reading_place", WIDE),
        ("finding", replace(NEEDLE, min_things=3, max_things=5)),
        ("finding", replace(NEEDLE, min_things=3, max_things=5, habit=Habit(("circle", "red"), ("star", "blue")))),
    ],
    ids=["tally", "reading_place", "finding", "finding-habit"],
)
def test_every_answer_comes_alike(family: str, spec: SceneSpec) -> None:
    for choices, answers in _answers(family, spec, 1200).items():
        total = answers.total()
        if total < 200:
            continue
        even = total / len(choices)
        # The statistic's mean is the degrees of freedom and its variance twice that: four standard deviations.
        freedom = len(choices) - 1
        spread = sum((answers[choice] - even) ** 2 for choice in choices) / even
        assert spread < freedom + 4 * (2 * freedom) ** 0.5, (choices, answers)


def test_under_a_habit_no_colour_is_asked_of_a_shape() -> None:
    spec = replace(NEEDLE, habit=Habit(("circle", "red"), ("star", "blue")))
    for choices in _answers("finding", spec, 150):
        assert not set(choices) & {*COLORS, *SHAPES}


def test_three_sizes_are_asked_for_and_compared() -> None:
    spec = SceneSpec(sizes=(MINIATURE, "small", "large"), min_things=2, max_things=3)
    sizes: Counter[str] = Counter()
    for seed in range(400):
        scene = sample_scene(seed, spec)
        facts = facts_of(scene)
        asked = ask(scene, "size", "en", Random(seed), spec)
        if asked is not None:
            assert asked.choices == (MINIATURE, "small", "large") and "or" not in asked.text.split()
            sizes[asked.answer] += 1
        compared = ask(scene, "comparison", "en", Random(seed), spec, synonyms=0.0)
        if compared is not None and compared.choices == ("larger", "smaller"):
            a, b = ([fact for fact in facts if replace(said, count=1).fits(fact)]
                    for said in parse(compared.text, "en").mentions)  # fmt: skip
            larger = RADII[a[0].size] > RADII[b[0].size]
            assert len(a) == len(b) == 1 and compared.answer == ("larger" if larger else "smaller")
    assert set(sizes) == {MINIATURE, "small", "large"}


# --- words ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, languages, st.sampled_from(DETAILS), st.sampled_from((0.0, 1.0)), st.sampled_from((CROWD, NEEDLE, WIDE)))
def test_what_is_described_is_read_back(
    seed: int, language: str, detail: str, synonyms: float, spec: SceneSpec
) -> None:
    scene = sample_scene(seed, spec)
    text = describe(scene, language, detail, Random(seed), synonyms)
    assert parse(text, language) == described_facts(scene, detail), text


def test_a_caption_may_name_as_many_things_as_there_are() -> None:
    scene = sample_scene(1, replace(CROWD, min_things=40))
    score = score_caption("40 miniature things", scene, "en")
    assert (score.named, score.right, score.missed) == (40, 40, 0)
    assert parse("a tiny star", "en").mentions == (Mention(shape="star", size="small"),)


# --- the data source --------------------------------------------------------------------------------------------


def snippets() -> list[dict[str, Any]]:
    """The ``data`` sections that docs/data.md shows for high resolution."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = text.split("## Pictures that need high resolution")[1].split("\n## ")[0]
    return [yaml.safe_load(block.split("```")[0])["data"] for block in shown.split("```yaml\n")[1:]]


def test_the_documents_show_all_four() -> None:
    assert len(snippets()) == 4


@pytest.mark.parametrize("number", range(4))
def test_the_documented_sections_give_questions(number: int) -> None:
    section = snippets()[number]
    assert section.pop("type") == "world"
    options = WorldOptions.model_validate({**section, "image_size": 448})
    for sample in options.open(0).group(3):
        (picture,) = sample.pictures()
        assert min(picture.load().size) == 448
        assert not sample.meta["choices"] or sample.answer in sample.meta["choices"]
