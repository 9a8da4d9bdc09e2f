from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from kit import QWEN2, grow
from sightling.decode import decoder as decoder_module
from sightling.decode.decoder import decoder_for
from sightling.decode.own import OwnDecoder
from sightling.decode.products import BRIEF, BYTES, HALF, KEPT, NIBBLES, Product, exact
from sightling.decode.rounded import rounded
from sightling.errors import UserError


def drawn(*widths: int, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(96, width, bias=bias) for width in widths]


def made(layers: list[nn.Linear], stored: str, copied: bool = True) -> Product:
    return exact(layers, copied) if stored == KEPT else rounded(layers, stored)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "stored, copied, near",
    [(KEPT, True, 1e-6), (KEPT, False, 1e-6), (HALF, True, 1e-3), (BRIEF, True, 1e-2), (BYTES, True, 2e-2),
     (NIBBLES, True, 0.1)],
)  # fmt: skip
def test_side_by_side(stored: str, copied: bool, near: float, bias: bool) -> None:
    def far(found: torch.Tensor, expected: torch.Tensor) -> float:
        return float((found - expected).norm() / expected.norm())

    several, (one,) = drawn(32, 16, 16, bias=bias), drawn(64, bias=bias)
    with torch.inference_mode():
        for rows in (1, 7, 40):
            x, to = torch.randn(rows, 96), torch.randn(rows, 64)
            assert far(made(several, stored, copied)(x), torch.cat([layer(x) for layer in several], -1)) < near
            assert far(made([one], stored, copied).added(to, x), to + one(x)) < near


@pytest.mark.parametrize("stored", [HALF, BRIEF, BYTES, NIBBLES])
def test_a_matrix_of_zeros_stays_one(stored: str) -> None:
    (layer,) = drawn(16, bias=False)
    with torch.inference_mode():
        layer.weight.zero_()
        for rows in (3, 40):
            assert not made([layer], stored)(torch.randn(rows, 96)).any()


@pytest.mark.parametrize("stored", [HALF, BRIEF, BYTES, NIBBLES])
def test_a_row_does_not_depend_on_its_neighbours(stored: str) -> None:
    product = made(drawn(64), stored)
    with torch.inference_mode():
        x = torch.randn(6, 96)
        x[0] = 0
        x[1] *= 1e4
        alone = torch.cat([product(row[None]) for row in x])
        torch.testing.assert_close(product(x), alone, rtol=1e-4, atol=1e-4)


def scores(decoder: OwnDecoder, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return decoder.logits(decoder.feed(decoder.start(1), [tokens]))[0]


@pytest.mark.parametrize(
    "way, near", [("own_float16", 0.99999), ("own_bfloat16", 0.999), ("own_int8", 0.996), ("own_int4", 0.85)]
)
def test_rounded_weights_are_near_and_said_so(way: str, near: float) -> None:
    model, _ = grow(seed=2, language_model=QWEN2 | {"intermediate_size": 64})
    tokens = list(range(50, 70))
    exact = scores(OwnDecoder(model), tokens)
    decoder = decoder_for(model, way)
    assert decoder.way == way and decoder is decoder_for(model, way) is not decoder_for(model)
    assert isinstance(decoder, OwnDecoder)
    found = scores(decoder, tokens)
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > near
    assert not torch.equal(found, exact)


def test_bfloat16_is_usual_for_large_models_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = grow(seed=2, language_model=QWEN2)
    monkeypatch.setattr(decoder_module, "brief_is_fast", lambda: True)
    assert decoder_for(model).way == "own"
    monkeypatch.setattr(decoder_module, "LARGE", 1000)
    assert decoder_for(model).way == "own_bfloat16" and decoder_for(model, "own").way == "own"
    monkeypatch.setattr(decoder_module, "brief_is_fast", lambda: False)
    assert decoder_for(model).way == "own"


def test_rounded_weights_are_of_float32_on_a_cpu() -> None:
    model, _ = grow(seed=2)
    model.bfloat16()
    with pytest.raises(UserError, match="'own_float16' cannot decode this model: float16 weights are for a float32"):
        decoder_for(model, "own_float16")


def test_four_bits_need_widths_that_hold_whole_groups() -> None:
    model, _ = grow(seed=2, language_model=QWEN2)
    with pytest.raises(UserError, match="down_proj has 48 channels in and 32 out, and int4 weights need"):
        decoder_for(model, "own_int4")
