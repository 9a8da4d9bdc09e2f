"""The text half of a Q-Former beside BLIP-2's, with the same weights; and who sees whom under each of the masks."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, Blip2Config, Blip2ForImageTextRetrieval, OPTConfig
from transformers.models.bert.modeling_bert import BertLMPredictionHead

from kit import stir
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS, QFormer
from sightling.train.objectives.text_half import Sight, TextHalf, seen

QUERIES, WIDTH, JOINT, VOCABULARY, MAX_LENGTH, PATCHES = 5, 16, 12, 38, 10, 4
SIGHTS: tuple[Sight, ...] = get_args(Sight)
DEVIATION = 0.5
"""Of random weights; with small ones attention would look at everything alike."""

ITS = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": WIDTH}


def lively(module: Any, seed: int) -> Any:
    """Random weights, and norms that let through what they are given."""
    stir(module, seed, DEVIATION).eval()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.weight += 1
    return module


def qformer(frequency: int = 2) -> QFormer:
    told = {"type": "qformer", "queries": QUERIES, "width": WIDTH, "depth": 3, "heads": 4}
    made = make(CONNECTORS, {**told, "cross_attention_frequency": frequency}, "connector").build(24, 20)
    assert isinstance(made, QFormer)
    return lively(made, 3)


def half_of(connector: QFormer) -> TextHalf:
    return lively(TextHalf(connector.qformer.config, VOCABULARY, MAX_LENGTH, JOINT), 4)


@cache
def pair() -> tuple[QFormer, TextHalf]:
    """The usual ones, shared between tests: nobody changes them."""
    connector = qformer()
    return connector, half_of(connector)


def theirs(frequency: int) -> Any:
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    own = {**ITS, "cross_attention_frequency": frequency, "encoder_hidden_size": 24, "use_qformer_text_input": True,
           "vocab_size": VOCABULARY + 2, "max_position_embeddings": MAX_LENGTH + 2}  # fmt: skip
    text = OPTConfig(hidden_size=20, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    made = Blip2Config(vision_config=vision, qformer_config=own, text_config=text.to_dict(), num_query_tokens=QUERIES)
    made.image_text_hidden_size, made.image_token_index = JOINT, None
    return lively(Blip2ForImageTextRetrieval(made), 0)


def with_weights_of(model: Any, frequency: int) -> tuple[QFormer, TextHalf]:
    connector = qformer(frequency)
    half = half_of(connector)
    told = model.state_dict()
    queries, texts = {}, {}
    for name, tensor in told.items():
        steps = name.split(".")
        if name.startswith("qformer.encoder.layer.") and steps[4] in ("intermediate", "output"):
            texts[".".join(["layers", *steps[3:]])] = tensor
        elif steps[0] in ("query_tokens", "qformer"):
            queries[name] = tensor
        elif steps[0] != "vision_model":
            texts[name.removeprefix("embeddings.")] = tensor
    kept = {"language_projection.weight", "language_projection.bias"}
    missing, unexpected = connector.load_state_dict(queries, strict=False)
    assert {*missing} == kept and not unexpected
    missing, unexpected = half.load_state_dict(texts, strict=False)
    own = {name for name in half.state_dict() if name.split(".")[0] in ("transform", "word_bias", "log_scale")}
    assert {*missing} == own and not unexpected
    return connector, half


def texts(rows: int, length: int = 7, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Texts of several lengths, padded, and where they are real."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    lengths = torch.tensor([length, length - 3, 1] * rows)[:rows, None]
    return ids, torch.arange(length) < lengths


def features(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, PATCHES, 24, generator=torch.Generator().manual_seed(seed))


def whole(ids: Tensor, real: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The same with the first token before it, as transformers is told."""
    return nn.functional.pad(ids, (1, 0), value=first), nn.functional.pad(real.long(), (1, 0), value=1)


# ---- transformers


