"""Chat templates, one file a family: how turns become one prompt."""

from sightling.model.templates import (
    blip2,
    chatml,
    flamingo,
    idefics,
    instructblip,
    internvl,
    llama,
    llava,
    minicpm,
    minigpt,
    minimind,
    qwen,
)
from sightling.model.templates.base import END, IMAGE, TEMPLATES, Template

__all__ = [
    "END",
    "IMAGE",
    "TEMPLATES",
    "Template",
    "blip2",
    "chatml",
    "flamingo",
    "idefics",
    "instructblip",
    "internvl",
    "llama",
    "llava",
    "minicpm",
    "minigpt",
    "minimind",
    "qwen",
]
