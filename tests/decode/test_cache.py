from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from sightling.decode.cache import is_plain, new_cache, take_back
from tinymodel import tiny

STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 90)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    st.tuples(st.just("take back"), st.integers(0, 40)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_holds_what_transformers_cache_holds(steps: list[tuple[str, object]]) -> None:
    model, _ = tiny()
    roomy, plain = new_cache(model), DynamicCache(config=model.language_model.config)
    generator = torch.Generator().manual_seed(0)
    rows = 2
    for kind, value in [("write", 3), *steps]:
        if kind == "write":
            for layer in range(2):
                new = torch.randn(2, rows, 2, int(str(value)), 4, generator=generator)
                ours, theirs = roomy.update(*new, layer), plain.update(*new, layer)
                assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
        elif kind == "select":
            assert isinstance(value, list)
            chosen = torch.tensor([row % rows for row in value])
            roomy.batch_select_indices(chosen)
            plain.batch_select_indices(chosen)
            rows = len(chosen)
        else:
            tokens = min(int(str(value)), roomy.get_seq_length() - 1)
            take_back(roomy, tokens)
            if tokens:
                plain.crop(-tokens)
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_a_further_token_is_written_in_place() -> None:
    model, _ = tiny()
    cache = new_cache(model)
    first, _ = cache.update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), 0)
    second, _ = cache.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), 0)
    assert second.data_ptr() == first.data_ptr() and second.shape[-2] == 6


def test_a_sliding_window_stays_transformers_own() -> None:
    assert is_plain(new_cache(tiny("qwen3")[0]))
    assert not is_plain(new_cache(tiny("qwen3", window=8)[0]))
