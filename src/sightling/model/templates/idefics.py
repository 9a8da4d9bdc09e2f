"""Idefics2, Idefics3 and SmolVLM.

Source of the strings: the models' chat templates and processors in transformers. A turn that begins with a picture
has no blank behind its role. Idefics3 and SmolVLM mark a picture that is not cut with ``<global-img>``.
"""

from __future__ import annotations

from dataclasses import replace

from sightling.model.templates.base import Template, register, roles

AROUND = "<fake_token_around_image>"
CONTROL = (AROUND, "<image>", "<end_of_utterance>", "<pad>")
OPENS = {"system": "System:", "user": "User:", "assistant": "Assistant:"}

# Between two pictures that touch stands one mark, not two, and a word behind a picture stands apart from it.
IDEFICS2 = register(
    Template(
        name="idefics2",
        control=("<s>", "</s>", *CONTROL),
        begin="<s>",
        opens=OPENS,
        closes=roles("<end_of_utterance>\n"),
        leads=roles(" "),
        stop="<end_of_utterance>",
        before_image=AROUND,
        after_image=AROUND,
        image="<image>",
        pad="<pad>",
        merged=True,
    )
)

IDEFICS3 = register(
    replace(
        IDEFICS2,
        name="idefics3",
        control=("<|begin_of_text|>", *CONTROL, "<global-img>"),
        begin="<|begin_of_text|>",
        before_image=AROUND + "<global-img>",
        merged=False,
    )
)

register(
    replace(IDEFICS3, name="smolvlm", control=("<|im_start|>", *CONTROL, "<global-img>"), begin="<|im_start|>")
)
