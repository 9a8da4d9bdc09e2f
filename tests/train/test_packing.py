from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kit import CLIP, LLAMA, MISTRAL, QWEN2, QWEN3, SIGLIP, alone, grow, picture, plain, talk
from sightling.data.sample import Picture, Sample
from sightling.errors import UserError
from sightling.model import VisionLanguageModel, VisionLanguageProcessor
from sightling.model.mask import TRUNK
from sightling.model.modeling import IGNORED
from sightling.train.packing import Document, can_share, check_length, collate_rows, document, fill_rows

TENSORS = ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")

LANGUAGE_MODELS = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "window": {**MISTRAL, "sliding_window": 9},
    "some windows": {**QWEN3, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1,
                     "layer_types": ["full_attention", "sliding_attention"]},
}  # fmt: skip


def groups(other: str = "is there a blue square?", branch: str = "and is it large?") -> list[list[Sample]]:
    """A picture with three questions, two pictures with one each of two, text alone, a picture in a later turn."""
    one, two, three = picture(1), picture(2, 9, 30), picture(3)
    return [
        [talk((one, "what colour is the circle?"), "red"), talk((one, branch), "yes", "sure?", "no"),
         talk((one, "图中有没有红色的圆形？"), "有", system=None)],
        [talk((two, " and ", three, other), "no"), talk((two, " and ", three, "how many?"), "2")],
        [talk("how many triangles are there?", "2")],
        [talk(("first ", three, "what?"), "a heart", ("then", picture(4)), "a star")],
    ]  # fmt: skip


class Packed:
    """Groups in one row after each other, and where each sample's tokens stand."""

    def __init__(self, processor: VisionLanguageProcessor, told: Sequence[Sequence[Sample]]) -> None:
        self.samples = [sample for group in told for sample in group]
        encoded = [[processor.encode(sample) for sample in group] for group in told]
        self.documents = [document(group) for group in encoded]
        rows = [list(range(len(self.documents)))]
        self.batch = collate_rows(self.documents, rows, processor.pad_token_id)
        pixels = [processor.pixels(shown) for part in self.documents for shown in part.pictures]
        self.pixels = torch.cat(pixels) if pixels else None
        self.places: list[list[int]] = []
        start = 0
        for group, whole in zip(encoded, self.documents, strict=True):
            trunk = group[0].trunk if len(group) > 1 else 0
            at = start + trunk
            for one in group:
                own = len(one.input_ids) - trunk
                self.places.append([*range(start, start + trunk), *range(at, at + own)])
                at += own
            start += len(whole)
            assert at == start

    def names(self) -> dict[str, Tensor]:
        return {name: self.batch[name] for name in TENSORS}

    def logits(self, model: VisionLanguageModel) -> Tensor:
        """The logits_TV of the row."""
        batch = self.batch
        features = model.get_image_features(self.pixels) if self.pixels is not None else None
        hidden = model.packed_states(
            batch["input_ids"], features, position_ids_BT=batch["position_ids"],
            document_ids_BT=batch["document_ids"], branch_ids_BT=batch["branch_ids"],
        )  # fmt: skip
        return model.get_output_embeddings()(hidden)[0]


# ---- packed == alone


