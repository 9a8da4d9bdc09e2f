"""Samples about one text share it in a packed row, and lose there what they lose alone."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from kit import alone, grow, talk
from sightling.data.sources import SOURCES
from sightling.parts import make, validate
from sightling.train.objectives.answer import TENSORS, Answer, AnswerOptions, FiniteGroups, Groups

TOLD = {"type": "world", "told": 1.0, "languages": ["en"], "questions_per_picture": 5, "scene": {"min_things": 3},
        "families": ["existence", "count", "place"]}  # fmt: skip


def test_questions_about_one_description_share_it_and_lose_what_they_lose_alone() -> None:
    model, processor = grow()
    source = make(SOURCES, TOLD, "data").open(0)
    objective = Answer(model, processor, validate(AnswerOptions, {}, "objective"), source, 0)  # type: ignore[arg-type]
    for index in range(3):
        samples = source.group(index)
        items = Groups(source, processor, objective.options)[index]
        alone_tokens = sum(len(processor.encode(sample).input_ids) for sample in samples)
        assert len(items) == 1 and items[0][0].samples == len(samples)
        assert len(items[0][0]) < 0.7 * alone_tokens
        batch = objective.collate([items])
        with torch.no_grad():
            together, _ = model.supervised_loss(**{name: batch[name] for name in TENSORS})
            apart = sum(
                cross_entropy(
                    alone(model, processor, sample)[:-1],
                    torch.tensor(processor.encode(sample).labels[1:]), reduction="sum",
                )
                for sample in samples
            )  # fmt: skip
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


class Told:
    """A source of one group."""

    def __init__(self, samples: list) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 1

    def group(self, index: int) -> list:
        return self.samples


def test_samples_that_only_begin_with_a_greeting_alike_stay_apart() -> None:
    _, processor = grow()
    samples = [talk("red?", "yes"), talk("how many?", "2"), talk("a heart", "no")]
    items = FiniteGroups(Told(samples), processor, validate(AnswerOptions, {}, "objective"))[0]  # type: ignore[arg-type]
    assert [document.samples for document, _ in items] == [1, 1, 1]
