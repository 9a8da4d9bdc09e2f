"""LLaVA, LLaVA-1.5 and LLaVA-NeXT.

Source of the strings: the LLaVA and LLaVA-NeXT projects (their conversation templates and the preprocessing of their
training code). The only picture of a turn comes before its words, followed by a line break.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import END, Template, register, roles
from sightling.model.templates.chatml import CLOSES, OPENS, START, STOP

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAMA = ("<s>", "</s>", "<pad>", "<image>")
"""Llama's control tokens, and those that LLaVA adds."""

VICUNA = register(
    Template(
        name="llava-1.5",
        control=LLAMA,
        begin="<s>",
        system=USER,
        opens={"system": "", "user": "USER: ", "assistant": "ASSISTANT:"},
        closes={"system": " ", "user": " ", "assistant": "</s>"},
        leads={"assistant": " "},
        stop="</s>",
        image="<image>",
        pad="<pad>",
        after_picture="\n",
        picture_first=True,
    )
)

# transformers' chat template for it says nothing before the first turn.
register(replace(VICUNA, name="llava-1.5-hf", system=None))

# The original's stop is the text "###", which Llama's tokenizer spells in several ways. Here it is one token, so that
# it can end an answer and so that nobody can write it; a language model that spells it is understood all the same.
register(
    replace(
        VICUNA,
        name="llava",
        control=(*LLAMA, "###"),
        system=HUMAN,
        opens={"system": "", "user": "Human: ", "assistant": "Assistant:"},
        closes=roles("###"),
        stop="###",
        stop_as_text=True,
    )
)

# Stage 1 of every LLaVA: a caption follows the picture, and a line break ends it. What was asked is not shown.
register(
    Template(
        name="llava-plain",
        control=LLAMA,
        begin="<s>",
        opens={"user": "", "assistant": ""},
        closes={"user": "", "assistant": "\n"},
        stop="\n",
        image="<image>",
        pad="<pad>",
        wordless=True,
    )
)

register(replace(VICUNA, name="llava-next-vicuna"))

register(
    Template(
        name="llava-next-mistral",
        control=LLAMA,
        begin="<s>",
        opens={"system": "<<SYS>>\n", "user": "[INST] ", "assistant": ""},
        closes={"system": "\n<</SYS>>\n\n", "user": " [/INST]", "assistant": " </s>"},
        system_inside=True,
        leads={"assistant": " "},
        stop="</s>",
        image="<image>",
        pad="<pad>",
        after_picture="\n",
        picture_first=True,
    )
)

QWEN = register(
    Template(
        name="llava-next-qwen",
        control=(END, START, STOP, "<image>"),
        system="You are a helpful assistant.",
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        image="<image>",
        after_picture="\n",
        picture_first=True,
    )
)

# transformers' chat templates say nothing before the first turn, here and below.
register(replace(QWEN, name="llava-next-qwen-hf", system=None))

# Yi-34B's: no line break between turns.
CHATML = register(
    replace(QWEN, name="llava-next-chatml", system="Answer the questions.", closes=roles(STOP))
)

register(replace(CHATML, name="llava-next-chatml-hf", system=None))

# The chat template of LLaVA-OneVision's files at transformers: the line break belongs to the words, and a blank stands
# where the original has one. That it writes a blank behind the assistant's name, too, where an answer is given but
# not where one is asked for, is not followed: what an answer stands behind is always what it was asked with.
register(
    replace(
        QWEN,
        name="llava-onevision-hf",
        system=None,
        opens={**roles(START + "{role} "), "assistant": START + "assistant\n"},
        closes=roles(STOP),
        leads={"system": "\n"},
        asks="\n",
        after_picture="",
    )
)
