"""``tokenizer``: a byte-level BPE trained from the words that the model will meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator

from sightling.data.texts import TEXTS, TextSource
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe
from sightling.parts import make
from sightling.train.steps.base import STEPS, StageStep, StepContext


@STEPS.register("tokenizer")
class TokenizerStep(StageStep):
    """Trains on ``texts`` texts of ``data`` (any text source); the model's size of vocabulary follows from it.

    Its control tokens are those of the model's chat template.

    ``max_token_length`` is the most bytes of a token (a Chinese character has three).
    """

    folder = "tokenizer"
    data: dict[str, Any]
    texts: int = Field(default=20_000, gt=0)
    vocab_size: int = Field(default=1024, gt=0)
    max_token_length: int | None = Field(default=None, ge=2)

    @field_validator("data")
    @classmethod
    def _data(cls, value: dict[str, Any]) -> dict[str, Any]:
        make(TEXTS, value, "data")
        return value

    def check(self) -> None:
        """Look for the texts.

        Raises:
            UserError: they do not exist.
        """
        make(TEXTS, self.data, "data").check()

    def run(self, context: StepContext) -> dict[str, Any]:
        """Write the tokenizer's files; say how many tokens a text takes.

        Raises:
            UserError: a vocabulary too small, an unknown chat template, or data that cannot be read.
        """
        source = make(TEXTS, self.data, "data").open(context.seed)
        template = TEMPLATES.get(context.model.get("template", "chatml"), where="model.template")
        tokenizer = train_bpe(self._texts(source), self.vocab_size, template, self.max_token_length)
        tokenizer.save_pretrained(context.output)
        probe = [source.text(index) for index in range(min(200, self._count(source)))]
        characters = sum(len(text) for text in probe)
        tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in probe)
        return {"vocab_size": len(tokenizer), "characters_per_token": round(characters / max(tokens, 1), 2)}

    def _count(self, source: TextSource) -> int:
        return min(self.texts, len(source)) if len(source) else self.texts

    def _texts(self, source: TextSource) -> Iterator[str]:
        for index in range(self._count(source)):
            yield source.text(index)
