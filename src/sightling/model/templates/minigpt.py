"""MiniGPT-4 and MiniGPT-v2.

Source of the strings: the MiniGPT-4 project, its conversation templates and its training prompts. ``<Img>`` and
``</Img>`` are plain text there and here. MiniGPT-4's first stage has no prompt: ``llava-plain`` writes the same.
"""

from __future__ import annotations

from typing import Literal

from sightling.model.templates.base import Template, register, roles

CONTROL = ("<s>", "</s>", "<pad>", "<image>")

# The stop is the text "###" in the original; see the note at LLaVA's first format.
register(
    Template(
        name="minigpt-4",
        control=(*CONTROL, "###"),
        begin="<s>",
        system=(
            "Give the following image: <Img>ImageContent</Img>. "
            "You will be able to see the image once I provide it to you. Please answer my questions."
        ),
        opens={"system": "", "user": "Human: ", "assistant": "Assistant:"},
        closes=roles("###"),
        leads={"assistant": " "},
        stop="###",
        before_image="<Img>",
        after_image="</Img>",
        image="<image>",
        pad="<pad>",
        after_picture=" ",
        picture_first=True,
        stop_as_text=True,
    )
)

# The second stage trains on this: no system's message, and blanks where the conversation has none.
register(
    Template(
        name="minigpt-4-train",
        control=(*CONTROL, "###"),
        begin="<s>",
        opens={"user": "###Human: ", "assistant": " ###Assistant: "},
        closes={"user": "", "assistant": "###"},
        stop="###",
        before_image="<Img>",
        after_image="</Img>",
        image="<image>",
        pad="<pad>",
        after_picture=" ",
        picture_first=True,
        stop_as_text=True,
    )
)

register(
    Template(
        name="minigpt-v2",
        control=CONTROL,
        opens={"system": "", "user": "<s>[INST] ", "assistant": ""},
        closes={"system": "", "user": " [/INST]", "assistant": ""},
        last={"assistant": "</s>"},
        stop="</s>",
        before_image="<Img>",
        after_image="</Img>",
        image="<image>",
        pad="<pad>",
        after_picture=" ",
        picture_first=True,
    )
)

Task = Literal["vqa", "caption", "refer", "grounding", "identify", "detection"]
"""MiniGPT-v2's task identifiers."""


def task(name: Task, words: str) -> str:
    """What is asked of MiniGPT-v2, with the identifier of its task before it."""
    return f"[{name}] {words}"


def box(corners: tuple[float, float, float, float], width: int, height: int) -> str:
    """A box (left, top, right, bottom) in pixels as MiniGPT-v2 writes it: whole hundredths of the sides."""
    left, top, right, bottom = corners
    scaled = (left / width, top / height, right / width, bottom / height)
    return "{" + "".join(f"<{int(one * 100)}>" for one in scaled) + "}"
