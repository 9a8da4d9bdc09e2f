"""MiniMind-V's two formats: that of October 2024 and that of 2026 (minimind-3v).

Source of the strings: the MiniMind-V project, its tokenizers' chat templates and its data sets' code.
"""

from __future__ import annotations

from sightling.model.templates.base import END, IMAGE, Template, register
from sightling.model.templates.chatml import CLOSES, OPENS, START, STOP

# A picture is written as as many "<" as ">", 25 and 25 for 50 visual tokens. The original finds these runs among the
# ids and overwrites them; here the unknown token, which no text becomes, holds their places, so that the vocabulary
# has the original's three control tokens at the original's ids. A system's words stand bare before the first turn.
register(
    Template(
        name="minimind-v",
        control=("<unk>", "<s>", "</s>"),
        opens={"system": "", "user": "<s>user\n", "assistant": "<s>assistant\n"},
        closes={"system": "", "user": "</s>\n", "assistant": "</s>\n"},
        stop="</s>",
        image="<unk>",
        pad="</s>",
        spelling=("<", ">"),
        after_picture="\n",
    )
)

# An empty thought stands before every answer, in the generation prompt as in what was said before; the original's
# training takes it away from four samples in five.
THOUGHT = "<think>\n\n</think>\n\n"

register(
    Template(
        name="minimind-3v",
        control=(END, START, STOP, IMAGE, "<think>", "</think>"),
        opens={**OPENS, "assistant": OPENS["assistant"] + THOUGHT},
        closes=CLOSES,
        stop=STOP,
        after_picture="\n",
    )
)
