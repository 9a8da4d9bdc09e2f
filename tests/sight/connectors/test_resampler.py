"""``resampler`` beside MiniCPM-V's and Qwen-VL's rules written as loops; transformers has neither model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from connector_kit import GRIDS, built, features, options, swapped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightling.errors import UserError


def waves(x: float, y: float, width: int) -> Tensor:
    """The embedding of one place: sines of x, cosines of x, sines of y, cosines of y."""
    frequencies = [1 / 10_000 ** (number / (width / 4)) for number in range(width // 4)]
    found = [wave(axis * one) for axis in (x, y) for wave in (math.sin, math.cos) for one in frequencies]
    return torch.tensor(found)


def table(rows: int, columns: int, width: int) -> Tensor:
    """(rows, columns, width)."""
    return torch.stack([torch.stack([waves(x, y, width) for x in range(columns)]) for y in range(rows)])


def slow(made: Any, features_PD: Tensor, places_PD: Tensor, query_places_QD: Tensor | None, heads: int) -> Tensor:
    """One input, head by head and query by query."""
    weights = dict(made.state_dict())
    width = made.query.shape[1]
    if "kv_proj.weight" in weights:
        features_PD = features_PD @ weights["kv_proj.weight"].T
    values_PD = F.layer_norm(features_PD, (width,), weights["ln_kv.weight"], weights["ln_kv.bias"], 1e-6)
    queries_QD = F.layer_norm(weights["query"], (width,), weights["ln_q.weight"], weights["ln_q.bias"], 1e-6)
    if query_places_QD is not None:
        queries_QD = queries_QD + query_places_QD
    q, k, v = (
        told @ weights["attn.in_proj_weight"][width * part : width * (part + 1)].T
        + weights["attn.in_proj_bias"][width * part : width * (part + 1)]
        for part, told in enumerate((queries_QD, values_PD + places_PD, values_PD))
    )
    each = width // heads
    out = torch.zeros(len(q), width)
    for head in range(heads):
        own = slice(each * head, each * (head + 1))
        for number in range(len(q)):
            scores = torch.stack([q[number, own] @ key[own] for key in k]) / math.sqrt(each)
            share = scores.exp() / scores.exp().sum()
            out[number, own] = sum(share[place] * v[place, own] for place in range(len(v)))
    out = out @ weights["attn.out_proj.weight"].T + weights["attn.out_proj.bias"]
    return F.layer_norm(out, (width,), weights["ln_post.weight"], weights["ln_post.bias"], 1e-6) @ weights["proj"]


@pytest.mark.parametrize("in_width", [12, 16])
@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_minicpm_vs(grid: tuple[int, int], in_width: int) -> None:
    made = built(in_width, 16, type="resampler", queries=5, heads=2)
    given_NPD = features(2, grid[0] * grid[1], in_width)
    places = table(*grid, 16).flatten(0, 1)
    expected = torch.stack([slow(made, one, places, None, 2) for one in given_NPD])
    with torch.no_grad():
        torch.testing.assert_close(made(given_NPD, grid), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1
    assert ("kv_proj.weight" in made.state_dict()) == (in_width != 16)


@pytest.mark.parametrize("grid", [(3, 3), *GRIDS])
def test_it_is_qwen_vls(grid: tuple[int, int]) -> None:
    made = built(12, 16, type="resampler", version="qwen_vl", queries=9, heads=4)
    square = table(3, 3, 16)
    places = square
    if grid != (3, 3):
        # Each channel is a picture of its own.
        channels = [F.interpolate(square[None, None, :, :, one], grid, mode="bicubic")[0, 0] for one in range(16)]
        places = torch.stack(channels, dim=-1)
    given_NPD = features(2, grid[0] * grid[1], 12)
    expected = torch.stack([slow(made, one, places.flatten(0, 1), square.flatten(0, 1), 4) for one in given_NPD])
    with torch.no_grad():
        torch.testing.assert_close(made(given_NPD, grid), expected, atol=1e-5, rtol=1e-5)


VERSIONS = st.sampled_from(["minicpm_v", "qwen_vl"])
SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(VERSIONS, SHAPES, st.integers(0, 3), st.sampled_from([-1e4, 0.0, 1e4]))
def test_padding_never_changes_a_token(
    version: str, grids: list[tuple[int, int]], more: int, filler: float
) -> None:
    chosen = options(type="resampler", version=version, queries=4, heads=2)
    made = built(8, 8, type="resampler", version=version, queries=4, heads=2)
    longest = max(rows * columns for rows, columns in grids) + more
    padded = torch.full((len(grids), longest, 8), filler)
    for number, (rows, columns) in enumerate(grids):
        padded[number, : rows * columns] = features(1, rows * columns, 8, number)[0]
    with torch.no_grad():
        together = made(padded, grids)
        for number, (rows, columns) in enumerate(grids):
            alone = made(features(1, rows * columns, 8, number), (rows, columns))
            torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)
            assert together.shape[1] == chosen.tokens(rows, columns) == 4


@pytest.mark.parametrize("version", ["minicpm_v", "qwen_vl"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_order_of_rows_matters_through_the_places_of_the_keys(grid: tuple[int, int], version: str) -> None:
    made = built(8, 8, type="resampler", version=version, queries=4, heads=2)
    given_NPD = features(2, grid[0] * grid[1], 8)
    with torch.no_grad():
        straight = made(given_NPD, grid)
        assert not torch.allclose(made(swapped(given_NPD, grid), grid), straight, atol=1e-3)
        made.positions = lambda rows, columns: torch.zeros(rows * columns, 8)
        torch.testing.assert_close(made(swapped(given_NPD, grid), grid), made(given_NPD, grid))


def test_a_cls_token_is_looked_at_and_has_no_place() -> None:
    made = built(8, 8, type="resampler", queries=4, heads=2)
    given_NPD = features(1, 13, 8)
    places = torch.cat([torch.zeros(1, 8), table(3, 4, 8).flatten(0, 1)])
    with torch.no_grad():
        torch.testing.assert_close(made(given_NPD, (3, 4))[0], slow(made, given_NPD[0], places, None, 2))


def test_a_head_is_128_wide_unless_told() -> None:
    assert options(type="resampler").build(8, 512).attn.num_heads == 4
    assert options(type="resampler").build(8, 64).attn.num_heads == 1


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"a language model's width of 30 is not divisible by 4 heads$"):
        options(type="resampler", heads=4).build(8, 30)
    with pytest.raises(UserError, match=r"width of 30 is not divisible by 4, as its positions need$"):
        options(type="resampler", heads=3).build(8, 30)
    with pytest.raises(UserError, match=r"^connector: version qwen_vl lays its .* a square, which 8 do not fill$"):
        options(type="resampler", version="qwen_vl", queries=8)
    made = built(8, 8, type="resampler", queries=4)
    with pytest.raises(ValueError, match=r"^15 features do not fill a grid of 4 x 4 = 16$"):
        made(features(1, 15, 8), (4, 4))
    with pytest.raises(ValueError, match=r"^15 features do not fill a grid of 4 x 4 = 16$"):
        made(features(2, 15, 8), [(3, 3), (4, 4)])
    with pytest.raises(ValueError, match=r"^2 grids for 3 encoder inputs$"):
        made(features(3, 16, 8), [(4, 4), (4, 4)])
