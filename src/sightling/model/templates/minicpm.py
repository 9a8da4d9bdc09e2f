"""MiniCPM-V: pictures with a number, parts of a turn on lines of their own.

Source of the strings: the MiniCPM-V project; for 2.6 LLaMA-Factory's and ms-swift's templates for it, too (the
default system's message), for 4.6 its chat template without thinking. The marks around overview and slices come from
the tiling ``adaptive``, not from here.
"""

from __future__ import annotations

from sightling.model.templates.base import END, IMAGE, Template, register
from sightling.model.templates.chatml import CLOSES, OPENS, START, STOP

NUMBER = "<image_id>{n}</image_id>"
"""Before a picture; the first one's is 0."""

MARKS = ("<image_id>", "</image_id>", "<image>", "</image>", "<slice>", "</slice>")

register(
    Template(
        name="minicpm-v",
        control=(END, START, STOP, "<unk>", *MARKS),
        system="You are a helpful assistant.",
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        before_image=NUMBER,
        image="<unk>",
        after_words="\n",
        after_picture="\n",
        first_number=0,
    )
)

# Its language model may think; an answer begins behind thoughts that are empty, of which an earlier turn keeps nothing.
register(
    Template(
        name="minicpm-v-4.6",
        control=(END, START, STOP, "<think>", "</think>", IMAGE, "<|video_pad|>", *MARKS),
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        opening=OPENS["assistant"] + "<think>\n\n</think>\n\n",
        before_image=NUMBER,
        after_words="\n",
        after_picture="\n",
        first_number=0,
    )
)