@pytest.mark.parametrize("language", LANGUAGE_MODELS)
@pytest.mark.parametrize("encoder", [SIGLIP, {**CLIP, "keep_cls": True}], ids=["siglip", "clip"])
def test_a_sample_in_a_row_has_the_logits_it_has_alone(language: str, encoder: dict[str, Any]) -> None:
    model, processor = grow(language_model=LANGUAGE_MODELS[language], encoder=encoder)
    packed = Packed(processor, groups())
    with torch.no_grad():
        together_TV = packed.logits(model)
        assert together_TV.std() > 0.5
        for sample, places in zip(packed.samples, packed.places, strict=True):
            torch.testing.assert_close(together_TV[places], alone(model, processor, sample), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("language", ["llama", "some windows"])
def test_gradients_of_a_row_are_the_sum_of_those_alone(language: str) -> None:
    model, processor = grow(language_model=LANGUAGE_MODELS[language])
    packed = Packed(processor, groups())

    def gradients(parts: list[Packed]) -> tuple[float, int, dict[str, Tensor]]:
        model.zero_grad()
        total, right = 0.0, 0
        for part in parts:
            loss, hits = model.supervised_loss(**part.names(), pixel_values=part.pixels)
            loss.backward()
            total, right = total + float(loss.detach()), right + int(hits)
        return total, right, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loss, hits, together = gradients([packed])
    alone_loss, alone_hits, apart = gradients([Packed(processor, [[sample]]) for sample in packed.samples])
    assert loss == pytest.approx(alone_loss, rel=1e-5) and hits == alone_hits
    assert set(together) == set(apart) == {name for name, _ in model.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in apart.values())
    for name, gradient in apart.items():
        scale = float(gradient.abs().max())
        if name.endswith("k_proj.bias") and "encoder" in name:
            # One number added to all keys changes no attention: this gradient is rounding alone.
            assert max(scale, float(together[name].abs().max())) < 1e-5 * largest
            continue
        assert scale > 1e-4 * largest, name
        torch.testing.assert_close(together[name], gradient, atol=2e-5 * scale, rtol=1e-4, msg=name)


def changed_samples(before: Packed, after: Packed, model: VisionLanguageModel) -> list[int]:
    """Samples whose logits are not to the bit those of the other row."""
    with torch.no_grad():
        first, second = before.logits(model), after.logits(model)
    pairs = zip(before.places, after.places, strict=True)
    return [number for number, (one, two) in enumerate(pairs)
            if len(one) != len(two) or not torch.allclose(first[one], second[two], atol=1e-5, rtol=1e-4)]  # fmt: skip


@pytest.mark.parametrize("language", ["llama", "window"])
def test_a_document_moves_nothing_in_another_and_a_branch_nothing_in_another(language: str) -> None:
    model, processor = grow(language_model=LANGUAGE_MODELS[language])
    plain_row = Packed(processor, groups())
    assert changed_samples(plain_row, Packed(processor, groups()), model) == []
    # The same number of tokens and another: neither what they say nor how many there are moves a neighbour.
    for branch in ("or is it large?", "how many triangles are there of which size?"):
        assert changed_samples(plain_row, Packed(processor, groups(branch=branch)), model) == [1]
    assert changed_samples(plain_row, Packed(processor, groups(other="is there a red star?")), model) == [3]
    swapped = groups()
    shown = picture(9)
    swapped[0] = [talk((shown, *sample.turns[0].parts[1:]), *(turn.parts for turn in sample.turns[1:]))
                  for sample in swapped[0]]  # fmt: skip
    assert changed_samples(plain_row, Packed(processor, swapped), model) == [0, 1, 2]


def test_padding_and_rows_below_change_nothing() -> None:
    model, processor = plain()
    packed = Packed(processor, groups())
    rows = [[0], [1, 2], [3]]
    batch = collate_rows(packed.documents, rows, processor.pad_token_id)
    assert (batch["document_ids"] < 0).any()
    with torch.no_grad():
        apart, right = model.supervised_loss(**{name: batch[name] for name in TENSORS}, pixel_values=packed.pixels)
        together, hits = model.supervised_loss(**packed.names(), pixel_values=packed.pixels)
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-4)
    assert int(right) == int(hits)


# ---- documents


def test_a_document_holds_the_trunk_once_and_positions_go_on_from_it() -> None:
    _, processor = plain()
    encoded = [processor.encode(sample) for sample in groups()[0]]
    assert all(can_share(one) for one in encoded)
    whole = document(encoded)
    trunk = encoded[0].trunk
    owns = [len(one.input_ids) - trunk for one in encoded]
    assert len(whole) == trunk + sum(owns) and whole.samples == 3
    assert whole.input_ids.count(processor.image_token_id) == 16 and len(whole.pictures) == 1
    assert whole.branches == [TRUNK] * trunk + [1] * owns[0] + [2] * owns[1] + [3] * owns[2]
    expected = [*range(trunk)] + [trunk + place for own in owns for place in range(own)]
    assert whole.positions == expected
    # Every label of every sample is there, and none is that of the other's word.
    labels = [label for label in whole.labels if label != IGNORED]
    assert labels == [label for one in encoded for label in one.labels if label != IGNORED]
    firsts = [whole.branches.index(branch) for branch in (1, 2, 3)]
    assert [whole.labels[first] for first in firsts] == [IGNORED] * 3
    assert whole.without_pictures().pictures == () and whole.without_pictures().input_ids == whole.input_ids


