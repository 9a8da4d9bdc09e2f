from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.decode.rows import Rows

LAYERS, HEADS, WIDTH = 2, 3, 4
SIZES = st.lists(st.integers(0, 70), min_size=6, max_size=6)
STEP = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("drop"), st.lists(st.integers(0, 5), max_size=2)),
    st.tuples(st.just("repeat"), st.lists(st.integers(0, 5), min_size=1, max_size=4)),
    st.tuples(st.just("join"), st.lists(st.integers(1, 40), min_size=1, max_size=2)),
    st.tuples(st.just("take back"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
)


def write(rows: Rows, held: list[torch.Tensor], sizes: list[int], generator: torch.Generator) -> None:
    """Write drawn tokens; ``held`` are the tokens_T2LGW (keys and values) that each row should hold."""
    span = rows.open(sizes)
    new = torch.randn(len(sizes), span.width, 2, LAYERS, HEADS, WIDTH, generator=generator)
    for layer in range(LAYERS):
        told = rows.write(span, layer, new[:, :, 0, layer], new[:, :, 1, layer])
        for row, size in enumerate(sizes):
            whole = torch.cat([held[row][:, :, layer], new[row, :size, :, layer]])
            for kind in range(2):
                assert torch.equal(told[kind][row, :, : len(whole)].transpose(0, 1), whole[:, kind])
        assert all(bool(one.isfinite().all()) for one in told)
    rows.close(span, [0] * len(sizes))
    held[:] = [torch.cat([old, new[row, : sizes[row]]]) for row, old in enumerate(held)]


@settings(max_examples=30, deadline=None)
@given(st.lists(STEP, max_size=8))
def test_each_row_holds_its_own_tokens(steps: list[tuple[str, list[int]]]) -> None:
    generator = torch.Generator().manual_seed(0)
    like = torch.zeros(1)
    rows = Rows(LAYERS, HEADS, WIDTH, like)
    rows.begin(3)
    held = [torch.zeros(0, 2, LAYERS, HEADS, WIDTH) for _ in range(3)]
    for kind, values in [("write", [2, 5, 1, 0, 0, 0]), *steps]:
        if kind == "write":
            sizes = [values[row % len(values)] for row in range(len(rows))]
            write(rows, held, sizes if any(sizes) else [1] * len(sizes), generator)
        elif kind == "drop":
            gone = {place for place in values if place < len(rows)}
            if len(gone) < len(rows):
                held = [held[former] for former in rows.drop(sorted(gone))]
        elif kind == "repeat":
            order = [place % len(rows) for place in values]
            rows.repeat(order)
            held = [held[former] for former in order]
        elif kind == "join":
            other = Rows(LAYERS, HEADS, WIDTH, like)
            other.begin(len(values))
            theirs = [torch.zeros(0, 2, LAYERS, HEADS, WIDTH) for _ in values]
            write(other, theirs, values, generator)
            rows.join(other)
            held += theirs
        else:
            tokens = min(values[0], *rows.lengths) if len(rows) > 1 else min(values[0], rows.lengths[0])
            rows.take_back(tokens)
            held = [one[: len(one) - tokens] for one in held]
        assert rows.lengths == [len(one) for one in held]
    write(rows, held, [1] * len(rows), generator)


def test_a_further_token_is_written_in_place() -> None:
    rows = Rows(1, HEADS, WIDTH, torch.zeros(1))
    rows.begin(2)
    places = set()
    for size in (5, 1, 1):
        span = rows.open([size, size])
        new = torch.ones(2, size, HEADS, WIDTH)
        keys, values = rows.write(span, 0, new, new)
        rows.close(span, [0, 0])
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1 and rows.lengths == [7, 7]
