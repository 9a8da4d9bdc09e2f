"""Qwen's towers, layer by layer, beside transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from kit import stir
from qwenkit import GRIDS, MERGE, PATCH, TOWERS, flat, thw
from sightling.errors import UserError
from sightling.model.pretrained import load_weights
from sightling.parts import validate
from sightling.sight.encoders import TOWERS as KINDS
from sightling.sight.encoders import Encoder, EncoderOptions, check_usage, tower_config

THEIRS: dict[str, Any] = {
    "qwen2_vl": Qwen2VisionTransformerPretrainedModel,
    "qwen2_5_vl": Qwen2_5_VisionTransformerPretrainedModel,
    "qwen3_vl": Qwen3VLVisionModel,
}


def encoder(name: str, sizes: dict[str, Any] | None = None, **options: Any) -> Encoder:
    config = tower_config(TOWERS[name] | (sizes or {}))
    return stir(Encoder(config, validate(EncoderOptions, options, "encoder")), 0).eval()


def pixels(grids: list[tuple[int, int]]) -> Tensor:
    height, width = (PATCH * max(side) for side in zip(*grids, strict=True))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (len(grids), 3, height, width), dtype=torch.uint8, generator=generator)


def their_states(ours: Encoder, name: str, inputs: list[Tensor], grids: list[tuple[int, int]]) -> list[list[Tensor]]:
    """For each picture what is behind each block of transformers' tower, in row order."""
    theirs = THEIRS[name](ours.config).eval()
    missing, unknown = theirs.load_state_dict(ours.tower.state_dict(), strict=False)
    assert not unknown and all("merger" in key for key in missing)
    states: list[Tensor] = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda _module, _args, output: states.append(output))
    grid_thw = thw(grids)
    theirs(torch.cat([flat(one) for one in inputs]), grid_thw=grid_thw)
    places, found, start = get_vision_position_ids(grid_thw, MERGE), [], 0
    index = torch.arange(len(places))
    if name == "qwen2_5_vl":
        window, _ = get_vision_window_index(grid_thw, MERGE, ours.config.window_size, PATCH)
        index = index.view(-1, MERGE**2)[window].flatten()
    for rows, columns in grids:
        own = places[start : start + rows * columns]
        order = (own[:, 0] * columns + own[:, 1]).argsort()
        back = index.argsort()[start : start + rows * columns][order]
        found.append([layer[back] for layer in states])
        start += rows * columns
    return found


@pytest.mark.parametrize("name", TOWERS)
def test_features_of_many_sizes_in_one_pass_are_those_of_transformers_own_tower(name: str) -> None:
    ours = encoder(name, layer=[1, 2, 3, -1])
    given = pixels(GRIDS)
    cut = [one[:, : rows * PATCH, : columns * PATCH] for one, (rows, columns) in zip(given, GRIDS, strict=True)]
    with torch.no_grad():
        features = ours(given, GRIDS)
        theirs = their_states(ours, name, [ours.normalise(one[None])[0] for one in cut], GRIDS)
        for told, one, own, (rows, columns) in zip(features, cut, theirs, GRIDS, strict=True):
            expected = torch.cat(own, dim=-1)
            assert expected.shape == (rows * columns, ours.width) and expected.std() > 0.5
            torch.testing.assert_close(told[: rows * columns], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours(one[None])[0], expected, atol=1e-4, rtol=1e-4)


def test_windows_are_seen_by_their_layers() -> None:
    ours = encoder("qwen2_5_vl", {"fullatt_block_indexes": []})
    given = pixels([(8, 8)])
    changed = given.clone()
    changed[:, :, :16, :16] = 0
    with torch.no_grad():
        differs = (ours(given) - ours(changed)).abs().amax(-1).view(8, 8) > 0
    assert differs[:4, :4].all() and not differs[4:].any() and not differs[:, 4:].any()


@pytest.mark.parametrize("name", TOWERS)
def test_every_weight_trains(name: str) -> None:
    ours = encoder(name)
    ours(pixels(GRIDS[:3]), GRIDS[:3]).square().sum().backward()
    for key, parameter in ours.named_parameters():
        assert "merger" not in key and parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("prefix", ["", "visual.", "model.visual."])
def test_weights_are_read_from_a_tower_and_from_a_whole_model(name: str, prefix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    ours = encoder(name)
    weights = {prefix + key: tensor for key, tensor in ours.tower.state_dict().items()}
    weights |= {"lm_head.weight": torch.zeros(2), f"{prefix}merger.norm.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = load_weights(KINDS[ours.config.model_type].model_class, str(tmp_path), ours.config)
    given = pixels(GRIDS[:2])
    with torch.no_grad():
        told = Encoder(ours.config, ours.options, read.eval())(given, GRIDS[:2])
        assert torch.equal(told, ours(given, GRIDS[:2]))


@pytest.mark.parametrize(
    ("name", "told", "reason"),
    [
        ("qwen2_vl", {"embed_dim": 36}, "heads of width 18 cannot be rotated by row and column"),
        ("qwen2_vl", {"embed_dim": 33}, "hidden_size 33 is not a multiple of num_attention_heads 2"),
        ("qwen2_vl", {"depth": 2}, "encoder.num_hidden_layers and encoder.depth are one key"),
        ("qwen2_vl", {"image_size": 64}, "encoder has no key 'image_size'"),
        ("qwen2_vl", {"spatial_merge_size": 0}, "encoder.spatial_merge_size = 0 is wrong"),
        ("qwen2_5_vl", {"window_size": 7}, "encoder.window_size 7 is less than one merged patch"),
        ("qwen2_5_vl", {"fullatt_block_indexes": [4]}, "fullatt_block_indexes names 4; layers are counted from 0 to 3"),
        ("qwen3_vl", {"num_position_embeddings": 24}, "num_position_embeddings 24 is not a square"),
        ("qwen3_vl", {"deepstack_visual_indexes": [1]}, "deepstack_visual_indexes cannot be set"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, told: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason.replace("[", r"\[")):
        tower_config(TOWERS[name] | told, "encoder")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keep_cls": True}, "has no CLS token"),
        ({"stem": {"channels": [8]}}, "encoder.stem halves the side 1 times, which makes patches of 2 pixels"),
        ({"layer": 5}, "encoder.layer = 5, but the tower's layers are counted from 0 to 4"),
    ],
)
def test_uses_that_they_do_not_allow_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_usage(tower_config(TOWERS["qwen2_vl"]), validate(EncoderOptions, options, "encoder"), "encoder")


def test_positions_by_buckets_are_refused() -> None:
    with pytest.raises(UserError, match=r"'bucketed' is not for a qwen3_vl_vision; clip, .*siglip.* take it$"):
        encoder("qwen3_vl", positions="bucketed")(pixels([(2, 2)]))


def test_sizes_that_follow_from_others_are_filled_in() -> None:
    told = tower_config({"type": "qwen2_vl", "embed_dim": 128, "depth": 1})
    assert (told.num_heads, told.hidden_size) == (2, 128)
    told = tower_config({"type": "qwen3_vl", "hidden_size": 192, "depth": 1})
    assert (told.num_heads, told.intermediate_size, list(told.deepstack_visual_indexes)) == (3, 768, [])
