"""Training with pictures that are read with the user's words: no sample sees what another asked."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from kit import picture, talk
from sightling.data.sample import Sample
from sightling.parts import validate
from sightling.train.objectives.answer import Answer, AnswerOptions
from wordpiece import usual


class Told:
    """A source of two groups."""

    def __init__(self, *groups: list[Sample]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, index: int) -> list[Sample]:
        return self.groups[index]

    def open(self, seed: int) -> Told:
        return self


def objective(*groups: list[Sample], **told: Any) -> Answer:
    options = validate(AnswerOptions, told, "objective")
    return Answer(*usual(), options, Told(*groups), 0)  # type: ignore[arg-type]


def lost(sample: Sample) -> Any:
    """The summed cross-entropy of one sample alone."""
    model, processor = usual()
    encoded = processor.encode(sample)
    shown = processor.shown(encoded).tensors() if encoded.pictures else {}
    logits = model(input_ids=torch.tensor([encoded.input_ids]), use_cache=False, **shown).logits[0]
    return cross_entropy(logits[:-1], torch.tensor(encoded.labels[1:]), reduction="sum")


def test_samples_in_a_row_lose_what_they_lose_alone_and_teach_the_reader() -> None:
    model, _ = usual()
    one, two, three = picture(1), picture(2), picture(3)
    groups = [
        [talk((one, "what is red?"), "the circle"), talk((one, "how many?"), "2"), talk((one, "how many?"), "two")],
        [talk((two, " and ", three, "is it blue?"), "no", "sure?", "yes"), talk("what is 1?", "a digit")],
    ]
    for told in ({}, {"pack": False}, {"share": False}):
        made = objective(*groups, **told)
        dataset = made.dataset()
        items = [dataset[index] for index in range(2)]
        # Only the two that ask the same share the picture's tokens.
        assert [part.samples for part, _ in items[0]] == ([1, 1, 1] if "share" in told else [1, 2])
        batch = made.collate(items)
        model.zero_grad()
        loss, _ = made.loss(model, batch)
        loss.backward()
        table = model.connector.qformer.embeddings.word_embeddings.weight
        found, taught = loss.detach(), table.grad.clone()
        model.zero_grad()
        apart = sum(lost(sample) for group in groups for sample in group)
        apart.backward()
        torch.testing.assert_close(found, apart.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(taught, table.grad, rtol=1e-3, atol=1e-5)
        assert taught.abs().max() > 1e-3
    model.zero_grad()


def test_a_batch_of_words_alone_has_no_pictures() -> None:
    made = objective([talk("what is 1?", "a digit")])
    batch = made.collate([made.dataset()[0]])
    assert batch["pixel_values"] is None and batch["qformer_input_ids"] is None
    loss, _ = made.loss(usual()[0], batch)
    torch.testing.assert_close(loss.detach(), lost(talk("what is 1?", "a digit")).detach(), rtol=1e-5, atol=1e-5)
