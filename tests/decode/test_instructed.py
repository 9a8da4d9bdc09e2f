"""Pictures that are read with the user's words: encoded once, read anew for each question."""

from __future__ import annotations

import pytest
import torch

from kit import picture, talk
from sightling.data.sample import Sample, question
from sightling.decode.batch import answer_all
from sightling.decode.generate import Trace, generate
from sightling.decode.session import Session
from sightling.evaluate.likelihood import answers_exactly, score_many
from wordpiece import usual


def alone(sample: Sample, tokens: int = 6) -> list[int]:
    """The greedy ids that transformers' ``generate`` gives one sample."""
    model, processor = usual()
    encoded = processor.encode(sample, prompt_only=True)
    ids = torch.tensor([encoded.input_ids])
    shown = processor.shown(encoded).tensors() if encoded.pictures else {}
    said = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **shown
    )[0, ids.shape[1] :].tolist()
    return said[: said.index(processor.stop_token_id)] if processor.stop_token_id in said else said


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inputs the encoder sees, pass by pass."""
    model, _ = usual()
    seen: list[int] = []
    original = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda p, g: (seen.append(p.shape[0]), original(p, g))[1])
    return seen


def several() -> list[Sample]:
    one, two = picture(1), picture(2)
    return [
        question("what is red?", one),
        question("how many?", one),
        question("what is red?", one),
        question("is it left of the blue one?", one, two),
        question("what is a circle?"),
        talk((two, "what is it?"), "red", "sure?"),
        talk((two, "what is it?"), "red", (one, "and this?")),
    ]


def test_one_answer_and_a_batch_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = usual()
    samples = several()
    expected = [alone(sample) for sample in samples]
    assert len({tuple(ids) for ids in expected}) > 4 and expected[0] != expected[1]
    for sample, ids in zip(samples, expected):
        trace = Trace()
        "".join(generate(model, processor, sample, max_new_tokens=6, trace=trace))
        assert trace.ids == ids
    seen = counted(monkeypatch)
    for size in (2, 64):
        told = answer_all(model, processor, samples, max_new_tokens=6, batch_size=size)
        assert told == [processor.decode_answer(ids) for ids in expected]
    # All at once, both pictures are encoded once.
    assert seen[-1] == 2


def test_a_conversation_is_that_of_its_turns_and_encodes_a_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = usual()
    one, two = picture(1), picture(2)
    texts = ("what is red?", "how many?", "is it the blue one?")
    fresh = ["".join(generate(model, processor, question(text, one), max_new_tokens=6)) for text in texts]
    assert len(set(fresh)) == 3
    seen = counted(monkeypatch)
    # Each question alone: the same picture, read anew with its words.
    session = Session(model, processor, single=True, max_new_tokens=6)
    session.add(one)
    assert ["".join(session.ask(text)) for text in texts] == fresh
    assert seen == [1]
    # A conversation: the picture stays as it was read first, and what stands behind goes on from the cache.
    session = Session(model, processor, max_new_tokens=6)
    session.add(one)
    first = "".join(session.ask(texts[0]))
    second = "".join(session.ask(texts[1]))
    assert session.trace.reused_tokens > session.trace.visual_tokens
    session.add(two)
    third = "".join(session.ask(texts[2]))
    turns = ((one, texts[0]), first, texts[1], second, (two, texts[2]))
    for said, upto in ((first, 1), (second, 3), (third, 5)):
        assert said == "".join(generate(model, processor, talk(*turns[:upto]), max_new_tokens=6))
    # The same picture asked about in other words is not what the cache holds.
    session.reset()
    session.add(one)
    assert "".join(session.ask(texts[1])) == fresh[1]


def test_choices_are_scored_as_each_sequence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = usual()
    samples, choices = several(), ["red", "blue", "red circle"]
    expected = []
    for sample in samples:
        prompt = processor.encode(sample, prompt_only=True)
        shown = processor.shown(prompt).tensors() if prompt.pictures else {}
        for choice in choices:
            ids = [*prompt.input_ids, *processor.reply(choice)]
            with torch.no_grad():
                logp_TV = model(input_ids=torch.tensor([ids]), **shown).logits[0].log_softmax(-1)
            expected.append(sum(float(logp_TV[at - 1, ids[at]]) for at in range(len(prompt.input_ids), len(ids))))
    seen = counted(monkeypatch)
    found = torch.cat(score_many(model, processor, samples, [choices] * len(samples)))
    assert found.tolist() == pytest.approx(expected, abs=2e-3)
    assert sum(seen) == 2
    told = [talk((sample.turns[0].parts[0], "what is red?"), "blue") for sample in samples[:1]]
    assert answers_exactly(model, processor, told) == [processor.decode_answer(alone(samples[0])) == "blue"]
