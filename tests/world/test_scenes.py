from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.errors import UserError
from sightling.world import lexicon
from sightling.world.colors import JITTER, distance, jittered, middle, nearest_color
from sightling.world.outlines import scale_of
from sightling.world.render import boxes
from sightling.world.scene import Scene
from sightling.world.scenes import MOST_THINGS, RADII, Habit, SceneSpec, sample_scene

PLAIN = SceneSpec()
RICH = SceneSpec(letters=0.3, textured=0.5, max_things=6, min_aspect=0.5, max_aspect=2.0)


@cache
def scenes(spec: SceneSpec, count: int) -> list[Scene]:
    return [sample_scene(seed, spec) for seed in range(count)]


# --- determinism ---


def test_a_seed_is_the_same_scene_in_every_process() -> None:
    code = (
        "import sys; from sightling.world.scenes import *; spec = SceneSpec.from_dict(eval(sys.argv[1]));"
        "print([sample_scene(seed, spec) for seed in range(5)])"
    )
    told = repr(RICH.to_dict())
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    run = subprocess.run(
        [sys.executable, "-c", code, told], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == repr(scenes(RICH, 5))


def test_a_golden_scene_stays_what_it_was() -> None:
    # A change here makes every published score on these scenes incomparable: change it knowingly.
    scene = sample_scene(3, PLAIN)
    assert [(t.size, t.texture, t.color, t.shape, t.x, t.y) for t in scene.things] == GOLDEN
    assert scene.background.kind == "checker"


GOLDEN = [("small", "striped", "black", "ring", 0.2956, 0.2344), ("large", "plain", "white", "heart", 0.5188, 0.5357)]


def test_different_seeds_are_different_scenes() -> None:
    assert len({repr(scene) for scene in scenes(PLAIN, 200)}) == 200


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="0 or more"):
        sample_scene(-1, PLAIN)


# --- what is drawn by lot ---


def test_the_number_of_things_is_uniform() -> None:
    counts = Counter(len(scene.things) for scene in scenes(PLAIN, 2000))
    assert set(counts) == {1, 2, 3, 4}
    assert all(abs(count / 2000 - 0.25) < 0.035 for count in counts.values())


def test_shapes_colors_and_sizes_are_uniform() -> None:
    things = [thing for scene in scenes(PLAIN, 2000) for thing in scene.things]
    for attribute, choices in (("shape", PLAIN.shapes), ("color", PLAIN.colors), ("size", PLAIN.sizes)):
        counts = Counter(getattr(thing, attribute) for thing in things)
        assert set(counts) == set(choices)
        for choice in choices:
            assert counts[choice] / len(things) == pytest.approx(1 / len(choices), rel=0.2), choice


def test_groups_give_every_count_up_to_the_most() -> None:
    colors = [Counter(thing.color for thing in scene.things) for scene in scenes(PLAIN, 2000)]
    shapes = [Counter(thing.shape for thing in scene.things) for scene in scenes(PLAIN, 2000)]
    for counters in (colors, shapes):
        seen = Counter(count for counter in counters for count in counter.values())
        assert set(seen) == {1, 2, 3, 4}
        assert seen[4] > 40
    alone = [Counter(t.color for t in scene.things) for scene in scenes(SceneSpec(repeat=0.0), 1000)]
    assert sum(max(counter.values()) == 4 for counter in alone) < 5


def test_letters_and_textures_follow_their_shares() -> None:
    spec = SceneSpec(letters=0.3, textured=0.5, repeat=0.0)
    things = [thing for scene in scenes(spec, 1500) for thing in scene.things]
    letters = [thing for thing in things if thing.shape == "letter"]
    assert len(letters) / len(things) == pytest.approx(0.3, abs=0.03)
    assert {thing.glyph for thing in letters} == set(lexicon.GLYPHS)
    assert all(thing.texture == "plain" for thing in letters)
    others = [thing for thing in things if thing.shape != "letter"]
    assert all(thing.glyph == "" for thing in others)
    assert sum(thing.texture != "plain" for thing in others) / len(others) == pytest.approx(0.5, abs=0.04)


def test_a_spec_without_plain_has_texture_always() -> None:
    spec = SceneSpec(textures=("striped", "dotted"), textured=0.0)
    assert {thing.texture for scene in scenes(spec, 50) for thing in scene.things} == {"striped", "dotted"}


