"""MiniCPM-V 4.6's tower: patches merged between layers, on any grid; places by buckets as each model reckons them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_nearest_position_ids

from kit import section, stir
from sightling.errors import UserError
from sightling.model.build import check_model
from sightling.parts import validate
from sightling.sight.encoders import Encoder, EncoderOptions, tower_config
from sightling.sight.encoders.tower import buckets, quotients, steps

TOLD: dict[str, Any] = {"type": "minicpmv4_6", "image_size": 20, "patch_size": 4, "hidden_size": 32,
                        "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}  # fmt: skip


def encoder(insert: int, **options: Any) -> Encoder:
    config = tower_config({**TOLD, "insert_layer_id": insert})
    return stir(Encoder(config, validate(EncoderOptions, options, "encoder")), 0).eval()


def pixels(height: int = 24, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("insert", [1, 3, -1])
def test_features_are_those_of_transformers_own_tower_on_grids_of_several_sizes(insert: int) -> None:
    ours, shown = encoder(insert), pixels()
    side = ours.patch_size // 4
    assert side == (1 if insert < 0 else 2)
    grids = [(3 * 2 // side, 5 * 2 // side), (2 * 2 // side, 2 * 2 // side), (3 * 2 // side, 5 * 2 // side)]
    told = ours.normalise(shown)
    laid, sizes = [], []
    for one, (rows, columns) in zip(told, grids):
        down, across = rows * side, columns * side
        cells = one[:, : down * 4, : across * 4].reshape(3, down, 4, across, 4)
        laid.append(cells.permute(0, 2, 1, 3, 4).reshape(3, 4, -1))
        sizes.append([down, across])
    with torch.no_grad():
        found = ours(shown, grids)
        wanted = ours.tower(
            torch.cat(laid, -1)[None], target_sizes=torch.tensor(sizes), use_vit_merger=insert >= 0
        ).last_hidden_state[0]
        # What lies beyond a grid is never looked at.
        spoilt = shown.clone()
        spoilt[1, :, 16:], spoilt[1, :, :, 16:] = 255, 3
        assert torch.equal(found, ours(spoilt, grids))
    real = torch.cat([one[: rows * columns] for one, (rows, columns) in zip(found, grids)])
    torch.testing.assert_close(real, wanted, atol=1e-5, rtol=1e-5)


def test_a_layer_behind_the_merging_can_go_on_and_one_before_it_cannot() -> None:
    with torch.no_grad():
        assert encoder(1, layer=[2, -1])(pixels()).shape == (3, 15, 64)
        assert encoder(-1, layer=[0, -1])(pixels()).shape == (3, 60, 64)
    with pytest.raises(UserError, match=r"layer = -4, but the tower merges patches behind it; 2 is the first"):
        encoder(1, layer=-4)
    with pytest.raises(UserError, match=r"^encoder.positions = 'stepped' is not for a minicpmv4_6_vision; clip"):
        encoder(1, positions="stepped")


def test_a_pixel_that_no_whole_feature_covers_is_not_looked_at() -> None:
    shown = pixels(29, 47)
    with torch.no_grad():
        assert torch.equal(encoder(1)(shown), encoder(1)(shown[..., :24, :40]))


@pytest.mark.parametrize("side", [5, 7, 70])
def test_buckets_are_transformers_own(side: int) -> None:
    for count in range(1, 320):
        wanted = get_vision_nearest_position_ids(torch.tensor([[count, 3]]), side)
        assert torch.equal(buckets(count, 3, side, quotients), wanted)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"window_kernel_size": [1, 4]}, r"window_kernel_size = \[1, 4\], but squares of 2 x 2 patches are merged"),
        ({"insert_layer_id": 4}, r"insert_layer_id = 4, but the tower's layers are counted from 0 to 3 there"),
        ({"insert_layer_id": 1, "stem": {"channels": [8, 16]}}, "stem cannot be set"),
    ],
)
def test_towers_that_cannot_be_built_are_one_sentence(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(section(encoder={**TOLD, **told}))


@pytest.mark.parametrize("side", [7, 70])
def test_places_by_steps_are_those_that_pytorch_counts_up(side: int) -> None:
    bounds = torch.arange(1 / side, 1.0, 1 / side)
    differ = 0
    for count in range(1, 320):
        fractions = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count, dtype=torch.int32))
        assert len(fractions) == count
        wanted = torch.bucketize(fractions, bounds, right=True)
        assert torch.equal(buckets(count, 1, side, steps), wanted * side)
        differ += not torch.equal(buckets(count, 1, side), wanted * side)
    assert differ


def test_a_siglip_takes_them() -> None:
    told = {**TOLD, "type": "siglip", "image_size": 28}
    ours = stir(Encoder(tower_config(told), EncoderOptions(positions="stepped")), 0).eval()
    other = Encoder(ours.config, EncoderOptions(), ours.tower)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels(28, 28)), other(pixels(28, 28)))
        assert not torch.allclose(ours(pixels()), other(pixels()), atol=1e-2)
