"""Stages that train no model, one file each. A file listed here registers itself when imported."""

from __future__ import annotations

from sightling.train.steps.base import STEPS, StageStep, StepContext
from sightling.train.steps.tokenizer import TokenizerStep

__all__ = ["STEPS", "StageStep", "StepContext", "TokenizerStep"]
