"""Which tiling schemes a connector takes: what fits does for every picture, what does not is told at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import stir
from sightling.errors import UserError
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.fitting import check_fit
from sightling.sight.tiling import TILINGS

FLAMINGO = {"version": "flamingo", "queries": 3, "depth": 1, "heads": 2, "head_dim": 8}

KINDS: dict[str, list[dict[str, Any]]] = {
    "linear": [{}],
    "mlp": [{}],
    "pixel_shuffle": [{}, {"factor": 3}, {"version": "v1"}],
    "concat": [{}, {"count": 3}],
    "merger": [{}, {"factor": 4, "norm": "rms"}],
    "resampler": [{"queries": 4, "heads": 2}, {"queries": 4, "heads": 2, "version": "qwen_vl"}, {"queries": 5}],
    "qformer": [{"queries": 4, "width": 16, "heads": 2, "depth": 2}, {"queries": 5, "width": 8, "heads": 2}],
    "perceiver": [{"queries": 4, "heads": 4, "head_dim": 8, "depth": 1}, FLAMINGO],
    "cross_attention": [{}, {"form": "flamingo", "perceiver": FLAMINGO}],
    "expert": [{}],
}

SCHEMES: list[dict[str, Any]] = [
    {"type": "single"}, {"type": "single", "fit": "letterbox"}, {"type": "single", "fit": "crop"},
    {"type": "anyres"}, {"type": "anyres", "unpad": False}, {"type": "anyres", "shapes": 6, "limit": 9},
    {"type": "dynamic"}, {"type": "dynamic", "max_tiles": 30, "thumbnail": False},
    {"type": "overlapping"}, {"type": "overlapping", "overlap": 0.5, "max_tiles": 6},
    {"type": "canvas"}, {"type": "canvas", "max_tiles": 6},
    {"type": "adaptive"}, {"type": "adaptive", "merge": 2}, {"type": "adaptive", "merge": 4, "max_slices": 3},
    {"type": "tagged"}, {"type": "tagged", "squares": 6, "max_tiles": 7}, {"type": "tagged", "cut": False},
    {"type": "bounded"}, {"type": "bounded", "shortest": 20, "longest": 90, "quarters": True},
    {"type": "native"}, {"type": "native", "merge": 1, "min_pixels": 1}, {"type": "native", "merge": 12},
]  # fmt: skip

ENCODERS = st.sampled_from([(224, 16), (448, 14), (336, 14), (56, 14), (100, 14), (384, 14), (60, 4)])
"""(image size, patch size); not all sides are divided by their patches."""

CONNECTED = st.sampled_from([{"type": name, **told} for name, kinds in KINDS.items() for told in kinds])


def test_every_connector_is_tried() -> None:
    assert set(KINDS) == set(CONNECTORS.names())
    assert {told["type"] for told in SCHEMES} == set(TILINGS.names())


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """1 to 20,000 pixels a side, at most 200 times as long as short."""
    short = draw(st.integers(1, 100) | st.integers(1, 20_000))
    long = draw(st.integers(short, min(20_000, 200 * short)))
    return (short, long) if draw(st.booleans()) else (long, short)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SCHEMES), CONNECTED, ENCODERS, st.integers(0, 1), sizes(), st.none() | st.integers(1, 5))
def test_what_fits_can_be_counted_for_every_picture_and_what_does_not_is_told_with_what_does(
    told: dict[str, Any], other: dict[str, Any], encoder: tuple[int, int], extra: int, size: tuple[int, int],
    budget: int | None,
) -> None:  # fmt: skip
    tiling, connector = make(TILINGS, told, "tiling"), make(CONNECTORS, other, "connector")
    try:
        check_fit(tiling, connector, *encoder, extra, "model")
    except UserError as error:
        said = str(error)
        assert said.startswith("model.tiling does not fit: ") and "\n" not in said
        for one in said.partition("schemes that fit are ")[2].split(", ") if "schemes that fit" in said else []:
            name, _, change = one.partition(" with ")
            key, _, value = change.partition(": ")
            options = {key: False if value == "false" else int(value)} if key else {}
            check_fit(make(TILINGS, {"type": name, **options}, "tiling"), connector, *encoder, extra, "model")
        return
    plan = tiling.plan(*size, *encoder, budget)
    unit = tiling.unit(*encoder)
    assert all(rows % unit[0] == 0 and columns % unit[1] == 0 and rows and columns for rows, columns in plan.patches)
    counted = sum(piece for piece in connector.pieces(plan, extra) if isinstance(piece, int))
    made = [connector.tokens(*grid, extra) for grid in plan.patches]
    if connector.beside:
        assert counted == 1
    elif not tiling.ends_rows:
        assert counted == sum(made)


@settings(max_examples=40, deadline=None)
@given(CONNECTED, st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4))
def test_a_connector_makes_what_it_counted_and_padding_never_changes_it(
    told: dict[str, Any], shapes: list[tuple[int, int]]
) -> None:
    options = make(CONNECTORS, told, "connector")
    unit = getattr(options, "factor", getattr(options, "count", 1))
    grids = [(rows * unit, columns * unit) for rows, columns in shapes]
    connector = stir(options.build(8, 16), 0).eval()
    longest = max(rows * columns for rows, columns in grids)
    generator = torch.Generator().manual_seed(1)
    features_NPD = torch.randn(len(grids), longest, 8, generator=generator)
    spoilt_NPD = features_NPD.clone()
    for one, (rows, columns) in zip(spoilt_NPD, grids, strict=True):
        one[rows * columns :] = 1e4
    with torch.no_grad():
        found = connector.each(spoilt_NPD, grids)
        for tokens_QD, features_PD, grid in zip(found, features_NPD, grids, strict=True):
            alone_QD = connector(features_PD[None, : grid[0] * grid[1]], grid)[0]
            assert len(tokens_QD) == options.tokens(*grid)
            torch.testing.assert_close(tokens_QD, alone_QD, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tiling", "connector", "extra", "told"),
    [
        ({"type": "native", "merge": 1}, {"type": "merger"}, 0, "a grid of 1 x 1 features is not divisible by"),
        ({"type": "adaptive"}, {"type": "pixel_shuffle"}, 0, "schemes that fit are adaptive with merge: 2, anyres, "),
        ({"type": "native"}, {"type": "concat"}, 0, "native with merge: 4"),
        ({"type": "single"}, {"type": "merger", "factor": 3}, 0,
         "schemes that fit are adaptive with merge: 3, native with merge: 3$"),
        ({"type": "anyres"}, {"type": "resampler", "queries": 5}, 0,
         "anyres with unpad: false, bounded, canvas, dynamic, native"),
        ({"type": "anyres"}, {"type": "linear"}, 1, "makes 257 from 16 x 16 patches; schemes that fit are adaptive, "),
        ({"type": "single"}, {"type": "merger"}, 1, "set encoder.keep_cls to false; no scheme fits this connector$"),
        ({"type": "native", "max_pixels": 100, "min_pixels": 1}, {"type": "linear"}, 0,
         "tiling.max_pixels = 100 is less than one cell of 28 x 28 pixels; schemes that fit are "),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_what_would_be_right(
    tiling: dict[str, Any], connector: dict[str, Any], extra: int, told: str
) -> None:
    with pytest.raises(UserError, match=rf"^model.tiling does not fit: .*{told}"):
        check_fit(make(TILINGS, tiling, "tiling"), make(CONNECTORS, connector, "connector"), 224, 14, extra, "model")
