"""``qformer`` beside BLIP-2 and InstructBLIP: the same tower's features, the same weights, the same visual tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from connector_kit import DEVIATION, GRIDS, built, features, options, renamed, swapped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    OPTConfig,
)

from kit import stir
from sightling.errors import UserError

PATCH = 4

VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 16, "patch_size": PATCH}  # fmt: skip
TEXT = OPTConfig(
    hidden_size=20, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=20, vocab_size=50
)
WORDS = {"vocab_size": 40, "max_position_embeddings": 16}
SMALL = {"queries": 5, "width": 16, "depth": 3, "heads": 4}
NAMES = {"query_tokens": "query_tokens", "qformer": "qformer", "language_projection": "language_projection"}


def family(config: Any, model: Any, frequency: int, **told: Any) -> Any:
    own = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
           "cross_attention_frequency": frequency, "encoder_hidden_size": 24, **told}  # fmt: skip
    made = config(
        vision_config=VISION, qformer_config=own, text_config=TEXT.to_dict(), num_query_tokens=5, image_token_index=49
    )
    return stir(model(made), 0, DEVIATION).eval()


def seen(theirs: Any, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixels for a grid, and what the tower makes of them: a CLS token, then the patches row by row."""
    pixels = features(2, grid[0] * grid[1], 3 * PATCH**2).view(2, 3, grid[0] * PATCH, grid[1] * PATCH)
    return pixels, theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state


@pytest.mark.parametrize("frequency", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_blip_2s(grid: tuple[int, int], frequency: int) -> None:
    theirs = family(Blip2Config, Blip2ForConditionalGeneration, frequency)
    chosen = options(type="qformer", **SMALL, cross_attention_frequency=frequency)
    ours = chosen.build(24, 20).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), **NAMES))
    with torch.no_grad():
        pixels, found = seen(theirs, grid)
        expected = theirs.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
        tokens = ours(found, grid)
    assert tokens.shape[1] == chosen.tokens(*grid, 1) == 5
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def instructed(rows: int) -> tuple[Tensor, Tensor]:
    """Instructions of several lengths, padded on the right, and their masks."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 39, (rows, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 4, 1])[:rows, None]).long()
    return ids * mask, mask


@pytest.mark.parametrize("grid", GRIDS)
def test_with_an_instruction_it_is_instructblips(grid: tuple[int, int]) -> None:
    theirs = family(InstructBlipConfig, InstructBlipForConditionalGeneration, 2, **WORDS)
    ours = options(type="qformer", **SMALL, instruction=WORDS).build(24, 20).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), **NAMES))
    ids, mask = instructed(2)
    with torch.no_grad():
        pixels, found = seen(theirs, grid)
        expected = theirs.get_image_features(
            pixels, qformer_input_ids=ids, qformer_attention_mask=mask, interpolate_pos_encoding=True
        ).pooler_output
        torch.testing.assert_close(ours(found, grid, ids, mask), expected, atol=1e-5, rtol=1e-5)
        # The words matter, and those that are masked do not.
        assert not torch.allclose(ours(found, grid, (ids + 1) * mask, mask), expected, atol=1e-2)
        torch.testing.assert_close(ours(found, grid, ids + 3 * (1 - mask), mask), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.integers(0, 3), st.sampled_from([-1e4, 0.0, 1e4]), st.booleans(),
)  # fmt: skip
def test_padding_never_changes_a_token(
    grids: list[tuple[int, int]], more: int, filler: float, reads: bool
) -> None:
    told = {**SMALL, "instruction": WORDS} if reads else SMALL
    made = built(8, 12, type="qformer", **told)
    longest = max(rows * columns for rows, columns in grids) + more
    padded = torch.full((len(grids), longest, 8), filler)
    for number, (rows, columns) in enumerate(grids):
        padded[number, : rows * columns] = features(1, rows * columns, 8, number)[0]
    ids, mask = instructed(len(grids))
    words = (ids, mask) if reads else ()
    with torch.no_grad():
        together = made(padded, grids, *words)
        for number, (rows, columns) in enumerate(grids):
            own = [one[number : number + 1, : int(mask[number].sum())] for one in words]
            alone = made(features(1, rows * columns, 8, number), (rows, columns), *own)
            torch.testing.assert_close(together[number], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_places_are_only_those_that_the_features_bring(grid: tuple[int, int]) -> None:
    made, given_NPD = built(8, 12, type="qformer", **SMALL), features(2, grid[0] * grid[1], 8)
    with torch.no_grad():
        straight = made(given_NPD, grid)
        torch.testing.assert_close(made(swapped(given_NPD, grid), grid), straight, atol=1e-5, rtol=1e-5)
        places = features(1, grid[0] * grid[1], 8, seed=9)
        moved = made(swapped(given_NPD, grid) + places, grid)
        assert not torch.allclose(moved, made(given_NPD + places, grid), atol=1e-2)


def test_fresh_queries_differ_and_dropout_is_for_training_only() -> None:
    made = options(type="qformer", **SMALL).build(8, 12)
    given_NPD = features(1, 4, 8)
    out = made.eval()(given_NPD, (2, 2))[0]
    assert (torch.cdist(out, out) + torch.eye(5)).min() > 1e-3
    assert not torch.equal(made.train()(given_NPD, (2, 2))[0], out)
    still = options(type="qformer", **SMALL, dropout=0).build(8, 12)
    assert torch.equal(still(given_NPD, (2, 2)), still.eval()(given_NPD, (2, 2)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"^connector: a width of 768 is not divisible by 10 heads$"):
        options(type="qformer", heads=10)
    with pytest.raises(UserError, match=r"^connector.instruction has no key 'vocab'; did you mean 'vocab_size'\?$"):
        options(type="qformer", instruction={"vocab": 3})
    given_NPD, (ids, mask) = features(2, 4, 8), instructed(2)
    plain = built(8, 12, type="qformer", **SMALL)
    reader = built(8, 12, type="qformer", **SMALL, instruction=WORDS)
    with pytest.raises(ValueError, match=r"^this Q-Former reads no instruction, and one was given$"):
        plain(given_NPD, (2, 2), ids, mask)
    with pytest.raises(ValueError, match=r"^this Q-Former reads an instruction with each picture, and none was given$"):
        reader(given_NPD, (2, 2))
    with pytest.raises(ValueError, match=r"^2 instructions for 1 encoder inputs$"):
        reader(given_NPD[:1], (2, 2), ids, mask)
    with pytest.raises(ValueError, match=r"^4 features do not fill a grid of 3 x 2 = 6$"):
        plain(given_NPD, (3, 2))
