"""Which file of :mod:`sightling.interop` reads a folder that another project wrote: names only, nothing is imported.

The model's own ``from_pretrained`` and :func:`sightling.load` ask here, and import a layout's file when a folder of
that layout is opened; so the model stands on no layout.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

LAYOUTS: dict[str, str] = {
    "blip-2": "blip_2",
    "idefics2": "idefics2",
    "idefics3": "idefics3",
    "instructblip": "instructblip",
    "internvl": "internvl",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "minicpmv": "minicpmv2_6",
    "minicpmv4_6": "minicpmv4_6",
    "mllama": "mllama",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
    "smolvlm": "smolvlm",
}
"""transformers' ``model_type`` of a checkpoint, and the file of ``sightling.interop`` that knows its layout."""

FILE_LAYOUTS = ("minimind_v",)
"""Layouts that are one file of weights, without a configuration; each is a file of ``sightling.interop``, too."""

READING = "sightling.interop.reading"
"""Where the reader is; it stands above the model, so only its name is known here."""


def layout_of(folder: Any) -> str | None:
    """The layout that a folder is written in; ``None`` for one of our own, or none that is known.

    What is wrong with a folder is told by whoever reads it.
    """
    try:
        told = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return LAYOUTS.get(told.get("model_type"))
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def reader(layout: str) -> Any:
    """What reads folders of that layout: :class:`sightling.interop.reading.Reader`."""
    return import_module(READING).Reader(layout)
