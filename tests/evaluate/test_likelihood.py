from __future__ import annotations

import pytest
import torch
from small import asked, fresh, noise, red

from sightling.data.sample import Sample, Turn, question
from sightling.decode.batch import answer_all
from sightling.decode.prompt import encode_prompt
from sightling.errors import UserError
from sightling.evaluate import likelihood
from sightling.evaluate.likelihood import answers_exactly, score_choices, score_many
from sightling.evaluate.tree import TokenTree
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor

CHOICES = ["red", "blue", "red circle", "red circle blue", "large", "红色", "re"]


def alone(model: VisionLanguageModel, processor: VisionLanguageProcessor, sample: Sample, choice: str) -> float:
    """The log-probability by one plain forward pass."""
    prompt = encode_prompt(processor, sample)
    ids = [*prompt.input_ids, *processor.plain(choice), processor.stop_token_id]
    pixels = torch.cat([processor.pixels(one) for one in prompt.pictures]) if prompt.pictures else None
    with torch.no_grad():
        logp_TV = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].log_softmax(-1)
    return sum(float(logp_TV[at - 1, ids[at]]) for at in range(len(prompt.input_ids), len(ids)))


def several() -> list[Sample]:
    """Questions that share a picture, one with two pictures, one with a picture after words, one with none."""
    shared = noise(7)
    return [
        question("what color is the circle?", shared),
        question("is there a square?", shared),
        question("blue or red?", noise(1), noise(2)),
        Sample(
            (Turn("user", ("first", noise(3), "then")), Turn("assistant", ("yes",)), Turn("user", ("no?", noise(4))))
        ),
        question("red?"),
    ]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_scores_are_those_of_each_sequence_alone(kind: str) -> None:
    model, processor = fresh({"type": kind, "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256})
    model.eval()
    samples = several()
    found = score_many(model, processor, samples, [CHOICES[: 3 + number] for number in range(len(samples))])
    for number, (sample, scores) in enumerate(zip(samples, found)):
        expected = [alone(model, processor, sample, choice) for choice in CHOICES[: 3 + number]]
        assert scores.tolist() == pytest.approx(expected, abs=2e-3)


def test_cut_trees_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = red()
    whole = score_many(model, processor, several(), [CHOICES] * 5)
    monkeypatch.setattr(likelihood, "NODES", 30)
    monkeypatch.setattr(likelihood, "WAITING", 2)
    monkeypatch.setattr(likelihood, "BATCH_CELLS", 2000)
    monkeypatch.setattr(likelihood, "LOGITS", 1000)
    cut = score_many(model, processor, several(), [CHOICES] * 5)
    for one, other in zip(whole, cut):
        assert torch.allclose(one, other, atol=1e-3)


def test_a_common_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = red()
    sizes: list[int] = []
    collate = likelihood.collate

    def counting(trees: list[TokenTree], *rest: object) -> object:
        sizes.extend(map(len, trees))
        return collate(trees, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(likelihood, "collate", counting)
    sample = asked("what color?", 0)
    score_choices(model, processor, sample, ["red", "red circle", "red circle blue"])
    longest = len(encode_prompt(processor, sample).input_ids) + len(processor.plain("red circle blue"))
    assert sizes == [longest]


def test_the_model_that_says_red_prefers_red() -> None:
    model, processor = red()
    scores = score_choices(model, processor, asked("what color is it?", 3), ["blue", "red", "green"])
    assert scores.argmax() == 1
    assert scores[1] > -0.5


def test_exact_answers_are_those_that_are_generated() -> None:
    model, processor = red()
    samples = [asked(text, seed) for seed, text in enumerate(["what color is the circle?", "square?", "large blue"])]
    said = answer_all(model, processor, samples, max_new_tokens=8)
    assert said == ["red"] * 3
    closed = [question(one.turns[0].text, *one.pictures(), answer=answer) for one in samples for answer in CHOICES]
    assert answers_exactly(model, processor, closed) == [answer == "red" for _ in samples for answer in CHOICES]


def test_a_model_left_in_training_is_measured_at_rest() -> None:
    model, processor = red()
    model.train()
    score_choices(model, processor, asked("what?", 0), ["red"])
    assert model.training
    model.eval()


def test_no_choices_and_too_long_a_choice_are_refused() -> None:
    model, processor = red()
    with pytest.raises(UserError, match="empty"):
        score_choices(model, processor, asked("what?", 0), [])
    with pytest.raises(UserError, match="the model's context is 256 tokens; its picture needs"):
        score_choices(model, processor, asked("what?", 0), ["red " * 300])
    with pytest.raises(ValueError, match="1 samples, but 2 lists"):
        score_many(model, processor, [asked("what?", 0)], [["a"], ["b"]])
