"""Pictures of several tiles through the processor and the model: as many placeholders as features, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kit import CLIP, SIGLIP, alone, grow, noise, picture, section, talk
from sightling.decode.visual import encode_pictures
from sightling.errors import UserError
from sightling.model import VisionLanguageProcessor
from sightling.model.build import check_model
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.train.packing import collate_rows, document

TILED: dict[str, dict[str, Any]] = {
    "dynamic": {"tiling": {"type": "dynamic", "max_tiles": 6}},
    "dynamic, shuffled": {"tiling": {"type": "dynamic"}, "connector": {"type": "pixel_shuffle", "factor": 2}},
    "dynamic, cls": {"tiling": {"type": "dynamic", "max_tiles": 4}, "encoder": {**CLIP, "keep_cls": True}},
    "overlapping": {"tiling": {"type": "overlapping", "overlap": 0.5, "max_tiles": 6}},
    "anyres": {"tiling": {"type": "anyres", "unpad": False}},
}

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
        assert placeholders == processor.image_processor.count(width, height)
        assert pixels.shape == (len(processor.image_processor.plan(width, height)), 3, 16, 16)
        with torch.no_grad():
            made = model.get_image_features(pixels)
            logits = alone(model, processor, sample)
        assert placeholders == made.shape[0] * made.shape[1]
        assert logits.shape[0] == len(processor.encode(sample).input_ids) and torch.isfinite(logits).all()
        tiles.add(len(pixels))
    assert len(tiles) > 1


@pytest.mark.parametrize("name", ["dynamic", "anyres"])
def test_pictures_of_several_sizes_in_one_prompt_keep_their_order(name: str) -> None:
    model, processor = grow(**TILED[name])
    shown = [picture(number, *size) for number, size in enumerate(SIZES)]
    with torch.no_grad():
        found = encode_pictures(model, processor, shown)
        for features, one in zip(found, shown, strict=True):
            torch.testing.assert_close(features, model.get_image_features(processor.pixels(one)))
        # The same by transformers' way in: two rows, padded, pixels one picture after another.
        texts = [f"{processor._format.image}a", f"{processor._format.image}{processor._format.image}b"]
        images = [[noise(*SIZES[1], 1)], [noise(*SIZES[2], 2), noise(*SIZES[4], 4)]]
        inputs = processor(text=texts, images=images, return_tensors="pt")
        features = model.get_image_features(inputs["pixel_values"])
        told = torch.cat([found[index].flatten(0, 1) for index in (1, 2, 4)])
        torch.testing.assert_close(features.flatten(0, 1), told)
        here = inputs["input_ids"] == processor.image_token_id
        assert int(here.sum()) == len(told)
        # Every picture's tokens stand in the places of its own row.
        embeddings = model.embed(inputs["input_ids"], features)
        torch.testing.assert_close(embeddings[0][here[0]], found[1].flatten(0, 1))
        torch.testing.assert_close(embeddings[1][here[1]], torch.cat([found[i].flatten(0, 1) for i in (2, 4)]))


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


def test_a_model_of_tiles_answers_and_its_processor_is_saved(tmp_path: Path) -> None:
    model, processor = grow(**TILED["dynamic"])
    processor.save_pretrained(tmp_path)
    again = VisionLanguageProcessor.from_pretrained(tmp_path)
    shown = picture(1, 70, 50)
    assert again.image_processor.tiling == TILED["dynamic"]["tiling"]
    assert again.encode(talk(("see", shown), "yes")) == processor.encode(talk(("see", shown), "yes"))
    assert torch.equal(again.pixels(shown), processor.pixels(shown))
    encoded = again.encode(talk((shown, "red?")), prompt_only=True)
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        told = model.generate(input_ids=ids, pixel_values=again.pixels(shown), max_new_tokens=2, do_sample=False)
        first = model(input_ids=ids, pixel_values=again.pixels(shown)).logits[0, -1]
    first[model.generation_config.suppress_tokens] = -torch.inf
    assert told[0, ids.shape[1]] == first.argmax()


@pytest.mark.parametrize("name", ["dynamic", "anyres"])
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
    pixels = torch.cat([processor.pixels(one) for index in (0, 2, 1) for one in documents[index].pictures])
    names = ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")
    with torch.no_grad():
        together, _ = model.supervised_loss(**{name: batch[name] for name in names}, pixel_values=pixels)
        apart = sum(
            cross_entropy(
                alone(model, processor, sample)[:-1], torch.tensor(processor.encode(sample).labels[1:]), reduction="sum"
            )
            for group in groups
            for sample in group
        )
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tiling", "needs"),
    [
        ({"type": "native"}, "encoder inputs of each picture's own shape"),
        ({"type": "adaptive"}, "encoder inputs of each picture's own shape with words between them"),
        ({"type": "anyres"}, "tokens of several tiles joined in rows with learned ends"),
    ],
)
def test_a_scheme_that_the_model_cannot_take_is_refused_before_anything_is_built(
    tiling: dict[str, Any], needs: str
) -> None:
    taken = "it takes single, dynamic, overlapping, and anyres with unpad: false"
    sentence = f"tiling: this scheme needs {needs}, which the model cannot do; {taken}"
    with pytest.raises(UserError, match=f"^model.{sentence}$"):
        check_model(section(tiling=tiling))
    with pytest.raises(UserError, match=f"^model.{sentence}$"):
        grow(tiling=tiling)
    with pytest.raises(UserError, match=f"^{sentence}$"):
        VisionLanguageImageProcessor(image_size=SIGLIP["image_size"], patch_size=4, tiling=tiling)
