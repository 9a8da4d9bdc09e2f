"""Language models that are told places: every way of decoding gives what transformers' way in gives a sample alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from kit import alone, picture, talk
from qwenkit import TOWERS, qwen
from sightling.data.sample import Sample, Turn
from sightling.decode.batch import answer_all
from sightling.decode.generate import Trace, generate
from sightling.decode.memory import Memory
from sightling.evaluate.likelihood import answers_exactly, score_choices, score_many
from sightling.model import VisionLanguageModel, VisionLanguageProcessor

WIDE, TALL, SMALL = picture(1, 60, 20), picture(2, 10, 50), picture(3, 9, 9)
SAMPLES = [
    talk((WIDE, "red?")),
    talk((WIDE, "how many stars are there?")),
    talk(("look: ", TALL, " and ", SMALL, "which?")),
    talk((SMALL, "what?"), "a heart", ("and ", WIDE, "?")),
    talk("what colour is the circle?"),
]


@cache
def pair(name: str) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    return qwen(name)


def by_transformers(name: str, sample: Sample, new: int) -> list[int]:
    model, processor = pair(name)
    encoded = processor.encode(sample, prompt_only=True)
    shown = processor.inputs(*encoded.pictures).tensors() if encoded.pictures else {}
    ids = torch.tensor([encoded.input_ids])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **shown, max_new_tokens=new,
                           do_sample=False)[0, ids.shape[1] :].tolist()  # fmt: skip
    return found[: found.index(processor.stop_token_id)] if processor.stop_token_id in found else found


@pytest.mark.parametrize("name", TOWERS)
def test_batches_and_single_answers_are_those_of_transformers(name: str) -> None:
    model, processor = pair(name)
    told = [by_transformers(name, sample, 8) for sample in SAMPLES]
    assert answer_all(model, processor, SAMPLES, max_new_tokens=8) == [processor.decode_answer(ids) for ids in told]
    for sample, ids in zip(SAMPLES, told, strict=True):
        trace = Trace()
        "".join(generate(model, processor, sample, max_new_tokens=8, trace=trace))
        assert trace.ids == ids
    assert len({tuple(ids) for ids in told}) > 2


@pytest.mark.parametrize("name", TOWERS)
def test_a_conversation_that_goes_on_counts_on_behind_its_pictures(name: str) -> None:
    model, processor = pair(name)
    memory, turns = Memory(), ()
    for asked in ((WIDE, "red?"), ("and now?",), (TALL, "this?")):
        turns = (*turns, Turn("user", asked))
        first, again = Trace(), Trace()
        said = "".join(generate(model, processor, Sample(turns), max_new_tokens=4, memory=memory, trace=first))
        "".join(generate(model, processor, Sample(turns), max_new_tokens=4, trace=again))
        assert first.ids == again.ids == by_transformers(name, Sample(turns), 4)
        assert (first.reused_tokens > 0) == (len(turns) > 1) and again.reused_tokens == 0
        turns = (*turns, Turn("assistant", (said,)))


@pytest.mark.parametrize("name", TOWERS)
def test_scores_of_choices_are_those_of_whole_answers_alone(name: str) -> None:
    model, processor = pair(name)
    choices = ["yes", "a heart", "a star"]
    scores = score_many(model, processor, SAMPLES, [choices] * len(SAMPLES))
    for sample, told in zip(SAMPLES, scores, strict=True):
        torch.testing.assert_close(told, score_choices(model, processor, sample, choices), atol=1e-4, rtol=1e-5)
        prompt = len(processor.encode(sample, prompt_only=True).input_ids)
        for choice, score in zip(choices, told, strict=True):
            whole = Sample((*sample.turns, Turn("assistant", (choice,))))
            ids = processor.encode(whole).input_ids
            with torch.no_grad():
                steps = alone(model, processor, whole).log_softmax(-1)[prompt - 1 : len(ids) - 1]
            torch.testing.assert_close(score, steps.gather(1, torch.tensor(ids[prompt:])[:, None]).sum(), rtol=1e-4,
                                       atol=1e-4)  # fmt: skip
    said = [Sample((*sample.turns, Turn("assistant", ("yes",)))) for sample in SAMPLES]
    assert answers_exactly(model, processor, said) == [False] * len(SAMPLES)
