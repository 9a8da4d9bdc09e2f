"""MiniCPM-V 2.6: pictures with a number, parts of a turn on lines of their own.

Source of the strings: the MiniCPM-V project, and LLaMA-Factory's and ms-swift's templates for it (the default
system's message). The marks around overview and slices come from the tiling ``adaptive``, not from here.
"""

from __future__ import annotations

from sightling.model.templates.base import END, Template, register
from sightling.model.templates.chatml import CLOSES, OPENS, START, STOP

register(
    Template(
        name="minicpm-v",
        control=(END, START, STOP, "<unk>", "<image_id>", "</image_id>", "<image>", "</image>", "<slice>", "</slice>"),
        system="You are a helpful assistant.",
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        before_image="<image_id>{n}</image_id>",
        image="<unk>",
        after_words="\n",
        after_picture="\n",
        first_number=0,
    )
)
