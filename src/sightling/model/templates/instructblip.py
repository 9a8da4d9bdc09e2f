"""InstructBLIP with Vicuna: the question as it is, behind the picture and the beginning of the text.

Source of the strings: the LAVIS project's InstructBLIP (Vicuna), whose tokenizer begins a text with ``</s>`` and fills
it with ``[PAD]``. It knows questions alone; that an answer's ``</s>`` stands between turns is this project's choice.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import Template, register
from sightling.model.templates.llava import LLAMA

VICUNA = register(
    Template(
        name="instructblip",
        control=("</s>", "[PAD]", "<image>"),
        begin="</s>",
        begin_behind=True,
        opens={"user": "", "assistant": ""},
        closes={"user": "", "assistant": "</s>"},
        leads={"assistant": " "},
        stop="</s>",
        image="<image>",
        pad="[PAD]",
    )
)

# The same for a tokenizer that begins a text as Llama's does.
register(replace(VICUNA, name="instructblip-llama", control=LLAMA, begin="<s>", pad="<pad>"))
