"""Llama 3.2 Vision.

Source of the strings: the chat template of Llama 3.2 Vision Instruct. A system's message begins with two dates; the
second is the one that the template holds for engines without a clock. Without pictures there is always one, with
pictures only where it is given.
"""

from __future__ import annotations

from sightling.model.templates.base import Template, register, roles

HEAD = "<|start_header_id|>{role}<|end_header_id|>\n\n"
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
PAD = "<|finetune_right_pad_id|>"

OPENS = roles(HEAD)

register(
    Template(
        name="llama-3.2-vision",
        control=("<|begin_of_text|>", PAD, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>"),
        begin="<|begin_of_text|>",
        system="",
        system_unseen=True,
        opens={**OPENS, "system": OPENS["system"] + DATES},
        closes=roles("<|eot_id|>"),
        stop="<|eot_id|>",
        image="<|image|>",
        pad=PAD,
    )
)
