from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.internvl.modeling_internvl import InternVLModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from kit import stir
from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS, ConnectorOptions
from sightling.sight.connectors.pixel_shuffle import shuffle


def options(**told: Any) -> ConnectorOptions:
    return make(CONNECTORS, told, "connector")


def features(count: int, patches: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, patches, width, generator=torch.Generator().manual_seed(seed))


CHOICES = st.one_of(
    st.builds(dict, type=st.just("linear"), bias=st.booleans()),
    st.builds(dict, type=st.just("mlp"), depth=st.integers(1, 3), norm=st.booleans(), bias=st.booleans()),
    st.builds(dict, type=st.just("pixel_shuffle"), factor=st.integers(1, 3), depth=st.integers(1, 3),
              version=st.sampled_from(["v1", "v2"])),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 1), st.integers(1, 3))
def test_as_many_tokens_as_were_counted(told: dict[str, Any], rows: int, columns: int, extra: int, count: int) -> None:
    chosen = options(**told)
    if told["type"] == "pixel_shuffle":
        rows, columns, extra = rows * told["factor"], columns * told["factor"], 0
    made = chosen.build(6, 10)
    out = made(features(count, rows * columns + extra, 6), (rows, columns))
    assert out.shape == (count, chosen.tokens(rows, columns, extra), 10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_the_second_version_of_pixel_shuffle_is_transformers_and_the_first_is_its_transpose(
    half_rows: int, width: int, factor: int
) -> None:
    side = half_rows * factor
    given_NPD = features(2, side * side, 4 * width)
    # InternVL shuffles a square; its method uses nothing of the model.
    square = given_NPD.view(2, side, side, 4 * width)
    theirs = InternVLModel.pixel_shuffle(SimpleNamespace(), square, scale_factor=1 / factor)  # type: ignore[arg-type]
    torch.testing.assert_close(shuffle(given_NPD, (side, side), factor, "v2"), theirs.flatten(1, 2), rtol=0, atol=0)
    first = shuffle(given_NPD, (side, side), factor, "v1")
    torch.testing.assert_close(first, theirs.transpose(1, 2).flatten(1, 2), rtol=0, atol=0)


def test_a_token_holds_the_square_of_its_place() -> None:
    # Feature (row, column) holds the numbers row and column, so a token tells where it was made from.
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    grid = torch.stack([rows, columns], dim=-1).view(1, 24, 2)
    second = shuffle(grid, (4, 6), 2, "v2").view(2, 3, 4, 2)
    assert second[1, 2].tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    first = shuffle(grid, (4, 6), 2, "v1").view(3, 2, 4, 2)
    assert torch.equal(first.transpose(0, 1), second)


def test_an_mlp_of_two_layers_is_llavas_projector_and_one_layer_is_linear() -> None:
    vision = CLIPVisionConfig(hidden_size=8, num_attention_heads=1)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(hidden_size=12, num_attention_heads=1))
    theirs = stir(LlavaMultiModalProjector(config), 0)
    ours = options(type="mlp", depth=2).build(8, 12)
    ours.load_state_dict({f"layers.{2 * (layer - 1)}.{kind}": getattr(getattr(theirs, f"linear_{layer}"), kind)
                          for layer in (1, 2) for kind in ("weight", "bias")})  # fmt: skip
    given_NPD = features(2, 5, 8)
    torch.testing.assert_close(ours(given_NPD, (1, 5)), theirs(given_NPD))
    one, linear = options(type="mlp", depth=1).build(8, 12), options(type="linear").build(8, 12)
    linear.projection.load_state_dict(one.layers[0].state_dict())
    torch.testing.assert_close(one(given_NPD, (1, 5)), linear(given_NPD, (1, 5)))


def test_an_mlp_with_a_norm_is_minimind_vs_of_2026() -> None:
    made = options(type="mlp", depth=2, norm=True).build(8, 12)
    assert [type(layer) for layer in made.layers] == [nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear]


def test_wrong_grids_and_options_are_told_with_their_numbers() -> None:
    with pytest.raises(UserError, match=r"a grid of 7 x 8 features is not divisible by factor 2$"):
        options(type="pixel_shuffle").tokens(7, 8)
    with pytest.raises(UserError, match=r"cannot place a CLS token in its grid; set encoder.keep_cls to false$"):
        options(type="pixel_shuffle").tokens(8, 8, 1)
    with pytest.raises(ValueError, match=r"^17 features do not fill a grid of 4 x 4 = 16$"):
        options(type="pixel_shuffle").build(4, 4)(features(1, 17, 4), (4, 4))
    with pytest.raises(UserError, match=r"^connector has no key 'dept'; did you mean 'depth'\?$"):
        options(type="mlp", dept=2)
    with pytest.raises(UserError, match=r"^connector.depth = 0 is wrong: input should be greater than or equal to 1$"):
        options(type="mlp", depth=0)
    with pytest.raises(UserError, match=r"^connector.type: there is no connector 'pixelshuffle'; did you mean 'pixel_"):
        options(type="pixelshuffle")
