"""The recipes of the originals' full sizes: valid up to their data, and as many parameters as were published.

Nothing is allocated and no weight is read: parameters are counted on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from sightling.errors import UserError
from sightling.model.build import check_model, sizes
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.parameters import count_parameters
from sightling.model.templates import TEMPLATES
from sightling.sight.encoders import TOWERS, tower_config
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.recipe import Recipe, TrainStage, load_recipe

LLAMA_7B, LLAMA_13B = 6_738_415_616, 13_015_864_320
"""LLaMA (2023, table 2) has "6.7B" and "13.0B"; Vicuna and LLaMA-2-7B are the same."""

CLIP_L, CLIP_L_336 = 303_179_776, 303_507_456
"""CLIP ViT-L/14 (2021): LLaVA-NeXT's authors count 303.5M."""

EVA_G = 985_952_256
"""EVA ViT-g/14 without its last layer, as transformers' BLIP-2 holds it."""


@dataclass(frozen=True)
class Published:
    """What was counted of an original.

    Attributes:
        source: where.
        count: how many parameters, as exactly as it was told.
        parts: which of ours it counts.
        apart: what ours has less, parameter by parameter; negative where it has more.
        digits: how far it is told, in digits behind the million; to the last one where left out.
    """

    source: str
    count: float
    parts: tuple[str, ...] = ("encoder", "connector", "language_model")
    apart: int = 0
    digits: int | None = None


NO_ENCODER = ("connector", "language_model")
WORDS = ("language_model",)

PUBLISHED: dict[str, list[Published]] = {
    "minimind-v-small": [
        Published("MiniMind-V's count of what it trains", 27.27e6, NO_ENCODER, digits=2),
        Published("MiniMind's", 26.88e6, WORDS, digits=2),
    ],
    "minimind-v": [
        Published("MiniMind-V's count of what it trains", 109.34e6, NO_ENCODER, digits=2),
        Published("MiniMind's", 108.75e6, WORDS, digits=2),
    ],
    "minimind-3v": [
        Published("MiniMind-3V, README", 65.09e6, NO_ENCODER, digits=2),
        Published("MiniMind-3", 63.91e6, WORDS, digits=2),
    ],
    "minimind-3v-moe": [Published("MiniMind-3V, README", 199.60e6, NO_ENCODER, digits=2)],
    "llava": [
        Published("Vicuna-13B", LLAMA_13B, WORDS),
        Published("CLIP ViT-L/14", CLIP_L, ("encoder",)),
        Published("a matrix of 1,024 x 5,120 and a bias", 1024 * 5120 + 5120, ("connector",)),
    ],
    # The released files have a vocabulary of 32,064, of which the last rows mean nothing.
    "llava-1.5": [Published("llava-hf/llava-1.5-7b-hf, 7.06B", 7_063_427_072, apart=64 * 2 * 4096)],
    "llava-1.5-hd": [
        Published("the paper: 13B", 13e9, digits=-3),
        Published("Vicuna-13B", LLAMA_13B, WORDS),
        Published("CLIP ViT-L/14", CLIP_L, ("encoder",)),
        Published("two matrices with biases and a row's end", 1024 * 5120 + 5120**2 + 3 * 5120, ("connector",)),
    ],
    "llava-next": [
        Published("llava-hf/llava-v1.6-vicuna-7b-hf, 7.06B", 7_063_431_168, apart=64 * 2 * 4096),
        Published("the project's table: 303.5M", 303.5e6, ("encoder",), digits=1),
        Published("the project's table: 21M", 21e6, ("connector",), digits=0),
    ],
    # transformers' BLIP-2 has 50,304 rows of words.
    "blip-2": [
        Published("Salesforce/blip2-opt-2.7b, 3.74B", 3_744_761_856, apart=32 * 2560),
        Published("the tower of Salesforce/blip2-opt-2.7b", EVA_G, ("encoder",)),
        Published("its paper's 107M that stage 2 trains", 107e6, ("connector",), digits=0),
    ],
    "minigpt-4": [
        Published("Vicuna-13B", LLAMA_13B, WORDS),
        Published("the tower of Salesforce/blip2-opt-2.7b", EVA_G, ("encoder",)),
        Published("BLIP-2's queries and Q-Former, 768 x 5,120 and a bias", 105_162_240 + 769 * 5120, ("connector",)),
    ],
    "minigpt-v2": [
        Published("LLaMA-2-7B", LLAMA_7B, WORDS),
        Published("the same tower with 768 more places", EVA_G, ("encoder",), apart=-768 * 1408),
        Published("four features of 1,408 to 4,096 and a bias", 4 * 1408 * 4096 + 4096, ("connector",)),
    ],
    "internvl2": [Published("OpenGVLab/InternVL2-2B, 2.21B", 2_205_754_368)],
    # Its vocabulary is 151,666, of which Qwen2-7B has rows up to 152,064.
    "minicpm-v": [Published("openbmb/MiniCPM-V-2_6, 8.1B", 8_099_175_152, apart=-398 * 2 * 3584)],
    # Ours has a CLS token, 769 more places and CLIP's last norm, and keeps no table of the resampler's places.
    "qwen-vl": [
        Published("Qwen/Qwen-VL, 9.6B", 9_656_935_168, apart=256 * 4096 - 1664 - 769 * 1664 - 2 * 1664),
        Published("the paper, table 1: 7.7B", 7.7e9, WORDS, digits=-2),
    ],
    "qwen3-vl": [Published("Qwen/Qwen3-VL-2B-Instruct, 2.13B", 2_127_532_032)],
    # The original trains 32,003 embeddings too; its eight gated layers read a width of 1,024, ours one of 4,096 that a
    # matrix makes first.
    "flamingo": [
        Published(
            "what OpenFlamingo prints that it trains of its 9B with LLaMA-7B", 1_309_919_248, ("connector",),
            apart=32_003 * 4096 - 8 * 1024 * (4096 - 1024) - (1024 * 4096 + 4096),
        ),
        Published("LLaMA-7B", LLAMA_7B, WORDS),
    ],
    "expert": [Published("Vicuna-7B, and nothing beside it", LLAMA_7B)],
}  # fmt: skip

