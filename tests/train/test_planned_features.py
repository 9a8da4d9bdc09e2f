"""A plan of a stage that keeps features, against what a real one runs and leaves on the disk."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planned import REST, WORLD, grown, planned, recipe
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from sightling.errors import UserError
from sightling.train.dry import ATTENTION
from sightling.train.features.store import FeatureStore, entry_bytes
from sightling.train.plan_text import show
from sightling.train.planned_features import shape_cache
from sightling.train.planning import plan_recipe
from sightling.train.recipe import Recipe, TrainStage


def keeping(words: str, length: int | None = 6, **told: Any) -> Recipe:
    """Micro-batches of two items, each with a picture of its own."""
    data = WORLD if length is None else {**WORLD, "length": length}
    plain = {"data": data, "train": REST, "features": {"cache": True}, "per_device_train_batch_size": 2,
             **({"max_steps": None, "num_train_epochs": 3} if length else {})}  # fmt: skip
    return recipe(words, **{**plain, **told})


def counted(small: Recipe, folder: Path) -> int:
    """What torch counts of the micro-batches that a plan looks at."""
    whole, _, batches, _, _ = grown(small, folder)
    fused = {name: formula.__wrapped__ for name, formula in ATTENTION.items()}  # type: ignore[attr-defined]
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        for batch in batches:
            whole(batch)[0].backward()
    return counter.get_total_flops() // len(batches)


def kept(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*.safetensors")]


def said(small: Recipe) -> str:
    console = Console(file=io.StringIO(), width=160)
    show(plan_recipe(small, probe_seconds=0), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_and_operations_are_those_of_a_real_stage(words: str, tmp_path: Path, dtype: str) -> None:
    small = keeping(words, features={"cache": True, "dtype": dtype})
    plan = planned(small)
    assert plan.features is not None
    first, second = counted(small, tmp_path), counted(small, tmp_path)
    assert (plan.flops, plan.features.flops) == (first, second) and second < first
    sizes = kept(tmp_path)
    assert plan.features.looked == plan.features.pictures == len(sizes) == 6
    assert plan.features.needed == plan.features.bytes == sum(sizes)
    assert plan.features.picture_bytes == sum(sizes) / 6 and plan.features.kept == 1.0
    assert (plan.steps, plan.features.encoding_steps, plan.features.reading_steps) == (9, 3, 6)
    assert plan.flops_in_all == 3 * first + 6 * second


def test_a_full_folder_leaves_pictures_to_the_encoder(words: str, tmp_path: Path) -> None:
    each = planned(keeping(words)).features.picture_bytes  # type: ignore[union-attr]
    small = keeping(words, features={"cache": True, "max_gib": 3.5 * each / 2**30})
    plan = planned(small)
    assert plan.features is not None
    counted(small, tmp_path)
    assert (plan.features.kept, plan.features.bytes) == (0.5, sum(kept(tmp_path)))
    assert plan.flops_in_all == 3 * plan.flops + 6 * (plan.flops + plan.features.flops) / 2
    assert "50% of the pictures are kept, and the others go through the encoder each time" in said(small)


def test_what_is_there_and_what_an_earlier_stage_leaves_take_room(words: str, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {"of": "another"}, 2**30)
    store.write("ab", torch.zeros(3, 4))
    told = keeping(words, features={"cache": str(tmp_path), "max_gib": 0.001}).to_dict()
    (stage,) = told["stages"].values()
    told["stages"] = {"one": stage, "two": stage}
    one, two = (stage.features for stage in plan_recipe(Recipe(**told), probe_seconds=0).stages)
    assert one is not None and two is not None
    assert one.held == two.held == store.bytes() and one.folder == str(tmp_path)
    assert one.room == int(0.001 * 2**30) - store.bytes() and two.room == one.room - (one.bytes or 0)
    assert f"{tmp_path} holds" in said(Recipe(**told))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"length": None}, "the data never end: every step is of the first epoch, and kept features never pay here"),
        ({"num_train_epochs": 1}, "the stage ends within its first epoch, in which every picture is new: kept"),
        ({"length": 40}, r"about \S+ KiB on disk for about 40 pictures, if no two items show the same one"),
        ({"length": 5, "gradient_accumulation_steps": 2, "num_train_epochs": 4},
         "the encoder runs in 2 steps of the first epoch; features are read in 3 after it: "),
        ({"data": {"type": "files", "format": "llava", "path": "nowhere.json"}},
         "a picture; how many there are is not known without the data: steps are told as if the encoder ran in all"),
    ],
    ids=["endless", "one epoch", "more than were looked at", "an epoch within a step", "absent"],
)  # fmt: skip
def test_what_never_pays_or_is_not_known_is_said(words: str, told: dict[str, Any], sentence: str) -> None:
    assert re.search(sentence, said(keeping(words, **told)))


def test_data_that_never_end_fill_the_disk_step_by_step(words: str) -> None:
    plan = planned(keeping(words, None))
    assert plan.features is not None and plan.features.endless
    assert (plan.features.encoding_steps, plan.features.reading_steps, plan.features.pictures) == (5, 0, 10)
    assert plan.flops_in_all == 5 * plan.flops


def test_time_is_that_of_both_kinds_of_steps(words: str) -> None:
    (plan,) = plan_recipe(keeping(words), probe_seconds=0.5).stages
    assert plan.time is not None and plan.features is not None and plan.features.time is not None
    later = plan.features.time
    assert later.step == pytest.approx(later.compute + later.data + later.optimizer) and later.data > 0
    assert later.optimizer == plan.time.optimizer and later.whole == pytest.approx(6 * later.step)
    assert plan.time.whole == pytest.approx(3 * plan.time.step + 6 * later.step)


def test_a_file_takes_what_its_shape_says(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {"of": "any"}, 2**30)
    for number, shape in enumerate([(1, 1), (7, 9), (16, 32), (576, 1024), (1001, 3)]):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            key = f"{number}{dtype}".ljust(64, "0")
            store.write(key, torch.zeros(shape, dtype=dtype))
            assert store.path(key).stat().st_size == entry_bytes(key, shape, dtype)


def test_a_model_without_an_encoder_is_one_sentence(words: str) -> None:
    (stage,) = keeping(words).stages.values()
    assert isinstance(stage, TrainStage)
    blind = SimpleNamespace(encoder=SimpleNamespace(width=0))
    with pytest.raises(UserError, match=r"^here\.features keeps what an encoder makes of pictures, and this model has"):
        shape_cache(stage, blind, "here")
