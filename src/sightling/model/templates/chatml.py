"""This project's own formats: Qwen's ChatML, and one of as few tokens as it goes."""

from __future__ import annotations

from sightling.model.templates.base import END, IMAGE, Template, register, roles

START, STOP = "<|im_start|>", "<|im_end|>"
OPENS = roles(START + "{role}\n")
CLOSES = roles(STOP + "\n")

CHATML = register(
    Template(
        name="chatml",
        control=(END, START, STOP, "<|vision_start|>", "<|vision_end|>", IMAGE, "<|video_pad|>"),
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        before_image="<|vision_start|>",
        after_image="<|vision_end|>",
    )
)

# One token a role and one that ends an answer: where a question has ten words, every other token counts.
register(
    Template(
        name="compact",
        control=(END, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", IMAGE),
        opens=roles("<|{role}|>"),
        closes={"system": "<|end|>", "user": "", "assistant": "<|end|>"},
        stop="<|end|>",
    )
)
