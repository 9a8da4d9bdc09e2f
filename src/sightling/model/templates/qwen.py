"""Qwen-VL, Qwen2-VL and Qwen3-VL: ChatML.

Source of the strings: the Qwen-VL project (its tokenizer and its generation code) and the chat templates of Qwen2-VL
and Qwen3-VL.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import END, Template, register
from sightling.model.templates.chatml import CHATML, CLOSES, OPENS, START, STOP

SYSTEM = "You are a helpful assistant."

# Between the marks the original spells the picture's path, filled up to 256 tokens; all of them are overwritten.
register(
    Template(
        name="qwen-vl",
        control=(END, START, STOP, "<img>", "</img>", "<imgpad>", "<ref>", "</ref>", "<box>", "</box>"),
        system=SYSTEM,
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        before_image="Picture {n}: <img>",
        after_image="</img>\n",
        image="<imgpad>",
    )
)

register(replace(CHATML, name="qwen2-vl", system=SYSTEM))
register(replace(CHATML, name="qwen3-vl"))