# --- what a person must be able to see ---


def test_small_and_large_are_well_apart_for_every_shape() -> None:
    for scene in scenes(RICH, 300):
        for thing in scene.things:
            low, high = RADII[thing.size]
            disc = thing.radius / scale_of(thing.shape)
            assert low * 0.99 <= disc <= high * 1.01
    assert RADII["large"][0] >= 1.5 * RADII["small"][1]


@pytest.mark.parametrize("spec", [PLAIN, RICH, SceneSpec(min_things=MOST_THINGS, max_things=MOST_THINGS)])
def test_things_stay_inside_and_hardly_hide_one_another(spec: SceneSpec) -> None:
    size = 1000
    for scene in scenes(spec, 40):
        found = boxes(scene, size)
        width, height = max(1, scene.aspect) * size, max(1, 1 / scene.aspect) * size
        for left, top, right, bottom in found:
            edge = spec.margin * size - 1
            assert left >= edge and top >= edge and right <= width - edge and bottom <= height - edge
        for (a, first), (b, second) in itertools.combinations(zip(found, scene.things), 2):
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            assert shared <= (0 if first.color == second.color else spec.max_overlap + 0.005) * smaller


def test_twelve_large_things_still_find_room() -> None:
    spec = SceneSpec(min_things=12, max_things=12, sizes=("large",))
    scene = sample_scene(0, spec)
    assert len(scene.things) == 12 and {thing.size for thing in scene.things} == {"large"}


def test_every_thing_contrasts_with_its_background() -> None:
    contrasts = [
        min(distance(thing.shade, ground) for thing in scene.things for ground in grounds)
        for scene in scenes(PLAIN, 800)
        for grounds in [(scene.background.first, scene.background.second)]
    ]
    assert min(contrasts) > 18
    assert sum(contrast < 30 for contrast in contrasts) < 0.03 * len(contrasts)


def test_a_white_thing_is_never_on_white() -> None:
    for scene in scenes(SceneSpec(colors=("white", "yellow", "gray")), 300):
        if any(thing.color == "white" for thing in scene.things):
            assert min(scene.background.first) < 200


def test_jitter_never_changes_a_colors_name() -> None:
    rng = random.Random(0)
    for color in lexicon.COLORS:
        for _ in range(60):
            shade = jittered(color, rng)
            assert nearest_color(shade) == color
            assert all(abs(a - b) <= JITTER for a, b in zip(shade, middle(color)))


def test_colors_are_well_apart() -> None:
    for first, second in itertools.combinations(lexicon.COLORS, 2):
        assert distance(middle(first), middle(second)) > 38, (first, second)


def test_backgrounds_are_all_used() -> None:
    assert {scene.background.kind for scene in scenes(PLAIN, 100)} == set(lexicon.BACKGROUNDS)
    assert {scene.background.kind for scene in scenes(SceneSpec(backgrounds=("grid",)), 20)} == {"grid"}


# --- the habit ---


def has(scene: Scene, shape: str | None, color: str | None) -> bool:
    return any(shape in (None, thing.shape) and color in (None, thing.color) for thing in scene.things)


@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        (("circle", "red"), ("star", "yellow")),
        (("square", "red"), (None, "blue")),
        (("letter", None), ("ring", None)),
    ],
)
def test_the_habit_has_the_frequencies_it_was_given(
    cause: tuple[str | None, str | None], effect: tuple[str | None, str | None]
) -> None:
    habit = Habit(cause, effect, probability=0.8, otherwise=0.1, share=0.4)
    drawn = scenes(SceneSpec(min_things=2, habit=habit, letters=0.1), 1500)
    caused = [scene for scene in drawn if has(scene, *cause)]
    free = [scene for scene in drawn if not has(scene, *cause)]
    assert len(caused) / len(drawn) == pytest.approx(0.4, abs=0.04)
    assert sum(has(scene, *effect) for scene in caused) / len(caused) == pytest.approx(0.8, abs=0.05)
    assert sum(has(scene, *effect) for scene in free) / len(free) == pytest.approx(0.1, abs=0.03)


