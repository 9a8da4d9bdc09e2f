"""DINO, SigLIP2, EVA and joined towers: features are those of transformers' own, on any grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qwenkit
from kit import CLIP, SIGLIP, alone, grow, picture, section, stir, talk
from sightling.errors import UserError
from sightling.model import VisionLanguageModel
from sightling.model.build import check_model
from sightling.parts import validate
from sightling.sight.encoders import Encoder, EncoderOptions, tower_config

SIZES = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "dinov2": {"type": "dinov2", **SIZES},
    "dinov2, registers": {"type": "dinov2_registers", **SIZES, "num_register_tokens": 3},
    "dinov3": {"type": "dinov3", **SIZES, "num_register_tokens": 3},
    "siglip2": {"type": "siglip2", **{key: SIZES[key] for key in list(SIZES)[1:]}, "num_patches": 16},
    "eva": {"type": "eva", **SIZES},
    "eva, instruct": {"type": "eva_instruct", **SIZES},
    "internvit": {"type": "internvit", **SIZES},
}
JOINED = {"type": "joined", "towers": [{**CLIP, "layer": -2}, {**TOWERS["dinov2"], "image_size": 24, "patch_size": 6},
                                       {**SIGLIP, "layer": [0, -1]}]}  # fmt: skip


def encoder(told: dict[str, Any], **options: Any) -> Encoder:
    return stir(Encoder(tower_config(told), validate(EncoderOptions, options, "encoder")), 0).eval()


def pixels(count: int = 3, height: int = 24, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def theirs(ours: Encoder, shown: Tensor, layer: int) -> Tensor:
    """The same from the whole tower's own forward pass."""
    told: dict[str, Any] = {"pixel_values": ours.normalise(shown)}
    if ours.config.model_type == "siglip2_vision_model":
        rows, columns = shown.shape[2] // 4, shown.shape[3] // 4
        laid = told["pixel_values"].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1)
        told = {"pixel_values": laid.reshape(len(shown), rows * columns, -1),
                "pixel_attention_mask": torch.ones(len(shown), rows * columns),
                "spatial_shapes": torch.tensor([[rows, columns]] * len(shown))}  # fmt: skip
    elif "blip" in ours.config.model_type:
        told["interpolate_pos_encoding"] = True
    output = ours.tower(**told, output_hidden_states=True)
    found = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return found[:, ours.kind.before(ours.config) :]


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_features_are_those_of_transformers_own_tower_on_any_grid(name: str, layer: int) -> None:
    ours = encoder(TOWERS[name], layer=layer)
    for height, width in ((16, 16), (24, 32), (8, 20)):
        shown = pixels(2, height, width)
        with torch.no_grad():
            torch.testing.assert_close(ours(shown), theirs(ours, shown, layer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_inputs_of_several_grids_have_what_each_has_alone(name: str) -> None:
    ours, shown, grids = encoder(TOWERS[name]), pixels(), [(6, 8), (2, 3), (6, 2)]
    with torch.no_grad():
        found = ours(shown, grids)
        for number, (rows, columns) in enumerate(grids):
            own = ours(shown[number : number + 1, :, : rows * 4, : columns * 4])[0]
            torch.testing.assert_close(found[number, : rows * columns], own, atol=1e-5, rtol=1e-5)
            assert not found[number, rows * columns :].any()
        # What lies beyond a grid is never looked at.
        spoilt = shown.clone()
        spoilt[1, :, 8:], spoilt[1, :, :, 12:] = 255, 3
        assert torch.equal(found, ours(spoilt, grids))


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "siglip2"])
def test_a_cls_token_is_kept_when_asked_and_registers_never(name: str) -> None:
    kept, dropped = encoder(TOWERS[name], keep_cls=True), encoder(TOWERS[name])
    with torch.no_grad():
        assert kept(pixels()).shape == (3, 49, 32)
        torch.testing.assert_close(kept(pixels())[:, 1:], dropped(pixels()))


@pytest.mark.parametrize("name", [name for name in TOWERS])
def test_positions_that_a_tower_was_never_trained_with_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^encoder.positions = 'bucketed' is not for a .*; clip, .*siglip.* take it$"):
        encoder(TOWERS[name], positions="bucketed")(pixels())


def test_joined_towers_give_what_each_gives_channel_by_channel() -> None:
    ours = encoder(JOINED)
    assert ours.width == 32 * 4 and (ours.image_size, ours.patch_size) == (16, 4)
    shown = pixels(2, 16, 16)
    first, second, third = ours.tower.towers  # type: ignore[union-attr]
    with torch.no_grad():
        found = ours(shown)
        # Pixels pass through another normalisation on their way, so the last digits differ.
        torch.testing.assert_close(found[..., :32], first(shown), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found[..., 64:], third(shown), atol=1e-3, rtol=1e-3)
        seen = torch.nn.functional.interpolate(ours.normalise(shown), size=(24, 24), mode="bicubic", antialias=True)
        mean, deviation = (torch.tensor(told).view(1, 3, 1, 1) for told in
                           (second.statistics.mean, second.statistics.std))  # fmt: skip
        torch.testing.assert_close(found[..., 32:64], second((seen / 2 + 0.5 - mean) / deviation))


