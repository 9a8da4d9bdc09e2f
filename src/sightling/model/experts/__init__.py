"""Other models' words about a picture, handed to the language model in the picture's place."""

from __future__ import annotations

from sightling.model.experts.asked import ModelExpert
from sightling.model.experts.base import EXPERTS, NONE, ExpertOptions, check_experts, make_experts, notes
from sightling.model.experts.brought import NotesExpert

__all__ = [
    "EXPERTS", "NONE", "ExpertOptions", "ModelExpert", "NotesExpert", "check_experts", "make_experts",
    "notes",
]  # fmt: skip
