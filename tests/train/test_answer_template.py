"""A stage that speaks in a chat template of its own, as LLaVA's first stage does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kit import WORDS, grow, picture, talk
from sightling.data.sample import Sample
from sightling.errors import UserError
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe
from sightling.parts import validate
from sightling.train.objectives.answer import Answer, AnswerOptions


class Told:
    """A source of one group."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 1

    def group(self, index: int) -> list[Sample]:
        return self.samples

    def open(self, seed: int) -> Told:
        return self


def test_a_stage_s_own_template_writes_its_rows() -> None:
    with tempfile.TemporaryDirectory() as folder:
        train_bpe(WORDS * 5, 330, TEMPLATES.get("llava")).save_pretrained(Path(folder) / "words")
        told = {"tokenizer": {"pretrained": str(Path(folder) / "words")}, "template": "llava"}
        model, processor = grow(**told)
    sample = talk((picture(), "what?"), "red")
    rows = {}
    for template in (None, "llava-plain"):
        options = validate(AnswerOptions, {} if template is None else {"template": template}, "objective")
        objective = Answer(model, processor, options, Told([sample]), 0)  # type: ignore[arg-type]
        ((document, inputs),) = objective.dataset()[0]
        assert inputs is not None and document.input_ids.count(processor.image_token_id) == 16
        rows[template] = processor.tokenizer.decode(document.input_ids)
    assert "###Human: " in rows[None] and "what?" in rows[None]
    # The first stage shows the picture and says the caption: no roles, no question.
    assert "Human" not in rows["llava-plain"] and "what?" not in rows["llava-plain"] and "red" in rows["llava-plain"]


def test_a_template_that_does_not_exist_or_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is no chat template 'lava-plain'; did you mean 'llava-plain'\?"):
        validate(AnswerOptions, {"template": "lava-plain"}, "objective")
    _, processor = grow()
    with pytest.raises(UserError, match=r"the tokenizer lacks the control token '<s>' of the chat template"):
        processor.speaking("llava-plain")
    assert processor.speaking("qwen2-vl").image_token_id == processor.image_token_id