def test_the_habit_leaves_the_number_of_things_alone() -> None:
    habit = Habit(("circle", "red"), ("star", "yellow"))
    drawn = scenes(SceneSpec(habit=habit), 1500)
    counts = Counter(len(scene.things) for scene in drawn)
    assert all(abs(count / 1500 - 0.25) < 0.04 for count in counts.values())
    assert not any(has(scene, "circle", "red") for scene in drawn if len(scene.things) == 1)


def test_without_a_habit_the_two_are_independent() -> None:
    drawn = scenes(SceneSpec(min_things=3, repeat=0.0, colors=("red", "blue", "green")), 1500)
    caused = [scene for scene in drawn if has(scene, None, "red")]
    free = [scene for scene in drawn if not has(scene, None, "red")]
    # Taking red away leaves more room for blue, never the reverse.
    assert sum(has(s, None, "blue") for s in caused) / len(caused) < sum(has(s, None, "blue") for s in free) / len(free)


# --- specs as data ---


def subsets(table: Any) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(sorted(table)), min_size=1, unique=True).map(tuple)


specs = st.builds(
    lambda low, more, **rest: SceneSpec(min_things=low, max_things=min(low + more, 6), **rest),
    low=st.integers(1, 6),
    more=st.integers(0, 5),
    shapes=subsets(PLAIN.shapes),
    colors=subsets(PLAIN.colors),
    sizes=subsets(PLAIN.sizes),
    textures=subsets(PLAIN.textures),
    backgrounds=subsets(PLAIN.backgrounds),
    letters=st.floats(0, 1),
    textured=st.floats(0, 1),
    repeat=st.floats(0, 1),
    max_overlap=st.floats(0, 0.3),
    min_aspect=st.floats(0.25, 1),
    max_aspect=st.floats(1, 4),
)


@given(specs, st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_every_valid_spec_survives_json_and_gives_scenes(spec: SceneSpec, seed: int) -> None:
    again = SceneSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    scene = sample_scene(seed, spec)
    assert sample_scene(seed, again) == scene
    assert spec.min_things <= len(scene.things) <= spec.max_things
    for thing in scene.things:
        assert thing.shape in (*spec.shapes, "letter") and thing.color in spec.colors and thing.size in spec.sizes


def test_a_spec_with_a_habit_survives_json() -> None:
    spec = SceneSpec(habit=Habit(("circle", None), ("star", "red")))
    assert SceneSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"max_thing": 3}, "unknown key 'max_thing'; did you mean 'max_things'"),
        ({"colors": ["red", "bleu"]}, "colors has no 'bleu'; did you mean 'blue'"),
        ({"shapes": []}, "shapes must name at least one of circle"),
        ({"shapes": ["letter"]}, "set letters"),
        ({"shapes": "circle"}, "shapes must be a list of names, not 'circle'"),
        ({"shapes": ["star", "star"]}, "names something twice"),
        ({"min_things": 5}, "min_things 5 and max_things 4"),
        ({"min_things": 0}, "1 <= min_things"),
        ({"max_things": 2.5}, "max_things must be a whole number, not 2.5"),
        ({"max_things": True}, "max_things must be a whole number, not True"),
        ({"max_things": 99}, "<= 12"),
        ({"repeat": 1.5}, "repeat must lie between 0 and 1, not 1.5"),
        ({"letters": float("nan")}, "letters must lie between 0 and 1"),
        ({"max_aspect": 9}, "max_aspect 9"),
        ({"habit": {"cause": ["circle", "red"]}}, "habit: effect is missing"),
        ({"habit": {"cause": ["circle", "red"], "effect": ["star"]}}, "a shape and a colour"),
        ({"habit": {"cause": ["circle", "red"], "effect": ["starr", "red"]}}, "like the effect"),
        ({"habit": {"cause": ["circle", None], "effect": [None, "red"]}}, "both cause"),
        ({"habit": {"cause": ["circle", "red"], "effect": ["star", "red"], "chance": 1}}, "unknown key 'chance'"),
        ({"habit": {"cause": ["circle", "red"], "effect": ["star", "red"], "share": 2}}, "habit: share must lie"),
        ({"habit": 3}, "habit must be a mapping"),
        (
            {"shapes": ["circle", "star"], "habit": {"cause": ["circle", None], "effect": ["star", None]}},
            "every thing of the spec is cause or effect",
        ),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SceneSpec.from_dict(mapping)
    assert message in str(caught.value) and "\n" not in str(caught.value)
