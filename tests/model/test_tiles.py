"""Pictures of several tiles through the processor and the model: as many placeholders as features, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kit import CLIP, SIGLIP, alone, grow, noise, picture, talk
from sightling.data.sample import Picture
from sightling.decode.visual import encode_pictures
from sightling.model import VisionLanguageProcessor
from sightling.train.packing import collate_rows, document

NATIVE = {"type": "native", "min_pixels": 64, "max_pixels": 1024}
ADAPTIVE = {"type": "adaptive", "max_slices": 4}

TILED: dict[str, dict[str, Any]] = {
    "dynamic": {"tiling": {"type": "dynamic", "max_tiles": 6}},
    "dynamic, shuffled": {"tiling": {"type": "dynamic"}, "connector": {"type": "pixel_shuffle", "factor": 2}},
    "dynamic, cls": {"tiling": {"type": "dynamic", "max_tiles": 4}, "encoder": {**CLIP, "keep_cls": True}},
    "overlapping": {"tiling": {"type": "overlapping", "overlap": 0.5, "max_tiles": 6}},
    "anyres": {"tiling": {"type": "anyres", "unpad": False}},
    "unpad": {"tiling": {"type": "anyres"}},
    "unpad, limit": {"tiling": {"type": "anyres", "shapes": 4, "limit": 3}},
    "native": {"tiling": NATIVE, "connector": {"type": "merger", "factor": 2}},
    "native, clip": {"tiling": NATIVE, "encoder": {**CLIP, "keep_cls": True, "positions": "bucketed"}},
    "adaptive": {"tiling": ADAPTIVE, "connector": {"type": "resampler", "queries": 4, "heads": 2},
                 "encoder": {**SIGLIP, "positions": "bucketed"}},
    "adaptive, mlp": {"tiling": ADAPTIVE, "encoder": {**SIGLIP, "layer": [-1, 1]}},
}  # fmt: skip

SIZES = [(16, 16), (40, 20), (9, 90), (1, 1), (70, 50), (200, 1)]


@pytest.mark.parametrize("name", TILED)
def test_as_many_placeholders_as_were_counted_and_as_the_model_makes(name: str) -> None:
    model, processor = grow(**TILED[name])
    tiles = set()
    for number, (width, height) in enumerate(SIZES):
        shown = picture(number, width, height)
        sample = talk(("see", shown, "red?"), "yes")
        placeholders = processor.encode(sample).input_ids.count(processor.image_token_id)
        pixels = processor.pixels(shown)
        plan = processor.image_processor.plan(width, height)
        assert placeholders == processor.image_processor.count(width, height)
        sides = [max(side) for side in zip(*(tile.canvas for tile in plan), strict=True)]
        assert pixels.shape == (len(plan), 3, *sides[::-1])
        with torch.no_grad():
            made = model.get_image_features(**processor.inputs(shown).tensors())
            logits = alone(model, processor, sample)
        assert placeholders == made[..., 0].numel()
        assert logits.shape[0] == len(processor.encode(sample).input_ids) and torch.isfinite(logits).all()
        tiles.add((len(pixels), placeholders))
    assert len(tiles) > 1


@pytest.mark.parametrize("name", TILED)
def test_pictures_of_several_sizes_in_one_prompt_keep_their_order(name: str) -> None:
    model, processor = grow(**TILED[name])
    shown = [picture(number, *size) for number, size in enumerate(SIZES)]
    with torch.no_grad():
        found = encode_pictures(model, processor, shown)
        for features, one in zip(found, shown, strict=True):
            own = model.get_image_features(**processor.inputs(one).tensors())
            torch.testing.assert_close(features, own.flatten(0, -2), rtol=1e-4, atol=1e-4)
        # The same by transformers' way in: two rows, padded, one picture after another.
        texts = [f"{processor._format.image}a", f"{processor._format.image}{processor._format.image}b"]
        images = [[noise(*SIZES[1], 1)], [noise(*SIZES[2], 2), noise(*SIZES[4], 4)]]
        inputs = processor(text=texts, images=images, return_tensors="pt")
        features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        told = torch.cat([found[index] for index in (1, 2, 4)])
        torch.testing.assert_close(features.flatten(0, -2), told, rtol=1e-4, atol=1e-4)
        here = inputs["input_ids"] == processor.image_token_id
        assert int(here.sum()) == len(told)
        # Every picture's tokens stand in the places of its own row.
        embeddings = model.embed(inputs["input_ids"], features)
        torch.testing.assert_close(embeddings[0][here[0]], found[1], rtol=1e-4, atol=1e-4)
        own = torch.cat([found[i] for i in (2, 4)])
        torch.testing.assert_close(embeddings[1][here[1]], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TILED)
def test_pictures_first_last_adjacent_and_in_every_turn_each_with_its_own_budget(name: str) -> None:
    model, processor = grow(**TILED[name])
    budgets = [None, 1, 2, None]
    a, b, c, d = (
        Picture(image=noise(*SIZES[number], number), tiles=budget) for number, budget in enumerate(budgets, start=1)
    )
    encoded = processor.encode(talk((a, b, "red?", c), "yes", (d, a), "no", ("how many?", b), "2"))
    assert list(encoded.pictures) == [a, b, c, d, a, b]
    counts = [processor.image_processor.count(*one.size(), one.tiles) for one in encoded.pictures]
    ids = torch.tensor([encoded.input_ids])
    here_T = ids[0] == processor.image_token_id
    assert int(here_T.sum()) == sum(counts)
    with torch.no_grad():
        features = model.get_image_features(**processor.inputs(*encoded.pictures).tensors())
        placed = model.embed(ids, features)[0][here_T].split(counts)
        for one, found in zip(encoded.pictures, placed, strict=True):
            own = model.get_image_features(**processor.inputs(one).tensors())
            torch.testing.assert_close(found, own.flatten(0, -2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["native", "native, clip", "adaptive", "adaptive, mlp"])
def test_what_lies_beside_a_picture_in_its_batch_never_changes_its_tokens(name: str) -> None:
    model, processor = grow(**TILED[name])
    inputs = processor.inputs(*(picture(number, *size) for number, size in enumerate(SIZES)))
    spoilt = inputs.pixels.clone()
    grids = [grid for plan in model.plans(inputs.sizes) for grid in plan.patches]
    for one, (rows, columns) in zip(spoilt, grids, strict=True):
        one[:, rows * 4 :], one[:, :, columns * 4 :] = 255, 77
    assert not torch.equal(spoilt, inputs.pixels)
    with torch.no_grad():
        told = model.get_image_features(**inputs.tensors())
        assert torch.equal(told, model.get_image_features(spoilt, inputs.sizes))


@pytest.mark.parametrize("name", ["dynamic", "unpad", "native", "adaptive"])
def test_a_picture_s_own_budget_is_counted_and_kept(name: str) -> None:
    model, processor = grow(**TILED[name])
    image = noise(70, 50)
    counts = []
    for tiles in (None, 2, 1):
        shown = Picture(image=image, tiles=tiles)
        sample = talk((shown, "red?"), "yes")
        counts.append(processor.encode(sample).input_ids.count(processor.image_token_id))
        with torch.no_grad():
            assert torch.isfinite(alone(model, processor, sample)).all()
    assert counts[0] > counts[-1] and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("name", ["dynamic", "unpad", "native", "adaptive"])
def test_several_answers_a_row_repeat_its_pictures(name: str) -> None:
    model, processor = grow(**TILED[name])
    texts = [f"{processor._format.image}a", f"b{processor._format.image}{processor._format.image}"]
    images = [[noise(*SIZES[1], 1)], [noise(*SIZES[2], 2), noise(*SIZES[4], 4)]]
    inputs = processor(text=texts, images=images, return_tensors="pt")
    ids, told = model._expand_inputs_for_generation(2, input_ids=inputs["input_ids"], **{
        name: inputs[name] for name in ("pixel_values", "image_sizes")
    })  # fmt: skip
    again = processor(text=[texts[0]] * 2 + [texts[1]] * 2, images=[images[0]] * 2 + [images[1]] * 2,
                      return_tensors="pt")  # fmt: skip
    assert torch.equal(ids, again["input_ids"])
    assert torch.equal(told["pixel_values"], again["pixel_values"])
    assert torch.equal(told["image_sizes"], again["image_sizes"])
    with pytest.raises(ValueError, match="1 image_sizes are needed by the rows, but 3 were given"):
        model._expand_inputs_for_generation(2, input_ids=inputs["input_ids"][:1], image_sizes=inputs["image_sizes"])


def test_a_tile_is_seen_where_it_lies() -> None:
    model, processor = grow(**TILED["dynamic"])
    image = noise(48, 32, 3)
    changed = image.copy()
    changed.paste((0, 0, 0), (32, 16, 48, 32))
    with torch.no_grad():
        before, after = (model.get_image_features(processor.image_processor.pixels(one)) for one in (image, changed))
    differs = [bool((one != other).any()) for one, other in zip(before, after, strict=True)]
    # Of 2 rows of 3 tiles the last one, and the thumbnail behind them.
    assert differs == [False, False, False, False, False, True, True]


@pytest.mark.parametrize("name", ["dynamic", "unpad", "native", "adaptive"])
def test_a_model_of_tiles_answers_and_its_processor_is_saved(tmp_path: Path, name: str) -> None:
    model, processor = grow(**TILED[name])
    processor.save_pretrained(tmp_path)
    again = VisionLanguageProcessor.from_pretrained(tmp_path)
    shown = picture(1, 70, 50)
    assert again.image_processor.tiling == TILED[name]["tiling"]
    assert again.encode(talk(("see", shown), "yes")) == processor.encode(talk(("see", shown), "yes"))
    assert torch.equal(again.pixels(shown), processor.pixels(shown))
    encoded = again.encode(talk((shown, "red?")), prompt_only=True)
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        seen = again.inputs(shown).tensors()
        told = model.generate(input_ids=ids, **seen, max_new_tokens=2, do_sample=False)
        first = model(input_ids=ids, **seen).logits[0, -1]
    first[model.generation_config.suppress_tokens] = -torch.inf
    assert told[0, ids.shape[1]] == first.argmax()


@pytest.mark.parametrize("name", ["dynamic", "anyres", "unpad", "native", "adaptive"])
def test_samples_packed_behind_a_shared_picture_lose_what_they_lose_alone(name: str) -> None:
    model, processor = grow(**TILED[name])
    wide, tall, small = picture(1, 70, 50), picture(2, 9, 90), picture(3, 4, 4)
    groups = [
        [talk((wide, "red?"), "yes"), talk((wide, "how many?"), "2")],
        [talk((tall, " and ", small, "which?"), "the first")],
        [talk((small, "what?"), "a heart")],
    ]
    documents = [document([processor.encode(sample) for sample in group]) for group in groups]
    batch = collate_rows(documents, [[0, 2], [1]], processor.pad_token_id)
    shown = processor.inputs(*(one for index in (0, 2, 1) for one in documents[index].pictures)).tensors()
    names = ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")
    with torch.no_grad():
        together, _ = model.supervised_loss(**{name: batch[name] for name in names}, **shown)
        apart = sum(
            cross_entropy(
                alone(model, processor, sample)[:-1], torch.tensor(processor.encode(sample).labels[1:]), reduction="sum"
            )
            for group in groups
            for sample in group
        )
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_a_field_needs_the_size_of_its_picture() -> None:
    model, processor = grow(**TILED["unpad"])
    with pytest.raises(ValueError, match="image_sizes is missing: the tiling scheme joins each picture's tiles"):
        model.get_image_features(processor.pixels(picture(1, 70, 50)))


def test_sizes_that_belong_to_other_pixels_are_told_with_both_numbers() -> None:
    model, processor = grow(**TILED["dynamic"])
    pixels = processor.pixels(picture(1, 70, 50))
    with pytest.raises(ValueError, match=f"{len(pixels)} encoder inputs, but the pictures' sizes make 1"):
        model.get_image_features(pixels, torch.tensor([[10, 10, 0]]))
    with pytest.raises(ValueError, match=r"image_sizes are \(1, 4\); they must be \(pictures, 2 or 3\)"):
        model.get_image_features(pixels, torch.tensor([[10, 10, 0, 0]]))
