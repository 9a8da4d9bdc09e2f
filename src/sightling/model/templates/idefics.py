"""Idefics2, Idefics3 and SmolVLM.

Source of the strings: the models' chat templates and processors in transformers. A turn that begins with a picture
has no blank behind its role. Idefics3 and SmolVLM mark a picture that is not cut with ``<global-img>``, which
Idefics3's vocabulary spells in letters; the tiling ``tagged`` writes it and the other tags itself. What fills a row is
a token that the models' vocabularies have.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import Template, register, roles
from sightling.sight.tiling.tagged import AROUND, WHOLE

CONTROL = (AROUND, "<image>", "<end_of_utterance>")
OPENS = {"system": "System:", "user": "User:", "assistant": "Assistant:"}

# Between two pictures that touch stands one mark, not two, and a word behind a picture stands apart from it.
IDEFICS2 = register(
    Template(
        name="idefics2",
        control=("<s>", "</s>", "<unk>", *CONTROL),
        begin="<s>",
        opens=OPENS,
        closes=roles("<end_of_utterance>\n"),
        leads=roles(" "),
        stop="<end_of_utterance>",
        before_image=AROUND,
        after_image=AROUND,
        image="<image>",
        pad="<unk>",
        merged=True,
        apart=" ",
    )
)

IDEFICS3 = register(
    replace(
        IDEFICS2,
        name="idefics3",
        control=("<|begin_of_text|>", "<|end_of_text|>", *CONTROL),
        begin="<|begin_of_text|>",
        uncut=WHOLE,
        pad="<|end_of_text|>",
        merged=False,
        apart="",
    )
)

register(
    replace(
        IDEFICS3,
        name="smolvlm",
        control=("<|im_start|>", "<|im_end|>", *CONTROL, WHOLE),
        begin="<|im_start|>",
        pad="<|im_end|>",
    )
)