@pytest.mark.parametrize("frequency", [1, 2])
def test_contrast_and_matching_are_blip_2s(frequency: int) -> None:
    model = theirs(frequency)
    connector, half = with_weights_of(model, frequency)
    ids, real = texts(3)
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    told_ids, told_mask = whole(ids, real, VOCABULARY)
    with torch.no_grad():
        seen_features = model.vision_model(pixels).last_hidden_state
        told: dict[str, Any] = {"pixel_values": pixels, "input_ids": told_ids, "attention_mask": told_mask}
        contrast = model(**told).logits_per_image
        matching = model(**told, use_image_text_matching_head=True).logits_per_image
        similarities = half.similarities(*half(connector, seen_features, ids, real, "unimodal"))
        queries, _ = half(connector, seen_features, ids, real, "bidirectional")
    torch.testing.assert_close(similarities, contrast, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(half.matching(queries), matching, atol=1e-5, rtol=1e-5)
    assert contrast.std() > 0.05 and matching.std() > 0.05


def test_generation_is_its_layers_under_the_papers_mask_and_berts_head() -> None:
    model = theirs(2)
    connector, half = with_weights_of(model, 2)
    ids, real = texts(3)
    told_ids, told_mask = whole(ids, real, VOCABULARY + 1)
    total = QUERIES + told_ids.shape[1]
    allowed = torch.zeros(3, 1, total, total, dtype=torch.bool)
    for row in range(3):
        for one in range(total):
            for other in range(total):
                before = other < QUERIES or (one >= QUERIES and other <= one)
                allowed[row, 0, one, other] = before and (other < QUERIES or bool(told_mask[row, other - QUERIES]))
    head = BertLMPredictionHead(BertConfig(**ITS, vocab_size=VOCABULARY, hidden_act="gelu")).eval()
    head.load_state_dict({
        "transform.dense.weight": half.transform[0].weight, "transform.dense.bias": half.transform[0].bias,
        "transform.LayerNorm.weight": half.transform[2].weight, "transform.LayerNorm.bias": half.transform[2].bias,
        "decoder.weight": half.word_embeddings.weight[:VOCABULARY], "decoder.bias": half.word_bias,
        "bias": half.word_bias,
    })  # fmt: skip
    with torch.no_grad():
        embedded = model.embeddings(input_ids=told_ids, query_embeds=model.query_tokens.expand(3, -1, -1))
        expected = model.qformer(
            query_embeds=embedded, query_length=QUERIES, attention_mask=allowed, encoder_hidden_states=features(3)
        ).last_hidden_state
        queries, text = half(connector, features(3), ids, real, "causal")
        found = half.next_words(text)
        torch.testing.assert_close(queries, expected[:, :QUERIES], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, head(expected[:, QUERIES:]), atol=1e-4, rtol=1e-4)
    assert found.shape == (3, 8, VOCABULARY) and found.std() > 0.1


# ---- who sees whom


def test_the_masks_are_the_papers() -> None:
    """Two queries, then three tokens, the last of them padding: rows look at columns."""
    real = torch.tensor([[True, True, False]])
    drawn = {
        "unimodal": ["11000", "11000", "00110", "00110", "00110"],
        "bidirectional": ["11110", "11110", "11110", "11110", "11110"],
        "causal": ["11000", "11000", "11100", "11110", "11110"],
    }
    assert set(drawn) == set(SIGHTS)
    for sight in SIGHTS:
        found = ["".join(str(int(one)) for one in row) for row in seen(real, 2, sight)[0].tolist()]
        assert found == drawn[sight], sight


@pytest.mark.parametrize("sight", SIGHTS)
def test_whether_queries_see_text_and_text_sees_the_picture(sight: Sight) -> None:
    connector, half = pair()
    (ids, real), pictures = texts(3), features(3)
    with torch.no_grad():
        queries, text = half(connector, pictures, ids, real, sight)
        others, _ = half(connector, pictures, (ids + 1) % VOCABULARY, real, sight)
        _, elsewhere = half(connector, features(3, seed=8), ids, real, sight)
    assert torch.allclose(queries, others, atol=1e-5) == (sight != "bidirectional")
    assert torch.allclose(text, elsewhere, atol=1e-5) == (sight == "unimodal")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(1, VOCABULARY - 1))
def test_a_later_token_changes_no_earlier_word(place: int, shift: int) -> None:
    connector, half = pair()
    (ids, _), pictures = texts(1), features(1)
    real = torch.ones_like(ids, dtype=torch.bool)
    changed = ids.clone()
    changed[:, place] = (ids[:, place] + shift) % VOCABULARY
    with torch.no_grad():
        before, after = (half.next_words(half(connector, pictures, one, real, "causal")[1]) for one in (ids, changed))
        # The first token is the module's own, so that token ``place`` stands one further.
        torch.testing.assert_close(before[:, : place + 1], after[:, : place + 1], atol=1e-5, rtol=1e-5)
        assert (before[:, place + 1] - after[:, place + 1]).abs().max() > 1e-3
        one, two = (half(connector, pictures, given_ids, real, "unimodal")[1] for given_ids in (ids, changed))
        assert (one[:, 0] - two[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("sight", SIGHTS)
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), more=st.integers(0, 2), filler=st.integers(0, 37))
def test_a_text_gives_among_others_what_it_gives_alone(
    sight: Sight, lengths: list[int], more: int, filler: int
) -> None:
    connector, half = pair()
    longest, pictures = max(lengths) + more, features(len(lengths))
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    own, _ = texts(len(lengths), longest)
    ids = own.where(real, filler)
    with torch.no_grad():
        queries, text = half(connector, pictures, ids, real, sight)
        for row, length in enumerate(lengths):
            here = slice(row, row + 1)
            alone = half(connector, pictures[here], ids[here, :length], real[here, :length], sight)
            torch.testing.assert_close(queries[here], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(text[here, : length + 1], alone[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sight", ["unimodal", "causal"])
def test_what_the_queries_learn_is_what_the_connector_hands_on(sight: Sight) -> None:
    connector, half = pair()
    with torch.no_grad():
        queries, _ = half(connector, features(3), *texts(3), sight)
        handed_on = connector(features(3), (2, 2))
    torch.testing.assert_close(connector.language_projection(queries), handed_on, atol=1e-5, rtol=1e-5)


def test_reading_and_writing_begin_differently_and_what_does_not_fit_is_refused() -> None:
    connector, half = pair()
    ids, real = texts(2)
    with torch.no_grad():
        half_changed = half_of(connector)
        half_changed.word_embeddings.weight[VOCABULARY + 1] += 1
        for sight in SIGHTS:
            one, two = (made(connector, features(2), ids, real, sight)[1] for made in (half, half_changed))
            assert torch.equal(one, two) == (sight != "causal")
    with pytest.raises(ValueError, match=r"^3 pictures beside 2 texts$"):
        half(connector, features(3), ids, real, "causal")
    long = torch.zeros(1, MAX_LENGTH + 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^a text of 13 tokens, but there are 12 places$"):
        half(connector, features(1), long, long == 0, "causal")
    longest = long[:, 1:]
    assert half(connector, features(1), longest, longest == 0, "causal")[1].shape == (1, MAX_LENGTH + 2, WIDTH)
