"""sightling: grow, align, evaluate and serve vision-language models.

The public names below are imported when they are first used: ``import sightling`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightling.data.sample import Picture, Sample, Turn, question
    from sightling.decode.ask import ask
    from sightling.decode.batch import answer_all
    from sightling.decode.generate import generate
    from sightling.decode.session import Session
    from sightling.errors import UserError
    from sightling.interop.writing import save
    from sightling.loading import load
    from sightling.model.config import VisionLanguageConfig
    from sightling.model.modeling import VisionLanguageModel
    from sightling.model.processor import VisionLanguageProcessor

__version__ = "0.1.0"

_HOMES = {
    "Picture": "sightling.data.sample",
    "Sample": "sightling.data.sample",
    "Session": "sightling.decode.session",
    "Turn": "sightling.data.sample",
    "UserError": "sightling.errors",
    "VisionLanguageConfig": "sightling.model",
    "VisionLanguageModel": "sightling.model",
    "VisionLanguageProcessor": "sightling.model",
    "answer_all": "sightling.decode.batch",
    "ask": "sightling.decode.ask",
    "generate": "sightling.decode.generate",
    "load": "sightling.loading",
    "question": "sightling.data.sample",
    "save": "sightling.interop.writing",
}

__all__ = [
    "Picture",
    "Sample",
    "Session",
    "Turn",
    "UserError",
    "VisionLanguageConfig",
    "VisionLanguageModel",
    "VisionLanguageProcessor",
    "__version__",
    "answer_all",
    "ask",
    "generate",
    "load",
    "question",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sightling' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    # From now on without this detour.
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
