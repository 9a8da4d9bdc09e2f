"""InternVL2 with InternLM2, and the form that transformers gives InternVL 2.5 and 3.

Source of the strings: the InternVL project (its template ``internlm2-chat``) and the chat template of transformers'
conversion of InternVL.
"""

from __future__ import annotations

from sightling.model.templates.base import END, Template, register, roles
from sightling.model.templates.chatml import CLOSES, OPENS, START, STOP

# Turns touch: no line break follows a turn's end. InternLM2's tokenizer begins a text with <s>.
register(
    Template(
        name="internvl2",
        control=("<s>", "</s>", START, STOP, "<img>", "</img>", "<IMG_CONTEXT>"),
        begin="<s>",
        system=(
            "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
            "英文名叫InternVL, 是一个有用无害的人工智能助手。"
        ),
        opens=OPENS,
        closes=roles(STOP),
        stop=STOP,
        before_image="<img>",
        after_image="</img>",
        image="<IMG_CONTEXT>",
        pad="</s>",
        after_picture="\n",
    )
)

register(
    Template(
        name="internvl",
        control=(END, START, STOP, "<img>", "</img>", "<IMG_CONTEXT>"),
        opens=OPENS,
        closes=CLOSES,
        stop=STOP,
        before_image="<img>",
        after_image="</img>\n",
        image="<IMG_CONTEXT>",
    )
)
