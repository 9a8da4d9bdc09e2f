"""What every objective offers the one loop: data, a count of what is supervised, and a loss.

An objective is one file in this package::

    @OBJECTIVES.register("language")
    class Language(Objective):
        Options = LanguageOptions      # a closed model of what `objective:` may say beside `type`
        sources = TEXTS                # a registry of closed models: what `data: {type: ...}` may be

Both sections of a stage are validated before anything runs; the instance holds them as ``options``
and ``data``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn as nn
from torch import Tensor
from torch.utils.data import Dataset

from sightling.errors import UserError
from sightling.parts import Part
from sightling.registry import Registry
from sightling.train.features.cache import FeatureCache
from sightling.train.features.space import View

Batch = dict[str, Any]
"""What :meth:`Objective.collate` makes: tensors by name, moved to the device by the loop."""

TYPICAL = (640, 480)
"""(width, height) in pixels of the picture that stands for those of data that are not there."""


class Objective(ABC):
    """One way to learn. A new way to learn is a new objective, never a new loop.

    Attributes:
        model: the model that learns; the loop has already said which of its parts train.
        processor: the model's processor.
        options: the stage's ``objective`` section, an instance of ``Options``.
        data: the stage's ``data`` section, an instance of one of ``sources``.
        seed: the stage's own seed, for what the objective draws before its first step.
        features: where a frozen encoder's features are kept; the run sets it before it asks for the data set.
        view: how the encoder sees pictures, for what is kept of them.
    """

    Options: ClassVar[type[Part]] = Part
    # Any registry of parts: each objective knows what its own sources offer beyond their options.
    sources: ClassVar[Registry[Any]]
    features: FeatureCache | None = None
    view: ClassVar[View] = "tiles"

    def __init__(self, model: nn.Module, processor: Any, options: Part, data: Part, seed: int) -> None:
        self.model = model
        self.processor = processor
        self.options: Any = options
        self.data: Any = data
        self.seed = seed

    @classmethod
    def check_model(cls, section: Mapping[str, Any], where: str) -> None:
        """Look at a recipe's ``model`` section, told as ``where``, before anything runs.

        Raises:
            UserError: a model that this objective cannot teach.
        """
        return

    @classmethod
    def check_features(cls, options: Part, where: str) -> None:
        """Look at a stage whose ``features`` are to be kept, told as ``where``, before anything runs.

        Raises:
            UserError: this objective, or its options, have no use for features that were computed once.
        """
        raise UserError(f"{where}.features.cache is of no use to this objective; set it to false")

    @abstractmethod
    def dataset(self) -> Dataset[Any]:
        """The items to learn from, by index.

        A dataset with ``__len__`` is finite: it is shuffled anew each epoch. One without is endless: item
        ``i`` is asked for once, in order. Python's, numpy's and torch's random generators are seeded for each
        item by its place in the stage, so whatever an item draws does not depend on who fetches it or when.
        """

    @abstractmethod
    def collate(self, items: list[Any]) -> Batch:
        """Items to one micro-batch; runs in the data workers."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Supervised units (tokens, pairs, ...) in a micro-batch, known before the forward pass."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss SUMMED over the supervised units, and metrics summed the same way.

        The loop divides by the count of the whole step, over all micro-batches and ranks.
        """

    @abstractmethod
    def tokens(self, batch: Batch) -> tuple[int, int]:
        """(real tokens, all tokens with padding) of a micro-batch, for the log."""

    def samples(self, batch: Batch) -> int | None:
        """Samples in a micro-batch where an item holds several (packed rows); ``None``: one an item."""
        return None

    def extra(self) -> nn.Module | None:
        """What trains with this stage and is thrown away after it, such as a projection head.

        Called once. It learns at the stage's ``learning_rate`` and is saved in checkpoints only.
        """
        return None

    def held_out(self) -> Dataset[Any] | None:
        """Items never trained on (finite), for the loss that is measured every ``eval_steps``."""
        return None

    def largest_item(self) -> Any:
        """An item as long as the options allow, with one picture of :data:`TYPICAL` size where items have pictures.

        It stands for the items of a data set that is not there when a stage is planned; its values mean nothing.
        :meth:`dataset` has not been called, and the processor may have no tokenizer.

        Raises:
            UserError: this objective does not say what its items look like.
        """
        raise UserError(f"{type(self).__name__} cannot be planned without its data")


OBJECTIVES: Registry[type[Objective]] = Registry("objective")
