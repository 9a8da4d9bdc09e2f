"""Scoring captions: the truth scores full, and each kind of untruth is counted once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.world.captions import CaptionScore, score_caption
from sightling.world.describe import DETAILS, describe
from sightling.world.scene import Background, Scene, Thing
from sightling.world.scenes import SceneSpec, sample_scene


def _thing(shape: str, color: str, size: str, x: float, y: float, texture: str = "plain") -> Thing:
    return Thing(shape, color, size, texture, x, y, 0.1, 0.0, (0, 0, 0))


SCENE = Scene(
    (_thing("circle", "red", "small", 0.2, 0.2), _thing("circle", "red", "large", 0.8, 0.2),
     _thing("star", "blue", "small", 0.5, 0.8, "striped")),
    Background("plain", (255, 255, 255), (255, 255, 255), 0),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), language=st.sampled_from(("en", "zh")), detail=st.sampled_from(DETAILS))
def test_true_descriptions_are_all_right(seed: int, language: str, detail: str) -> None:
    scene = sample_scene(seed, SceneSpec(letters=0.2, max_things=6))
    count = len(scene.things)
    assert score_caption(describe(scene, language, detail, Random(seed)), scene, language) == CaptionScore(
        count, count, 0, 0
    )


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("a red circle", (1, 1, 0, 2)),
        ("two red circles and a blue star", (3, 3, 0, 0)),
        ("three red circles", (3, 2, 1, 1)),
        ("a large red circle and a red circle", (2, 2, 0, 1)),
        ("a red circle and a large red circle", (2, 2, 0, 1)),
        ("two large red circles", (2, 1, 1, 2)),
        ("a green star", (1, 0, 1, 3)),
        ("a blue star at the top", (1, 0, 1, 3)),
        ("a blue star at the bottom", (1, 1, 0, 2)),
        ("9999 circles", (12, 2, 10, 1)),
        ("no green square", (0, 0, 0, 3)),
        ("three things", (0, 0, 0, 3)),
        ("", (0, 0, 0, 3)),
        ("blah blah", (0, 0, 0, 3)),
    ],
)
def test_each_untruth_is_counted(text: str, score: tuple[int, int, int, int]) -> None:
    assert score_caption(text, SCENE, "en") == CaptionScore(*score)


def test_the_matching_is_the_best_one() -> None:
    # Taken greedily, "a circle" would use up the only large one.
    text = "a circle, a star and a large circle"
    assert score_caption(text, Scene(SCENE.things[::-1], SCENE.background), "en") == CaptionScore(3, 3, 0, 0)
