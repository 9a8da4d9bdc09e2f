"""Objectives: what a stage teaches, one file each. A file listed here registers itself when imported."""

from __future__ import annotations

from sightling.train.objectives.answer import Answer
from sightling.train.objectives.base import OBJECTIVES, Batch, Objective
from sightling.train.objectives.contrastive import Contrastive
from sightling.train.objectives.language import Language
from sightling.train.objectives.query_alignment import QueryAlignment
from sightling.train.objectives.words import Words

__all__ = ["OBJECTIVES", "Answer", "Batch", "Contrastive", "Language", "Objective", "QueryAlignment", "Words"]
