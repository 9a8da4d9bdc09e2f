"""``merger`` beside the towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, with the order of patches that theirs have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from connector_kit import GRIDS, built, features, options, renamed, swapped
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from kit import stir
from sightling.errors import UserError

PATCH = 14

SIZES = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2}


def qwen2_vl() -> Any:
    return Qwen2VisionTransformerPretrainedModel(
        Qwen2VLVisionConfig(**SIZES, embed_dim=16, hidden_size=24, mlp_ratio=2)
    )


def qwen2_5_vl() -> Any:
    # In a window as large as the picture, patches need no other order than the processor's.
    config = Qwen2_5_VLVisionConfig(
        **SIZES, hidden_size=16, out_hidden_size=24, intermediate_size=32, window_size=112, fullatt_block_indexes=[0, 1]
    )
    return Qwen2_5_VisionTransformerPretrainedModel(config)


def qwen3_vl() -> Any:
    config = Qwen3VLVisionConfig(
        **SIZES, hidden_size=16, out_hidden_size=24, intermediate_size=32, num_position_embeddings=64,
        deepstack_visual_indexes=[0],
    )  # fmt: skip
    return Qwen3VLVisionModel(config)


FAMILIES = {
    "qwen2_vl": (qwen2_vl, "merger", {"ln_q": "norm", "mlp": "layers"}, {}),
    "qwen2_5_vl": (qwen2_5_vl, "merger", {"ln_q": "norm", "mlp": "layers"}, {"norm": "rms"}),
    "qwen3_vl": (
        qwen3_vl, "merger", {"norm": "norm", "linear_fc1": "layers.0", "linear_fc2": "layers.2"}, {},
    ),
    "qwen3_vl in depth": (
        qwen3_vl, "deepstack_merger_list.0",
        {"norm": "norm", "linear_fc1": "layers.0", "linear_fc2": "layers.2"}, {"norm_joined": True},
    ),
}  # fmt: skip


def order(grid: tuple[int, int]) -> list[int]:
    """Which patch, counted row by row, stands where in what their processor makes."""
    rows, columns = grid
    numbers = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)
    image = Image.fromarray(numbers.repeat(PATCH, 0).repeat(PATCH, 1)).convert("RGB")
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, do_rescale=False, do_normalize=False, do_resize=False)
    patches = processor(image, return_tensors="pt")["pixel_values"]
    assert (patches == patches[:, :1]).all()
    return [int(number) for number in patches[:, 0]]


def heard(tower: Any, merger: Any, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What a tower hands to one of its mergers, and what comes out of it."""
    rows, columns = grid
    found = []
    hook = merger.register_forward_hook(lambda _, told, out: found.append((told[0], out)))
    pixels = features(1, rows * columns, 3 * 2 * PATCH**2)[0]
    with torch.no_grad():
        tower(pixels, grid_thw=torch.tensor([[1, rows, columns]]))
    hook.remove()
    return found[0]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_merger_of_the_family(family: str, grid: tuple[int, int]) -> None:
    grow, where, names, told = FAMILIES[family]
    tower = stir(grow(), 0).eval()
    theirs = tower.get_submodule(where)
    ours = built(16, 24, type="merger", **told)
    ours.load_state_dict(renamed(theirs.state_dict(), **names))
    before, after = heard(tower, theirs, grid)
    places = order(grid)
    assert sorted(places) == [*range(grid[0] * grid[1])] and places != sorted(places)
    row_by_row = torch.empty_like(before)
    row_by_row[places] = before
    with torch.no_grad():
        torch.testing.assert_close(ours(row_by_row[None], grid)[0], after, atol=1e-5, rtol=1e-5)
    assert after.std() > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["layer", "rms"]), st.booleans())
def test_as_many_tokens_as_were_counted(factor: int, rows: int, columns: int, norm: str, joined: bool) -> None:
    chosen = options(type="merger", factor=factor, norm=norm, norm_joined=joined)
    grid = (rows * factor, columns * factor)
    out = chosen.build(4, 10)(features(2, grid[0] * grid[1], 4), grid)
    assert out.shape == (2, chosen.tokens(*grid), 10)


def test_pairs_of_rows_change_places_with_their_tokens() -> None:
    made, given_NPD = built(6, 10, type="merger"), features(1, 24, 6)
    straight = made(given_NPD, (4, 6))
    pairs = given_NPD.view(1, 2, 12, 6).flip(1).reshape(1, 24, 6)
    torch.testing.assert_close(made(pairs, (4, 6)), swapped(straight, (2, 3)))
    # Inside a square each place has its own weights.
    within = made(swapped(given_NPD, (4, 6)), (4, 6))
    assert not torch.allclose(within[:, :3], straight[:, :3], atol=1e-2)
    torch.testing.assert_close(within[:, 3:], straight[:, 3:])


def test_what_fills_no_squares_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"^connector merger: a grid of 7 x 8 features is not divisible by factor 2$"):
        options(type="merger").tokens(7, 8)
    with pytest.raises(UserError, match=r"^connector merger cannot place a CLS token in its grid"):
        options(type="merger").tokens(8, 8, 1)
    with pytest.raises(ValueError, match=r"^17 features do not fill a grid of 4 x 4 = 16$"):
        built(4, 4, type="merger")(features(1, 17, 4), (4, 4))
