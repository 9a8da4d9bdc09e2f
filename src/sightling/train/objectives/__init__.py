"""Objectives: what a stage teaches, one file each. A file listed here registers itself when imported."""

from __future__ import annotations

from sightling.train.objectives.base import OBJECTIVES, Batch, Objective

__all__ = ["OBJECTIVES", "Batch", "Objective"]
