"""A frozen encoder's features kept on disk: they change nothing but how often the encoder runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor

from kit import LLAMA, SIGLIP, grow, noise, picture, plain, talk
from sightling.data.sample import Picture, Sample
from sightling.errors import UserError
from sightling.parts import validate
from sightling.sight.encoders import Encoder
from sightling.train.features.cache import FeatureCache, open_features
from sightling.train.features.options import FeatureOptions
from sightling.train.features.space import fingerprint
from sightling.train.objectives.answer import Answer, AnswerOptions
from sightling.train.recipe import parse_recipe
from sightling.train.run import check_recipe, run
from sightling.train.runfolder import essence
from wordpiece import usual

CANVAS = {
    "encoder": {"type": "mllama", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1,
                "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 3, "intermediate_layers_indices": [0]},
    "language_model": {**LLAMA, "tie_word_embeddings": False}, "tiling": {"type": "canvas", "max_tiles": 3},
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "tiles of several layers": lambda: grow(
        encoder={**SIGLIP, "layer": [1, -1]}, tiling={"type": "anyres", "shapes": 3}, connector={"type": "linear"}
    ),
    "a CLS token": lambda: grow(encoder={**SIGLIP, "type": "clip", "keep_cls": True}, connector={"type": "linear"}),
    "shapes of their own": lambda: grow(tiling={"type": "native", "merge": 1}),
    "together": lambda: grow(**CANVAS),
    "together and filled up": lambda: grow(
        **CANVAS, connector={"type": "cross_attention", "every": 2, "before": "all"}
    ),
    "read with words": usual,
}


@cache
def opened(name: str) -> Any:
    return MODELS[name]()


class Told:
    """A source with these groups."""

    def __init__(self, *groups: list[Sample]) -> None:
        self.groups = groups

    def open(self, seed: int) -> Told:
        return self

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, index: int) -> list[Sample]:
        return self.groups[index]


def groups() -> Told:
    one, two, three = picture(1), picture(2, 40, 12), picture(3, 12, 40)
    return Told(
        [talk((one, "what colour is the circle?"), "red"), talk((one, "how many?"), "2", "sure?", "no")],
        [talk((two, "a blue square? ", three, " or here?"), "yes")],
        # The first one again, as another file would hold it; and words alone.
        [talk((picture(1), "what is left of the star?"), "a heart"), talk("what is 1?", "a digit")],
    )


def kept(model: Any, processor: Any, root: Path, said: list[str] | None = None, **told: Any) -> FeatureCache:
    options = FeatureOptions(cache=str(root), **told)
    say = (lambda line: None) if said is None else said.append
    found = open_features(options, model, processor, "tiles", False, root, say, "stages.one")
    assert found is not None
    return found


def objective(name: str, features: FeatureCache | None, data: Told | None = None, **options: Any) -> Answer:
    made = Answer(*opened(name), validate(AnswerOptions, options, "objective"), data or groups(), 0)  # type: ignore[arg-type]
    made.features = features
    return made


def learnt(made: Answer) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
    """Loss and gradients, of connector and language model, of one batch of all groups; and the batch."""
    model: Any = made.model
    model.zero_grad()
    model.encoder.requires_grad_(False)
    try:
        data = made.dataset()
        batch = made.collate([data[index] for index in range(len(data))])  # type: ignore[arg-type]
        loss, _ = made.loss(model, batch)
        loss.backward()
        told = {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}
    finally:
        model.encoder.requires_grad_(True)
        model.zero_grad()
    return loss.detach(), told, batch


def same(one: tuple[Tensor, dict[str, Tensor], Any], two: tuple[Tensor, dict[str, Tensor], Any], by: float) -> None:
    torch.testing.assert_close(one[0], two[0], rtol=by, atol=by)
    assert set(one[1]) == set(two[1]) and any(key.startswith("connector.") for key in one[1])
    for key in one[1]:
        torch.testing.assert_close(one[1][key], two[1][key], rtol=100 * by, atol=10 * by, msg=key)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inputs an encoder was given, each time."""
    found: list[int] = []
    whole = Encoder.normalise

    def counted(self: Encoder, pixels_NCHW: Tensor) -> Tensor:
        found.append(len(pixels_NCHW))
        return whole(self, pixels_NCHW)

    monkeypatch.setattr(Encoder, "normalise", counted)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_teaches_what_pixels_teach_and_the_encoder_rests(
    name: str, tmp_path: Path, seen: list[int]
) -> None:
    first = objective(name, None, share=False)
    sizes = torch.tensor([[16, 20, 0], [12, 40, 0], [40, 12, 0]])
    pixels = learnt(first)
    # Three documents show one picture, and the encoder sees it once.
    assert sum(seen) == sum(map(len, first.model.plans(sizes)))  # type: ignore[operator]
    assert len(pixels[2]["appearances"]) == 5 and len(pixels[2]["image_sizes"]) == 3
    cache = kept(*opened(name), tmp_path)
    same(learnt(objective(name, cache, share=False)), pixels, 1e-5)
    assert (cache.read, cache.computed) == (0, 3) and cache.store.bytes() > 0
    seen.clear()
    cache = kept(*opened(name), tmp_path)
    again = learnt(objective(name, cache, share=False))
    same(again, pixels, 1e-5)
    assert seen == [] and again[2]["pixel_values"] is None and (cache.read, cache.computed) == (3, 0)


