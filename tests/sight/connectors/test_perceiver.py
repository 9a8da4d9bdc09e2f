"""``perceiver`` beside Idefics2's connector and IDEFICS's resampler, which is Flamingo's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from connector_kit import DEVIATION, GRIDS, built, features, options, swapped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Idefics2Config, Idefics2Model
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from kit import stir
from sightling.errors import UserError

PATCH = 4

SMALL: dict[str, Any] = {"queries": 5, "depth": 2, "heads": 4, "head_dim": 6}
OURS = {"idefics2": {**SMALL, "kv_heads": 2, "projection_width": 28}, "flamingo": {**SMALL, "version": "flamingo"}}


def idefics2() -> Any:
    config = Idefics2Config(
        vision_config={"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": PATCH},
        perceiver_config={"hidden_size": 20, "resampler_n_latents": 5, "resampler_depth": 2, "resampler_n_heads": 4,
                          "resampler_head_dim": 6, "num_key_value_heads": 2},
        text_config={"model_type": "mistral", "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50},
        image_token_id=49,
    )  # fmt: skip
    return stir(Idefics2Model(config), 0, DEVIATION).eval()


@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_idefics2s(grid: tuple[int, int]) -> None:
    theirs = idefics2()
    chosen = options(type="perceiver", **OURS["idefics2"])
    ours = chosen.build(24, 20).eval()
    ours.load_state_dict(theirs.connector.state_dict())
    pixels = features(2, 3, grid[0] * grid[1] * PATCH**2).view(2, 1, 3, grid[0] * PATCH, grid[1] * PATCH)
    with torch.no_grad():
        expected = torch.stack([*theirs.get_image_features(pixels).pooler_output])
        patches = torch.ones(2, *grid, dtype=torch.bool)
        found = theirs.vision_model(pixels[:, 0], patch_attention_mask=patches).last_hidden_state
        tokens = ours(found, grid)
    assert tokens.shape[1] == chosen.tokens(*grid) == 5
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_pictures_of_several_grids_are_idefics2s_too() -> None:
    theirs = idefics2()
    ours = options(type="perceiver", **OURS["idefics2"]).build(24, 20).eval()
    ours.load_state_dict(theirs.connector.state_dict())
    # Theirs pads below and to the right, in pixels; ours after the last patch.
    pixels = torch.zeros(3, 1, 3, 8 * PATCH, 6 * PATCH)
    here = torch.zeros(3, 1, 8 * PATCH, 6 * PATCH, dtype=torch.bool)
    for number, (rows, columns) in enumerate(GRIDS):
        drawn = features(3, rows * PATCH, columns * PATCH, number)
        pixels[number, 0, :, : rows * PATCH, : columns * PATCH] = drawn
        here[number, 0, : rows * PATCH, : columns * PATCH] = True
    patches = here[:, 0, ::PATCH, ::PATCH].contiguous()
    padded = torch.full((3, 40, 24), 1e4)
    with torch.no_grad():
        expected = torch.stack([*theirs.get_image_features(pixels, pixel_attention_mask=here).pooler_output])
        found = theirs.vision_model(pixels[:, 0], patch_attention_mask=patches).last_hidden_state
        for number, (rows, columns) in enumerate(GRIDS):
            padded[number, : rows * columns] = found[number][patches[number].flatten()]
        tokens = ours(padded, GRIDS)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_with_its_activation_flamingos_is_ideficss(grid: tuple[int, int]) -> None:
    config = SimpleNamespace(
        perceiver_config=SimpleNamespace(qk_layer_norms_perceiver=False), vision_config=SimpleNamespace(embed_dim=24)
    )
    theirs = IdeficsPerceiverResampler(config, embed_dim=24, depth=2, n_heads=4, head_dim=6, n_latents=5)
    theirs = stir(theirs, 0, 0.4).eval()
    ours = built(24, 20, type="perceiver", **OURS["flamingo"], activation="relu")
    names = {"context_layer_norm": "features_norm", "latents_layer_norm": "queries_norm", "output_proj": "o_proj",
             "ln": "ffn_norm", "fc": "up_proj", "c_proj": "down_proj"}  # fmt: skip
    weights = {"query": theirs.latents, **{f"projection.{key}": ours.state_dict()[f"projection.{key}"]
                                           for key in ("weight", "bias")}}  # fmt: skip
    for name, tensor in theirs.state_dict().items():
        steps = name.split(".")
        if steps[0] == "blocks":
            weights[f"layers.{steps[1]}.{names.get(steps[3], steps[3])}.{steps[4]}"] = tensor
        elif steps[0] == "layer_norm":
            weights[f"norm.{steps[1]}"] = tensor
    ours.load_state_dict(weights)
    given_NPD = features(2, grid[0] * grid[1], 24)
    with torch.no_grad():
        expected = ours.projection(theirs(given_NPD))
        torch.testing.assert_close(ours(given_NPD, grid), expected, atol=1e-5, rtol=1e-5)


def normed(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


@pytest.mark.parametrize("grid", GRIDS)
def test_flamingos_rule_written_as_sums(grid: tuple[int, int]) -> None:
    ours = built(12, 10, type="perceiver", **OURS["flamingo"])
    weights = dict(ours.state_dict())
    given_NPD = features(2, grid[0] * grid[1], 12)
    x = weights["query"].expand(2, 5, 12)
    for layer in range(2):
        own = {name.removeprefix(f"layers.{layer}."): one for name, one in weights.items()}
        queries = normed(x, own, "queries_norm")
        everything = torch.cat([normed(given_NPD, own, "features_norm"), queries], dim=1)
        split = {name: own[f"{name}_proj.weight"].view(4, 6, 12) for name in "qkv"}
        q = torch.einsum("nqd,hed->nhqe", queries, split["q"])
        k, v = (torch.einsum("nkd,hed->nhke", everything, split[name]) for name in "kv")
        scores = torch.einsum("nhqe,nhke->nhqk", q, k) / 6**0.5
        looked = torch.einsum("nhqk,nhke->nqhe", scores.softmax(-1), v)
        x = x + torch.einsum("nqhe,dhe->nqd", looked, own["o_proj.weight"].view(12, 4, 6))
        hidden = normed(x, own, "ffn_norm") @ own["up_proj.weight"].T
        x = x + hidden.clamp(min=0) ** 2 @ own["down_proj.weight"].T
    expected = normed(x, weights, "norm") @ weights["projection.weight"].T + weights["projection.bias"]
    with torch.no_grad():
        torch.testing.assert_close(ours(given_NPD, grid), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["idefics2", "flamingo"]),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.integers(0, 3), st.sampled_from([-1e4, 0.0, 1e4]),
)  # fmt: skip
def test_padding_never_changes_a_token(
    version: str, grids: list[tuple[int, int]], more: int, filler: float
) -> None:
    made = built(8, 12, type="perceiver", **OURS[version])
    longest = max(rows * columns for rows, columns in grids) + more
    padded = torch.full((len(grids), longest, 8), filler)
    for number, (rows, columns) in enumerate(grids):
        padded[number, : rows * columns] = features(1, rows * columns, 8, number)[0]
    with torch.no_grad():
        together = made(padded, grids)
        assert together.shape == (len(grids), 5, 12)
        for number, (rows, columns) in enumerate(grids):
            alone = made(features(1, rows * columns, 8, number), (rows, columns))
            torch.testing.assert_close(together[number], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("version", OURS)
def test_places_are_only_those_that_the_features_bring(version: str) -> None:
    made, given_NPD = built(8, 12, type="perceiver", **OURS[version]), features(2, 12, 8)
    with torch.no_grad():
        straight = made(given_NPD, (3, 4))
        torch.testing.assert_close(made(swapped(given_NPD, (3, 4)), (3, 4)), straight, atol=1e-4, rtol=1e-4)
        places = features(1, 12, 8, seed=9)
        moved = made(swapped(given_NPD, (3, 4)) + places, (3, 4))
        assert not torch.allclose(moved, made(given_NPD + places, (3, 4)), atol=1e-2)


@pytest.mark.parametrize("version", OURS)
def test_fresh_queries_differ(version: str) -> None:
    out = options(type="perceiver", **OURS[version]).build(8, 12)(features(1, 4, 8), (2, 2))[0]
    assert (torch.cdist(out, out) + torch.eye(5)).min() > 1e-3


def test_the_sizes_are_the_originals_unless_told() -> None:
    with torch.device("meta"):
        second = options(type="perceiver").build(1152, 4096)
        first = options(type="perceiver", version="flamingo").build(1536, 4096)
    attention = second.perceiver_resampler.layers[0].self_attn
    assert (len(second.perceiver_resampler.layers), attention.k_proj.out_features) == (3, 4 * 96)
    assert (len(first.layers), first.layers[0].k_proj.out_features) == (6, 1536)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"^connector: 6 heads are not divisible by 4 kv_heads$"):
        options(type="perceiver", heads=6)
    with pytest.raises(UserError, match=r"^connector: version flamingo has no kv_heads$"):
        options(type="perceiver", version="flamingo", kv_heads=2)
    with pytest.raises(UserError, match=r"^connector: version idefics2 has no activation$"):
        options(type="perceiver", activation="relu")
    for version in OURS:
        with pytest.raises(ValueError, match=r"^4 features do not fill a grid of 3 x 2 = 6$"):
            built(8, 12, type="perceiver", **OURS[version])(features(1, 4, 8), (3, 2))