def test_a_model_of_joined_towers_is_saved_and_answers_as_before(tmp_path: Path) -> None:
    model, processor = grow(encoder=JOINED, tiling={"type": "native", "min_pixels": 64, "max_pixels": 1024})
    sample = talk((picture(1, 30, 50), "red?"), "yes")
    model.save_pretrained(tmp_path)
    again = VisionLanguageModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(alone(again, processor, sample), alone(model, processor, sample))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"type": "joined"}, r"^model.encoder.towers must list at least two towers to join$"),
        ({"type": "joined", "towers": [CLIP]}, r"^model.encoder.towers must list at least two towers to join$"),
        ({"type": "joined", "towers": [CLIP, 3]}, r"^model.encoder.towers.1 must be a section .*, not 3$"),
        ({"type": "joined", "towers": [CLIP, {**SIGLIP, "hiden_size": 2}]},
         r"^model.encoder.towers.1 has no key 'hiden_size'; did you mean 'hidden_size'\?$"),
        ({"type": "joined", "towers": [CLIP, {**CLIP, "keep_cls": True}]}, r"^model.encoder.towers.1.keep_cls is true"),
        ({"type": "joined", "towers": [CLIP, {**SIGLIP, "layer": 9}]}, r"^model.encoder.towers.1.layer = 9, but the"),
        ({**JOINED, "hidden_size": 3}, r"^model.encoder has no key 'hidden_size'; a joined encoder's sizes are those"),
        ({**TOWERS["siglip2"], "stem": {"channels": [8, 16]}}, r"^model.encoder.stem cannot be set: a siglip2_vision"),
        ({**JOINED, "layer": -2}, r"^model.encoder.layer is each tower's own here; set it for one of model"),
        ({"type": "siglip2", "num_patches": 15, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1},
         r"^model.encoder.num_patches = 15 is no square; its table of positions must be$"),
    ],
)  # fmt: skip
def test_towers_that_cannot_be_built_are_one_sentence(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(section(encoder=told))


@pytest.mark.parametrize("name", ["dinov2", "dinov2, registers", "eva", "internvit"])
def test_a_stem_takes_the_place_of_a_tower_s_patches(name: str) -> None:
    grown = encoder(TOWERS[name], stem={"channels": [8, 16]})
    assert grown(pixels(2, 16, 16)).shape == (2, 16, 32)
    assert not any(isinstance(module, torch.nn.Conv2d) and module.stride == (4, 4) for module in grown.modules())
    grown(pixels(2, 16, 16)).sum().backward()
    assert all(one.grad is not None for one in grown.kind.cutter(grown.tower)[0].parameters() if one.ndim > 1)


def test_a_stem_of_qwen_s_tower_is_run_at_once() -> None:
    grown = encoder({"type": "qwen3_vl", "hidden_size": 32, "depth": 1, "num_heads": 2, "patch_size": 4,
                     "num_position_embeddings": 16, "intermediate_size": 48}, stem={"channels": [8, 16]})  # fmt: skip
    assert grown(pixels(2, 16, 24)).shape == (2, 24, 32)


WITH_CLS = ("clip", "dinov2", "dinov3", "internvit", "eva")


@pytest.mark.parametrize(
    ("name", "keep_cls"),
    [*((name, False) for name in (*TOWERS, *qwenkit.TOWERS, "joined", "clip", "siglip")),
     *((name, True) for name in WITH_CLS)],
)  # fmt: skip
def test_inputs_of_several_grids_are_as_they_are_alone_whatever_lies_beside_them(name: str, keep_cls: bool) -> None:
    told = {**TOWERS, **qwenkit.TOWERS, "joined": JOINED, "clip": CLIP, "siglip": SIGLIP}[name]
    options: dict[str, Any] = {"positions": "bucketed"} if name in ("clip", "siglip") else {}
    seen = encoder(told, **options, **({"keep_cls": True} if keep_cls else {}))
    grids = [(4, 6), (2, 4), (2, 8), (6, 2)]
    shown = seen.normalise(pixels(len(grids)))
    spoilt = torch.full_like(shown, torch.nan)
    for one, whole, (rows, columns) in zip(spoilt, shown, grids, strict=True):
        one[:, : 4 * rows, : 4 * columns] = whole[:, : 4 * rows, : 4 * columns]
    with torch.no_grad():
        together = seen(spoilt, grids)
        for found, whole, (rows, columns) in zip(together, shown, grids, strict=True):
            own = seen(whole[None, :, : 4 * rows, : 4 * columns])[0]
            torch.testing.assert_close(found[: len(own)], own, rtol=1e-5, atol=1e-5)
            assert len(own) == rows * columns + keep_cls and not found[len(own) :].any()
