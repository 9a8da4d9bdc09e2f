"""BLIP-2 with a decoder-only language model (OPT): bare questions, and captions without a prompt.

Source of the strings: the LAVIS project's BLIP-2 (OPT) and its examples. OPT begins a text with ``</s>``; that text
follows the picture, so its beginning stands behind it. A line break ends what is generated.
"""

from __future__ import annotations

from sightling.model.templates.base import Template, register

CONTROL = ("</s>", "<pad>", "<image>")

# Between turns an answer ends with a full stop and a blank, as the project's examples of several turns do.
register(
    Template(
        name="blip-2",
        control=CONTROL,
        begin="</s>",
        begin_behind=True,
        opens={"user": "", "assistant": ""},
        closes={"user": " Answer:", "assistant": ". "},
        last={"assistant": "\n"},
        leads={"assistant": " "},
        asks="Question: ",
        stop="\n",
        image="<image>",
        pad="<pad>",
    )
)

register(
    Template(
        name="blip-2-caption",
        control=CONTROL,
        begin="</s>",
        begin_behind=True,
        opens={"user": "", "assistant": ""},
        closes={"user": "", "assistant": "\n"},
        stop="\n",
        image="<image>",
        pad="<pad>",
        wordless=True,
    )
)