STAGES = {
    "minimind-v-small": {"pretrain": (128, 4e-4), "instruct": (32, 1e-6), "two-pictures": (32, 1e-6)},
    "minimind-v": {"pretrain": (90, 3e-4), "instruct": (32, 1e-6), "two-pictures": (32, 1e-6)},
    "minimind-3v": {"pretrain": (16, 4e-4), "instruct": (4, 5e-6)},
    "minimind-3v-moe": {"pretrain": (16, 4e-4), "instruct": (4, 5e-6)},
    "llava": {"align": (128, 2e-3), "instruct": (32, 2e-5)},
    "llava-1.5": {"align": (256, 1e-3), "instruct": (128, 2e-5)},
    "llava-1.5-hd": {"align": (256, 1e-3), "instruct": (128, 2e-5)},
    "llava-next": {"align": (256, 1e-3), "instruct": (128, 1e-5)},
    "blip-2": {"represent": (1680, 1e-4), "generate": (1920, 1e-4)},
    "minigpt-4": {"represent": (1680, 1e-4), "align": (256, 1e-4), "curate": (12, 3e-5)},
    "minigpt-v2": {"pretrain": (96, 1e-4), "tasks": (64, 1e-5), "instruct": (24, 1e-5)},
    "internvl2": {"align": (2048, 2e-5), "instruct": (1024, 4e-5)},
    "qwen-vl": {"align": (30720, 2e-4), "tasks": (4096, 5e-5), "instruct": (128, 1e-5)},
    "flamingo": {"pretrain": (64 * 96, 1e-4)},
    "expert": {"instruct": (128, 2e-5)},
}
"""Samples an update and learning rates, where the originals tell them."""

PICTURES = {
    "minimind-v-small": ((500, 300), 50),
    "minimind-v": ((500, 300), 50),
    "minimind-3v": ((500, 300), 64),
    "minimind-3v-moe": ((500, 300), 64),
    "llava": ((500, 300), 256),
    "llava-1.5": ((500, 300), 576),
    "llava-1.5-hd": ((448, 448), 256 + 32 * 32 + 32),
    "llava-next": ((672, 672), 2928),
    "blip-2": ((500, 300), 32),
    "minigpt-4": ((500, 300), 32),
    "minigpt-v2": ((500, 300), 256),
    "internvl2": ((800, 800), 1280),
    "minicpm-v": ((448, 448), 64),
    "qwen-vl": ((500, 300), 256),
    "qwen3-vl": ((1024, 512), 512),
    "flamingo": ((500, 300), 1),
}
"""A picture's size and the placeholders that it takes."""


@cache
def recipe(name: str) -> Recipe:
    """A packaged recipe; nobody changes it."""
    return load_recipe(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_as_many_parameters_as_were_published(name: str) -> None:
    counts = count_parameters(recipe(name).model)
    for published in PUBLISHED[name]:
        ours = sum(counts[part] for part in published.parts) + published.apart
        if published.digits is None:
            assert ours == published.count, published.source
        else:
            assert round(ours / 1e6, published.digits) == round(published.count / 1e6, published.digits), published


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_valid_and_lacks_nothing_but_its_data(name: str) -> None:
    told = recipe(name)
    section = check_model(told.model)
    # Sizes stand beside what is loaded, so that parameters are known before anything is fetched.
    for part in (section.encoder, section.language_model):
        assert part == {"type": "none"} or ("type" in part and "pretrained" in part)
    control = set(TEMPLATES.get(section.template).control)
    checked = check_recipe(told)
    assert checked
    for stage in checked.values():
        assert isinstance(stage, CheckedStage)
        spoken = getattr(stage.options, "template", None)
        assert spoken is None or set(TEMPLATES.get(spoken).control) <= control
        options: Any = stage.data
        with pytest.raises(UserError, match=r"data/"):
            options.check()


@pytest.mark.parametrize("name", STAGES)
def test_its_updates_and_rates_are_the_originals(name: str) -> None:
    found = {}
    for key, stage in recipe(name).stages.items():
        assert isinstance(stage, TrainStage)
        batch = stage.per_device_train_batch_size * stage.gradient_accumulation_steps
        found[key] = (batch, stage.learning_rate)
    assert found == STAGES[name]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_takes_as_many_tokens_as_in_the_original(name: str) -> None:
    section = check_model(recipe(name).model)
    tower = tower_config(sizes(section.tower()))
    kind = TOWERS[tower.model_type]
    size, count = PICTURES[name]
    pictures = VisionLanguageImageProcessor(
        image_size=kind.image_size(tower),
        patch_size=kind.patch_size(tower),
        extra_features=int(section.encoder_options().get("keep_cls", False)),
        tiling=section.tiling,
        connector=section.connector,
    )
    assert pictures.count(*size) == count


def test_every_full_recipe_is_told_about_here() -> None:
    assert set(PUBLISHED) == set(PICTURES) | {"expert"} and set(STAGES) == set(PUBLISHED) - {"minicpm-v", "qwen3-vl"}