def test_pictures_are_neither_decoded_nor_cut_again(
    tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        noise(20, 16, number).save(tmp_path / f"{number}.png")
    # The second is the first's content under another name, and in another turn's place.
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes())
    data = Told(*([talk((Picture(path=tmp_path / f"{n}.png"), "red?"), "no")] for n in (1, 2, 3)))
    first = learnt(objective("plain", kept(*plain(), tmp_path / "features"), data))
    assert seen == [2] and first[2]["appearances"] == [0, 1, 0]
    monkeypatch.setattr(Picture, "load", lambda self, ground=None: pytest.fail("it was decoded"))
    same(learnt(objective("plain", kept(*plain(), tmp_path / "features"), data)), first, 1e-6)
    assert seen == [2]


@pytest.mark.parametrize(("dtype", "by"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_what_is_kept_in_half_is_half_as_large_and_the_same_each_time(tmp_path: Path, dtype: str, by: float) -> None:
    pixels = learnt(objective("plain", None))
    whole = kept(*plain(), tmp_path / "whole")
    learnt(objective("plain", whole))
    first = learnt(objective("plain", cache := kept(*plain(), tmp_path / "half", dtype=dtype)))
    assert cache.store.bytes() < 0.7 * whole.store.bytes()
    torch.testing.assert_close(first[0], pixels[0], rtol=by, atol=by)
    assert not torch.equal(first[0], pixels[0])
    same(learnt(objective("plain", kept(*plain(), tmp_path / "half", dtype=dtype))), first, 1e-7)


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    cache = kept(*plain(), tmp_path, dtype="float16")
    with pytest.raises(UserError, match=r"^the encoder's features reach 1e\+05, which torch.float16 cannot hold; set "):
        cache.keep("ab", torch.full((2, 2), 1e5))


def test_another_encoders_features_are_computed_anew_and_that_is_said(tmp_path: Path, seen: list[int]) -> None:
    said: list[str] = []
    model, processor = grow(seed=3)
    data = Told([talk((picture(1), "red?"), "no")])

    def step() -> int:
        seen.clear()
        made = Answer(model, processor, AnswerOptions(), data, 0)  # type: ignore[arg-type]
        made.features = kept(model, processor, tmp_path, said)
        made.loss(model, made.collate([made.dataset()[0]]))
        return len(seen)

    assert [step(), step()] == [1, 0]
    assert said[0] == f"features are kept in {tmp_path}, as float32, 20 GiB at most"
    assert said[1] == f"features of 1 picture are kept in {tmp_path}, as float32"
    before, old = fingerprint(model.encoder), next(tmp_path.glob("*/space.json")).parent
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[0] += 1e-3
    assert fingerprint(model.encoder) != before
    said.clear()
    assert [step(), step()] == [1, 0]
    assert said[1].endswith(f"of features there are not this stage's, which computes its own: the encoder's weights "
                            f"differ; delete {old} to make room")  # fmt: skip


def test_damage_is_said_once_counted_and_mended(tmp_path: Path, seen: list[int]) -> None:
    said: list[str] = []
    pixels = learnt(objective("plain", kept(*plain(), tmp_path)))
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    seen.clear()
    cache = kept(*plain(), tmp_path, said)
    same(learnt(objective("plain", cache)), pixels, 1e-6)
    assert seen == [3] and cache.damaged == 3 and (cache.read, cache.computed) == (0, 3)
    (told,) = [line for line in said if "damaged" in line]
    assert told.startswith(f"kept features are damaged and are computed anew ({tmp_path}/")
    seen.clear()
    same(learnt(objective("plain", kept(*plain(), tmp_path))), pixels, 1e-6)
    assert seen == []


def test_a_full_cache_is_said_once_and_the_rest_is_computed(tmp_path: Path, seen: list[int]) -> None:
    said: list[str] = []
    pixels = learnt(objective("plain", None))
    learnt(objective("plain", whole := kept(*plain(), tmp_path / "whole")))
    most = 1.5 * whole.store.bytes() / 3 / 2**30
    for _ in range(2):
        cache = kept(*plain(), tmp_path / "part", said, max_gib=most)
        same(learnt(objective("plain", cache)), pixels, 1e-5)
    assert (cache.read, cache.computed) == (1, 2)
    full = [line for line in said if line.startswith("no more features are kept in")]
    assert len(full) == 2 and "max_gib is reached" in full[0]


def test_what_was_kept_since_a_worker_looked_is_not_computed_again(tmp_path: Path, seen: list[int]) -> None:
    made = objective("plain", kept(*plain(), tmp_path))
    data = made.dataset()
    batches = [made.collate([data[index]]) for index in (0, 0)]
    for batch in batches:
        assert batch["pixel_values"] is not None
        made.loss(made.model, batch)
    assert seen == [1]


def test_one_picture_in_many_documents_is_encoded_once_whatever_is_asked(seen: list[int]) -> None:
    for name in ("plain", "read with words"):
        asked = ("what is red?", "how many?", "is it blue?")
        apart = [learnt(objective(name, None, Told([talk((picture(5), words), "no")]))) for words in asked]
        seen.clear()
        together = learnt(objective(name, None, Told(*([talk((picture(5), words), "no")] for words in asked))))
        assert seen == [1]
        torch.testing.assert_close(together[0], sum(one[0] for one in apart), rtol=1e-5, atol=1e-5)
        for key, gradient in together[1].items():
            summed = sum(one[1][key] for one in apart)
            torch.testing.assert_close(gradient, summed, rtol=1e-3, atol=1e-4, msg=key)


# ---- recipes and runs


def recipe(features: Any = None, **told: Any) -> Any:
    world = {"type": "world", "image_size": 16, "questions_per_picture": 2, "languages": ["en"], "length": 4}
    stage = {"objective": {"type": "answer"}, "data": world, "learning_rate": 1e-2, "num_train_epochs": 2,
             "per_device_train_batch_size": 2, "train": {"connector": True, "language_model": True},
             **({} if features is None else {"features": features}), **told}  # fmt: skip
    words = {"type": "tokenizer", "data": {"type": "world"}, "texts": 50, "vocab_size": 300}
    tree = {"name": "small", "seed": 1, "bf16": False, "report_to": "none",
            "model": {"encoder": SIGLIP, "language_model": LLAMA},
            "stages": {"tokenizer": words, "learn": stage}}  # fmt: skip
    return parse_recipe(yaml.safe_load(yaml.safe_dump(tree, sort_keys=False)), "small.yaml")


@pytest.mark.parametrize(
    ("features", "stage", "sentence"),
    [
        ({"cache": True}, {"train": {"encoder": True}}, "features.cache keeps what a frozen encoder makes of "),
        ({"cache": True}, {"objective": {"type": "answer", "augment": {"flip": 0.5}}},
         "features.cache needs pictures that stay as they are, but "),
        ({"cache": True}, {"objective": {"type": "language"}, "data": {"type": "world"}}, "features.cache is of no "),
        ({"cache": ""}, {}, "features.cache: it is empty; "),
        ({"cache": 5}, {}, "features.cache: it must be true, false or a folder's path"),
        ({"cache": True, "dtype": "int8"}, {}, "features.dtype = 'int8' is wrong"),
        ({"cache": True, "max_gib": 0}, {}, "features.max_gib = 0 is wrong"),
        ({"dtype": "float16"}, {}, "features.cache is missing"),
    ],
)  # fmt: skip
def test_a_cache_of_no_use_is_refused(features: Any, stage: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as told:
        check_recipe(recipe(features, **stage))
    assert str(told.value).startswith(f"small.yaml: stages.learn.{sentence}") and "\n" not in str(told.value)


def test_a_run_may_go_on_with_another_cache_but_not_with_another_rounding() -> None:
    usual = essence(recipe())
    assert essence(recipe({"cache": True})) == essence(recipe({"cache": "elsewhere", "max_gib": 3})) == usual
    assert essence(recipe({"cache": False, "dtype": "float16"})) == usual
    assert essence(recipe({"cache": True, "dtype": "float16"})) != usual


@pytest.mark.parametrize("workers", [0, 1])
def test_the_second_epoch_of_a_run_never_runs_the_encoder(tmp_path: Path, seen: list[int], workers: int) -> None:
    said = io.StringIO()
    where = tmp_path / "features" if workers else True
    told = recipe({"cache": str(where) if workers else True}, dataloader_num_workers=workers)
    run(told, tmp_path / "run", threads=1, console=Console(file=said, width=200))
    assert sum(seen) == 4
    assert "features of stage learn: 4 read, 4 computed; " in said.getvalue()
    assert not (tmp_path / "run" / "features").exists()
    assert (len(list(tmp_path.glob("features/*/*/*.safetensors"))) == 4) is bool(workers)
    if workers:
        run(told, tmp_path / "other", threads=1, console=Console(file=said, width=200))
        assert sum(seen) == 4 and "features of stage learn: 8 read, 0 computed; " in said.getvalue()
