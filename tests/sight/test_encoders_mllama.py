"""Llama 3.2 Vision's tower: tiles of a picture together, beside transformers' own; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.mllama.modeling_mllama import MllamaVisionModel

from kit import LLAMA, section, stir
from sightling.errors import UserError
from sightling.model.build import check_model
from sightling.model.pretrained import load_weights
from sightling.parts import validate
from sightling.sight.encoders import TOWERS, Encoder, EncoderOptions, check_tiling, check_usage, tower_config
from sightling.sight.tiling import Canvas

SIZES: dict[str, Any] = {
    "type": "mllama", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 3,
    "num_global_layers": 2, "attention_heads": 2, "max_num_tiles": 3, "intermediate_layers_indices": [0, 2],
}  # fmt: skip
SHAPES = [(1, 1), (1, 3), (2, 1)]
IDS = [1, 3, 4]
"""Of the shapes (1, 1), (1, 2), (1, 3), (2, 1), (3, 1), counted from 1."""


def encoder(**options: Any) -> Encoder:
    config = tower_config(SIZES)
    return stir(Encoder(config, validate(EncoderOptions, options, "encoder")), 0).eval()


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_features_are_those_of_transformers_own_tower() -> None:
    ours, given = encoder(keep_cls=True), pixels(6)
    theirs = MllamaVisionModel(ours.config).eval()
    theirs.load_state_dict(ours.tower.state_dict())
    padded, mask = torch.zeros(1, 3, 3, 3, 16, 16), torch.zeros(1, 3, 3, dtype=torch.long)
    start = 0
    for number, (rows, columns) in enumerate(SHAPES):
        count = rows * columns
        padded[0, number, :count] = ours.normalise(given[start : start + count])
        mask[0, number, :count] = 1
        start += count
    with torch.no_grad():
        expected = theirs(padded, torch.tensor([IDS]), mask).last_hidden_state[0]
        found = ours.together(given, SHAPES)
        assert found.shape == (3, 3, 17, 96) and ours.width == 96 and expected.std() > 0.5
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # Pictures do not look at each other; without the CLS token a grid of patches is left.
        torch.testing.assert_close(ours.together(given[1:4], SHAPES[1:2])[0], expected[1], atol=1e-5, rtol=1e-5)
        assert torch.equal(encoder().together(given, SHAPES), found[:, :, 1:])
        # Where nothing is told, each input is a picture.
        torch.testing.assert_close(ours(given[:1])[0], expected[0, 0], atol=1e-5, rtol=1e-5)


def test_tiles_of_a_picture_look_at_each_other_and_every_weight_trains() -> None:
    ours, given = encoder(), pixels(3)
    changed = given.clone()
    changed[2] = 0
    with torch.no_grad():
        differs = (ours.together(given, [(1, 3)]) - ours.together(changed, [(1, 3)])).abs().amax((0, 2, 3))
    assert differs.min() > 1e-3
    ours.together(pixels(6), SHAPES).square().sum().backward()
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("prefix", ["", "vision_model.", "model.vision_model."])
def test_weights_are_read_from_a_tower_and_from_a_whole_model(prefix: str, tmp_path: Path) -> None:
    ours = encoder()
    weights = {prefix + key: tensor for key, tensor in ours.tower.state_dict().items()}
    save_file({**weights, "lm_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = load_weights(TOWERS[ours.config.model_type].model_class, str(tmp_path), ours.config)
    with torch.no_grad():
        told = Encoder(ours.config, ours.options, read.eval()).together(pixels(2), [(2, 1)])
        assert torch.equal(told, ours.together(pixels(2), [(2, 1)]))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 2"),
        ({"image_size": [16, 16]}, r"encoder.image_size = \[16, 16\] is wrong: it must be"),
        ({"intermediate_layers_indices": [3]}, "names 3; layers are counted from 0 to 2"),
        ({"vision_output_dim": 32}, "vision_output_dim = 32, but hidden_size and intermediate_layers_indices make 96"),
        ({"supported_aspect_ratios": [[1, 1]]}, r"supported_aspect_ratios = \[\[1, 1\]\] cannot be followed"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(told: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        tower_config(SIZES | told, "encoder")


def test_uses_that_it_does_not_allow_are_refused() -> None:
    for options, reason in (({"layer": -2}, "encoder.layer cannot be set"), ({"stem": {"channels": [8]}}, "own patch")):
        with pytest.raises(UserError, match=reason):
            check_usage(tower_config(SIZES), validate(EncoderOptions, options, "encoder"), "encoder")
    with pytest.raises(UserError, match=r"encoder.positions = 'bucketed' is not for a mllama_vision_model"):
        encoder(positions="bucketed")(pixels(1))
    with pytest.raises(UserError, match="takes squares of 16 pixels, not inputs of 32 x 16"):
        encoder()(torch.zeros(1, 3, 16, 32))
    with pytest.raises(UserError, match=r"knows pictures of .* tiles, not of \(2, 2\)"):
        encoder().together(pixels(4), [(2, 2)])
    with pytest.raises(ValueError, match="2 encoder inputs, but the pictures' shapes make 3"):
        encoder().together(pixels(2), [(1, 3)])


@pytest.mark.parametrize("tiling", [{"type": "dynamic"}, {"type": "native"}, {"type": "canvas", "max_tiles": 4}])
def test_a_tiling_that_it_cannot_take_is_refused_and_those_it_can_are_told(tiling: dict[str, Any]) -> None:
    message = "^model.tiling: a mllama looks at the tiles of a picture together .* canvas with max_tiles up to 3, or"
    with pytest.raises(UserError, match=message):
        check_model(section(encoder=SIZES, language_model=LLAMA, tiling=tiling))
    with pytest.raises(UserError, match="connector reads words with each tile alone, but a mllama_vision_model looks"):
        check_tiling(tower_config(SIZES), Canvas(max_tiles=3), True, "model")
    for fine in ({"type": "canvas", "max_tiles": 3}, {"type": "single"}):
        check_model(section(encoder=SIZES, language_model=LLAMA, tiling=fine))
