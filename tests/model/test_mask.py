from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.model.mask import TRUNK, tree_mask


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Document, branch and position of each token of a row, as packing lays them out, padding last."""
    documents: list[int] = []
    branches: list[int] = []
    positions: list[int] = []
    for number in range(draw(st.integers(1, 3))):
        trunk = draw(st.integers(0, 3))
        documents += [number] * trunk
        branches += [TRUNK] * trunk
        positions += range(trunk)
        for branch in range(1, draw(st.integers(1, 3)) + 1):
            own = draw(st.integers(0 if trunk else 1, 3))
            documents += [number] * own
            branches += [branch] * own
            positions += range(trunk, trunk + own)
    padding = draw(st.integers(0, 3))
    return documents + [-1] * padding, branches + [0] * padding, positions + [0] * padding


@settings(max_examples=80, deadline=None)
@given(rows(), st.one_of(st.none(), st.integers(1, 6)))
def test_a_token_sees_its_own_path_and_nothing_else(
    row: tuple[list[int], list[int], list[int]], window: int | None
) -> None:
    documents, branches, positions = row
    mask = tree_mask(
        torch.tensor([documents]), torch.tensor([branches]), torch.float32,
        position_ids_BT=torch.tensor([positions]), window=window,
    )  # fmt: skip
    assert mask.shape == (1, 1, len(documents), len(documents)) and mask.dtype == torch.float32
    for query in range(len(documents)):
        for key in range(len(documents)):
            if documents[query] < 0:
                seen = query == key
            else:
                seen = documents[key] == documents[query] and key <= query
                seen = seen and (branches[key] in (TRUNK, branches[query]))
                seen = seen and (window is None or positions[query] - positions[key] < window)
            assert (mask[0, 0, query, key] == 0) == seen
            assert seen or mask[0, 0, query, key] == torch.finfo(torch.float32).min
    # No row of the mask is empty: an empty one would average over everything, or be not a number.
    assert (mask == 0).any(-1).all()


def test_a_window_without_positions_is_a_bug() -> None:
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="position_ids_BT"):
        tree_mask(ids, ids, torch.float32, window=2)
