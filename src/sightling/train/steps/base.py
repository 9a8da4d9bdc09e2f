"""What a stage offers that trains no model: it makes one folder that later stages read.

A recipe writes it as ``words: {type: tokenizer, ...}``; ``type`` picks the step, the other keys are its
options::

    @STEPS.register("tokenizer")
    class TokenizerStep(StageStep):
        folder = "tokenizer"
        data: dict[str, Any]

        def run(self, context: StepContext) -> dict[str, Any]:
            ...write into context.output...
            return {"vocab_size": 1024}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sightling.parts import Part
from sightling.registry import Registry


@dataclass(frozen=True)
class StepContext:
    """What a step may use.

    Attributes:
        model: the recipe's ``model`` section.
        seed: the stage's own seed.
        output: an empty folder to write into. When the step returns, it becomes ``run_folder/<step.folder>``
            in one move; when it fails or is killed, nothing of it is left and the step starts over.
        run_folder: the run, with the results of earlier steps by their folder names.
        say: prints one line to the person who watches.
    """

    model: Mapping[str, Any]
    seed: int
    output: Path
    run_folder: Path
    say: Callable[[str], None]


class StageStep(Part, ABC):
    """A stage without a model, such as training a tokenizer; its fields are the stage's keys."""

    folder: ClassVar[str]
    """The name in the run folder of what the step makes; the model is built from there."""

    @abstractmethod
    def run(self, context: StepContext) -> dict[str, Any]:
        """Do it; what is returned (numbers and short texts) is recorded in ``run.json`` and printed."""


STEPS: Registry[type[StageStep]] = Registry("stage type")
