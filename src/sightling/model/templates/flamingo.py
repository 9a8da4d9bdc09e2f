"""Flamingo: a mark for each picture among the words, and one that ends a chunk.

Source of the strings: the OpenFlamingo project's training and evaluation code. Features never enter the sequence;
the mark says where words begin to see a picture.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import END, Template, register

CHUNK = "<|endofchunk|>"

# Words, answers and all, follow the picture as they are: a caption, or whatever the user's words begin.
FLAMINGO = register(
    Template(
        name="flamingo",
        control=(END, CHUNK, "<image>"),
        opens={"user": "", "assistant": ""},
        closes={"user": "", "assistant": CHUNK},
        stop=CHUNK,
        image="<image>",
    )
)

register(
    replace(
        FLAMINGO, name="flamingo-vqa", asks="Question:", closes={"user": " Short answer:", "assistant": CHUNK}
    )
)
