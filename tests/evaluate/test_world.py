from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.data.world import WorldOptions
from sightling.errors import UserError
from sightling.evaluate.metrics import Majority, is_right
from sightling.evaluate.world import (
    LEARNING,
    RESERVED,
    asked_families,
    check_caption,
    held_out,
    world_items,
    world_majority,
)
from sightling.train.order import derive_seed
from sightling.train.recipe import parse_recipe
from sightling.world.describe import describe
from sightling.world.scenes import SceneSpec, sample_scene

OPTIONS = WorldOptions(image_size=32, scene={"textured": 0.0})
FAMILIES = ("existence", "color", "shape", "count", "relation", "caption")


def test_held_out_seeds_lie_beyond_every_training_seed() -> None:
    recipe = parse_recipe(
        {
            "name": "r",
            "model": {},
            "stages": {
                f"s{number}": {
                    "objective": {"type": "answer"}, "data": {"type": "world"}, "train": {"encoder": True},
                    "learning_rate": 0.1, "max_steps": 1, "seed": number,
                }
                for number in range(5)
            },
        },
        "r.yaml",
    )  # fmt: skip
    source = held_out(OPTIONS, 3, recipe)
    assert source.seed == RESERVED + 3
    trained = {
        OPTIONS.open(derive_seed(number, f"s{number}"))._seed(index) for number in range(5) for index in (0, LEARNING)
    }
    assert all(source._seed(index) > max(trained) + LEARNING for index in (0, LEARNING))


def test_questions_are_the_same_every_time_and_differ_by_seed() -> None:
    def texts(seed: int) -> list[tuple[str, str]]:
        items = world_items(held_out(OPTIONS, seed, None), dict.fromkeys(FAMILIES, 1), 5)
        return [(item.text, item.answers[0]) for item in items]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_each_question_is_asked_in_both_languages_with_the_same_answer() -> None:
    items = world_items(held_out(OPTIONS, 1, None), dict.fromkeys(FAMILIES, 1), 12)
    pairs = list(zip(items[::2], items[1::2]))
    assert len(items) % 2 == 0
    for english, chinese in pairs:
        assert (english.language, chinese.language) == ("en", "zh")
        assert (english.family, english.picture) == (chinese.family, chinese.picture)
        assert english.sample.turns[0].pictures == chinese.sample.turns[0].pictures
        if english.choices:
            assert english.choices.index(english.answers[0]) == chinese.choices.index(chinese.answers[0])
        assert english.is_caption == (english.family == "caption")


def test_a_family_is_asked_as_often_as_told() -> None:
    source = held_out(OPTIONS, 1, None)
    once = world_items(source, {"color": 1}, 10)
    more = world_items(source, {"color": 4}, 10)
    assert len(once) < len(more) <= 80
    texts = [(item.picture, item.text) for item in more]
    assert len(set(texts)) == len(texts)


def test_families_are_those_of_the_data_unless_told() -> None:
    assert asked_families(WorldOptions(families={"shape": 1, "color": 0.5, "size": 0}), None) == {
        "color": 1,
        "shape": 1,
    }
    assert asked_families(OPTIONS, {"relation": 3}) == {"relation": 3}
    with pytest.raises(UserError, match="did you mean 'color'"):
        asked_families(OPTIONS, {"colour": 1})


def test_the_majority_guesser_is_near_chance() -> None:
    source = held_out(OPTIONS, 1, None)
    families = {"existence": 1, "relation": 1, "color": 1}
    majority: Majority = world_majority(source, families, scenes=200)
    items = world_items(source, families, 150)
    for family, most in (("existence", 0.62), ("relation", 0.62), ("color", 0.25)):
        own = [item for item in items if item.family == family and item.language == "en"]
        hits = [is_right(majority.guess(family, "en", item.choices, item.text), item.answers) for item in own]
        assert 0 < sum(hits) / len(hits) < most


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from(["en", "zh"]),
    st.sampled_from(["short", "detailed"]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_listed_is_what_is_counted(seed: int, other: int, language: str, detail: str) -> None:
    spec = SceneSpec()
    scene = sample_scene(seed, spec)
    said = describe(sample_scene(other, spec), language, detail, Random(0))
    check = check_caption(said, scene, language)
    assert len(check.absent) == check.score.absent
    assert len(check.missed) == check.score.missed
    true = check_caption(describe(scene, language, detail, Random(1)), scene, language)
    assert (true.absent, true.missed) == ((), ())


def test_made_up_and_missed_things_have_their_names() -> None:
    scene = next(
        scene
        for scene in (sample_scene(seed, SceneSpec(textured=0.0)) for seed in range(1000))
        if len(scene.things) == 1
    )
    thing = scene.things[0]
    other = "square" if thing.shape != "square" else "star"
    check = check_caption(f"There is a {thing.color} {other} and a {thing.color} {thing.shape}.", scene, "en")
    assert check.absent == (f"{thing.color} {other}",)
    assert check.missed == ()
    assert check_caption("", scene, "en").missed == (f"{thing.size} {thing.color} {thing.shape}",)
