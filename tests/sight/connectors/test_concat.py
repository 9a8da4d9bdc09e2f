"""``concat`` beside MiniGPT-v2's rule written as loops; transformers has no such model."""

from __future__ import annotations

import pytest
import torch
from connector_kit import GRIDS, built, features, options, swapped
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.errors import UserError


@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (3, 12)])
def test_four_neighbours_of_a_row_are_joined_then_projected(grid: tuple[int, int]) -> None:
    rows, columns = grid
    made, given_NPD = built(6, 10, type="concat"), features(2, rows * columns, 6)
    weight, bias = made.projection.weight, made.projection.bias
    expected = torch.zeros(2, rows * columns // 4, 10)
    for number in range(2):
        for row in range(rows):
            for first in range(0, columns, 4):
                token = bias.clone()
                for place in range(4):
                    feature = given_NPD[number, row * columns + first + place]
                    token += weight[:, 6 * place : 6 * place + 6] @ feature
                expected[number, (row * columns + first) // 4] = token
    torch.testing.assert_close(made(given_NPD, grid), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_as_many_tokens_as_were_counted(count: int, rows: int, across: int, bias: bool) -> None:
    chosen = options(type="concat", count=count, bias=bias)
    out = chosen.build(6, 10)(features(2, rows * across * count, 6), (rows, across * count))
    assert out.shape == (2, chosen.tokens(rows, across * count), 10) and out.shape[1] == rows * across


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_change_places_with_their_tokens(grid: tuple[int, int]) -> None:
    rows, columns = grid
    made, given_NPD = built(6, 10, type="concat", count=2), features(1, rows * columns, 6)
    straight, changed = made(given_NPD, grid), made(swapped(given_NPD, grid), grid)
    assert torch.equal(changed, swapped(straight, (rows, columns // 2)))
    assert not torch.allclose(changed, straight, atol=1e-2)


def test_what_has_no_neighbours_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"the 6 columns of a grid of 4 x 6 features are not divisible by count 4$"):
        options(type="concat").tokens(4, 6)
    with pytest.raises(UserError, match=r"^connector concat cannot place a CLS token in its grid"):
        options(type="concat").tokens(4, 4, 1)
    with pytest.raises(ValueError, match=r"^17 features do not fill a grid of 4 x 4 = 16$"):
        built(6, 10, type="concat")(features(1, 17, 6), (4, 4))
