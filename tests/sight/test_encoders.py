from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel, SiglipVisionModel

from kit import CLIP, SIGLIP, stir
from sightling.errors import UserError
from sightling.parts import validate
from sightling.sight.encoders import STATISTICS, Encoder, EncoderOptions, check_usage, tower_config

STEM = {"channels": [8, 16]}


def encoder(sizes: dict[str, Any], seed: int = 0, **options: Any) -> Encoder:
    return stir(Encoder(tower_config(sizes), validate(EncoderOptions, options, "encoder")), seed).eval()


def pixels(count: int = 2, side: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("sizes", "kind"), [(SIGLIP, SiglipVisionModel), (CLIP, CLIPVisionModel)])
@pytest.mark.parametrize("layer", [-1, -2, -3, 0, 1, 2])
def test_features_are_those_of_transformers_own_tower(sizes: dict[str, Any], kind: Any, layer: int) -> None:
    ours = encoder(sizes, layer=layer)
    theirs = kind(ours.config).eval()
    theirs.load_state_dict(ours.tower.state_dict())
    inputs = ours.normalise(pixels())
    with torch.no_grad():
        output = theirs(pixel_values=inputs, output_hidden_states=True)
        features = ours(pixels())
    expected = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    expected = expected[:, 1:] if sizes is CLIP else expected
    assert features.shape == (2, 16, 32)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)


def test_the_cls_token_is_dropped_from_clip_alone_and_kept_when_asked() -> None:
    dropped, kept = encoder(CLIP), encoder(CLIP, keep_cls=True)
    assert kept(pixels()).shape == (2, 17, 32)
    torch.testing.assert_close(kept(pixels())[:, 1:], dropped(pixels()))
    assert dropped.has_cls and not encoder(SIGLIP).has_cls
    # SigLIP's first patch is a patch: changing it changes the first feature most.
    siglip, changed = encoder(SIGLIP), pixels()
    changed[:, :, :4, :4] = 255 - changed[:, :, :4, :4]
    moved = (siglip(changed) - siglip(pixels())).norm(dim=-1)
    assert (moved.argmax(1) == 0).all()


def test_pixels_are_normalised_with_what_the_class_was_trained_with_unless_told() -> None:
    assert encoder(SIGLIP).statistics == STATISTICS["half"]
    assert encoder(CLIP).statistics == STATISTICS["clip"]
    assert encoder(CLIP, normalise="imagenet").statistics == STATISTICS["imagenet"]
    told = encoder(SIGLIP, normalise={"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]})
    grey = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    torch.testing.assert_close(told.normalise(grey).flatten(), torch.tensor([0.9, 0.4, 0.175]))


def test_floats_are_taken_as_normalised_already() -> None:
    given = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert encoder(SIGLIP).normalise(given) is given


def test_a_tower_in_bfloat16_gets_its_own_kind_of_numbers() -> None:
    half = encoder(SIGLIP).to(torch.bfloat16)
    assert half(pixels()).dtype == torch.bfloat16
    torch.testing.assert_close(half(pixels()).float(), encoder(SIGLIP)(pixels()), atol=0.3, rtol=0.1)


@pytest.mark.parametrize("stem", [STEM, {**STEM, "down": "stride", "norm": "layer"},
                                  {"channels": [8, 32], "norm": "group", "blocks": [0, 2]}])  # fmt: skip
@pytest.mark.parametrize("sizes", [SIGLIP, CLIP])
def test_a_stem_makes_the_grid_of_the_patch_convolution(sizes: dict[str, Any], stem: dict[str, Any]) -> None:
    grown = encoder(sizes, stem=stem)
    assert grown(pixels()).shape == encoder(sizes)(pixels()).shape
    assert not any(isinstance(module, nn.Conv2d) and module.stride == (4, 4) for module in grown.modules())
    # Every patch is made from its own surroundings: the last one does not see the first corner.
    first, changed = pixels(1), pixels(1)
    changed[:, :, :4, :4] = 255 - changed[:, :, :4, :4]
    stem_of = getattr(*grown.kind.cutter(grown.tower))
    before, after = (stem_of(grown.normalise(one)) for one in (first, changed))
    assert before.shape == (1, 32, 4, 4)
    if stem.get("norm") != "layer" and "blocks" not in stem:
        assert torch.equal(before[..., -1, -1], after[..., -1, -1])
    assert not torch.equal(before[..., 0, 0], after[..., 0, 0])


def test_gradients_reach_the_stem_and_the_embedding() -> None:
    grown = encoder(SIGLIP, stem=STEM)
    grown(pixels()).sum().backward()
    assert all(parameter.grad is not None for parameter in grown.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"type": "siglp"}, r"^model.encoder.type: there is no encoder 'siglp'; did you mean 'siglip'\?$"),
        ({**SIGLIP, "hiden_size": 3}, r"^model.encoder has no key 'hiden_size'; did you mean 'hidden_size'\?$"),
        ({**SIGLIP, "hidden_size": "x"}, r"^model.encoder.hidden_size = 'x' is wrong: it must be a whole number"),
        ({**SIGLIP, "num_hidden_layers": 0}, r"^model.encoder.num_hidden_layers = 0 is wrong"),
        ({**SIGLIP, "num_attention_heads": 3}, r"hidden_size 32 is not a multiple of num_attention_heads 3$"),
        ({**SIGLIP, "patch_size": 32}, r"image_size 16 is less than patch_size 32$"),
        ({**SIGLIP, "hidden_act": 3}, r"^model.encoder is wrong: Field 'hidden_act' .*expected str, got int"),
    ],
)
def test_wrong_sizes_are_one_sentence(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        tower_config(sizes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "encoder.layer = 3, but the tower's layers are counted from 0 to 2"),
        ({"layer": -4}, "encoder.layer = -4, but the tower's layers are counted from 0 to 2"),
        ({"keep_cls": True}, "encoder.keep_cls is true, but a siglip_vision_model has no CLS token"),
        ({"stem": {"channels": [8]}}, "encoder.stem halves the side 1 times, which makes patches of 2 pixels; "
                                      "patch_size is 4"),
        ({"stem": {**STEM, "blocks": [1]}}, "encoder.stem has 2 channels but 1 blocks; one each is right"),
        ({"normalise": "hlf"}, "encoder.normalise = 'hlf' is wrong: input should be 'half', 'clip' or 'imagenet'"),
        ({"stem": {"chanels": [8]}}, "encoder.stem has no key 'chanels'; did you mean 'channels'?"),
        ({"stem": {"channels": [0, 8]}}, "encoder.stem.channels.0 = 0 is wrong: input should be greater than 0"),
    ],
)  # fmt: skip
def test_a_wrong_use_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_usage(tower_config(SIGLIP), validate(EncoderOptions, options, "encoder"), "encoder")
    assert str(error.value) == message


def test_a_stem_wants_patches_that_fill_the_picture() -> None:
    with pytest.raises(UserError, match="18 is not a multiple of 4"):
        check_usage(tower_config({**SIGLIP, "image_size": 18}), validate(EncoderOptions, {"stem": STEM}, "e"), "e")


def test_sizes_that_follow_from_others_are_filled_in() -> None:
    config = tower_config({"type": "siglip", "hidden_size": 192})
    assert (config.intermediate_size, config.num_attention_heads, config.vision_use_head) == (768, 3, False)
