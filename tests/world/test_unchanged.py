"""What was drawn, asked and painted once stays so: a change here makes every published score incomparable."""

from __future__ import annotations

import hashlib
from random import Random

import numpy as np
import pytest
from PIL import Image

from sightling.world.describe import DETAILS, describe
from sightling.world.questions import ask_many
from sightling.world.render import render
from sightling.world.scenes import Habit, SceneSpec, sample_scene

QUICKSTART = SceneSpec(
    textured=0.0,
    shapes=("circle", "square", "triangle", "star", "cross", "heart"),
    colors=("red", "orange", "yellow", "green", "blue", "purple", "black", "white"),
)
"""The scenes of the recipe ``quickstart``."""

VARIED = SceneSpec(
    max_things=6, letters=0.2, textured=0.5, min_aspect=0.5, max_aspect=2.0,
    habit=Habit(("circle", "red"), ("star", "yellow")),
)  # fmt: skip

FAMILIES = ("existence", "color", "shape", "size", "count", "place", "relation", "comparison", "reading", "caption",
            "description")  # fmt: skip

SEEDS = range(30)


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("spec", "scenes", "questions", "texts"),
    [
        (QUICKSTART, "63c6e02d3d656252", "6189f11e7335a6a7", "6148607a592959a6"),
        (VARIED, "90552ab078e0a27f", "3fbe22f9e2e73c68", "69df0c69b562bb35"),
    ],
    ids=["quickstart", "varied"],
)
def test_scenes_and_words_are_those_of_old(spec: SceneSpec, scenes: str, questions: str, texts: str) -> None:
    drawn = [sample_scene(seed, spec) for seed in SEEDS]
    assert digest([repr(scene) for scene in drawn]) == scenes
    weights = dict.fromkeys(FAMILIES, 1.0)
    asked = [
        repr(question)
        for seed, scene in zip(SEEDS, drawn)
        for language in ("en", "zh")
        for question in ask_many(scene, Random(seed), spec, weights, language, 10, synonyms=0.3)
    ]
    assert digest(asked) == questions
    told = [
        describe(scene, language, detail, Random(seed), 0.5)
        for seed, scene in zip(SEEDS, drawn)
        for language in ("en", "zh")
        for detail in DETAILS
    ]
    assert digest(told) == texts


@pytest.mark.parametrize(
    ("spec", "seed", "expected"),
    [
        (QUICKSTART, 3, [90, 90, 111, 96, 90, 90, 179, 147, 92, 90, 92, 90, 126, 107, 90, 90]),
        (QUICKSTART, 8, [132, 132, 132, 132, 132, 123, 118, 132, 132, 127, 94, 128, 132, 132, 132, 132]),
        (VARIED, 5, [251, 251, 249, 251, 243, 151, 208, 185, 236, 236, 234, 236, 227, 223, 228, 228]),
    ],
)
def test_pictures_are_those_of_old(spec: SceneSpec, seed: int, expected: list[int]) -> None:
    # Mean reds of a grid of 4 x 4: whole bytes would hang on the version of Pillow, these do not.
    small = render(sample_scene(seed, spec), 128).resize((4, 4), Image.Resampling.BOX)
    assert np.abs(np.asarray(small)[..., 0].ravel().astype(int) - expected).max() <= 1