def test_what_cannot_share_is_refused() -> None:
    _, processor = plain()
    shown, other = picture(1), picture(2)
    first = processor.encode(talk((shown, "red?"), "no"))
    with pytest.raises(ValueError, match=r"^sample 2 of a group of 2 does not share the first one's trunk"):
        document([first, processor.encode(talk((other, "red?"), "no"))])
    with pytest.raises(ValueError, match=r"^sample 2 of a group of 2 does not share"):
        document([first, processor.encode(talk(("so ", shown, "red?"), "no"))])
    late = [processor.encode(talk((shown, "a"), "b", (other, text), "d")) for text in ("c", "e")]
    assert not can_share(late[0])
    with pytest.raises(ValueError, match=r"^sample 1 of a group of 2 has 2 pictures, but 1 in its trunk$"):
        document(late)
    # Its pictures are the same picture only if they are the same object.
    again = processor.encode(talk((picture(1), "red?"), "no"))
    with pytest.raises(ValueError, match="does not share"):
        document([first, again])


# ---- rows

LENGTHS = st.lists(st.integers(1, 40), max_size=30)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(1, 40))
def test_rows_hold_every_document_once_and_are_never_too_full(lengths: list[int], capacity: int) -> None:
    rows = fill_rows(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in rows]
    assert all(total <= capacity or len(row) == 1 for total, row in zip(sums, rows, strict=True))
    assert all(rows)
    assert rows == fill_rows(lengths, capacity)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(1, 40))
def test_rows_have_no_more_padding_than_first_fit_decreasing_gives(lengths: list[int], capacity: int) -> None:
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = next((row for row, free in enumerate(room) if length <= free), None)
        if fits is None:
            room.append(capacity - length)
        else:
            room[fits] -= length
    plain = len(room) * max(capacity - free for free in room) if room else 0
    rows = fill_rows(lengths, capacity)
    assert len(rows) * max((sum(lengths[i] for i in row) for row in rows), default=0) <= plain


MIXES = [(230, 0.6, 1024, 32), (230, 0.9, 2048, 64), (60, 0.4, 256, 32), (400, 0.5, 2048, 24)]


@pytest.mark.parametrize(("mean", "spread", "capacity", "documents"), MIXES)
def test_rows_of_lengths_with_a_long_tail_are_at_least_95_percent_full(
    mean: int, spread: float, capacity: int, documents: int
) -> None:
    random = Random(0)
    real = padded = 0
    for _ in range(50):
        drawn = (int(random.lognormvariate(0.0, spread) * mean * math.exp(-(spread**2) / 2)) for _ in range(documents))
        lengths = [min(max(length, 8), capacity) for length in drawn]
        rows = fill_rows(lengths, capacity)
        real += sum(lengths)
        padded += len(rows) * max(sum(lengths[i] for i in row) for row in rows)
    assert real / padded >= 0.95


def test_a_document_that_is_too_long_has_its_own_row_and_the_check_tells_both_numbers() -> None:
    assert fill_rows([3, 12, 4, 3], 10) == [[1], [2, 0, 3]]
    _, processor = plain()

    def of(length: int, *pictures: Picture) -> Document:
        return Document([1] * length, [1] * length, [*range(length)], [0] * length, pictures, 1)

    check_length(of(10), 10, "it", processor)
    with pytest.raises(UserError, match=r"^it needs 11 tokens, but max_length is 10; raise max_length or shorten it$"):
        check_length(of(11), 10, "it", processor)
    told = "its 2 pictures need 16 visual tokens each, 32 in all, and beside the 8 other tokens there is room for 22"
    with pytest.raises(UserError, match=rf"^it needs 40 tokens, but max_length is 30; {told}; raise max_length or"):
        check_length(of(40, picture(), picture()), 30, "it", processor)


def test_rows_are_filled_with_documents_in_order_and_padded() -> None:
    parts = [Document([7, 8], [IGNORED, 8], [0, 1], [0, 0], (), 1), Document([9], [IGNORED], [0], [0], (), 1),
             Document([5, 6, 4], [IGNORED, 6, 4], [0, 1, 1], [0, 1, 2], (), 2)]  # fmt: skip
    batch = collate_rows(parts, [[2], [0, 1], [1]], pad_id=3)
    i = IGNORED
    assert batch["input_ids"].tolist() == [[5, 6, 4], [7, 8, 9], [9, 3, 3]]
    assert batch["labels"].tolist() == [[i, 6, 4], [i, 8, i], [i, i, i]]
    assert batch["position_ids"].tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert batch["document_ids"].tolist() == [[0, 0, 0], [0, 0, 1], [0, -1, -1]]
    assert batch["branch_ids"].tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
