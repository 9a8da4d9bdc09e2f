"""Each template against its original's prompt, written out."""

from __future__ import annotations

import pytest
from speech import FEW, NAMES, rendered, shown, turns, written

from sightling.data.sample import Sample

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
USER = HUMAN.replace("human", "user")
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
INTERN = (
    "<s><|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。<|im_end|>"
)
GIVE = (
    "<s>Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to "
    "you. Please answer my questions.###"
)
PAD = "<|image_pad|>" * FEW
IMG = "<image>" * FEW
CONTEXT = "<IMG_CONTEXT>" * FEW
FAKE = "<fake_token_around_image>"
EOU = "<end_of_utterance>\n"
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
USER_HEAD, ASSISTANT_HEAD = HEAD.format("user"), HEAD.format("assistant")
DATES = HEAD.format("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


def asked() -> Sample:
    """A question about one picture."""
    return turns(("user", (shown(), "red?")))


def talked() -> Sample:
    """Two questions, the second about another picture, both answered."""
    return turns(("user", (shown(), "red?")), ("assistant", "no"), ("user", (shown(), "blue?")), ("assistant", "yes"))


PROMPTS = {
    "chatml": f"<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?<|im_end|>\n<|im_start|>assistant\n",
    "compact": f"<|user|>{PAD}red?<|assistant|>",
    "minimind-v": "<s>user\n<<>>\nred?</s>\n<s>assistant\n",
    "minimind-3v": f"<|im_start|>user\n{PAD}\nred?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llava-plain": f"<s>{IMG}",
    "llava": f"<s>{HUMAN}###Human: {IMG}\nred?###Assistant:",
    "llava-1.5": f"<s>{USER} USER: {IMG}\nred? ASSISTANT:",
    "llava-1.5-hf": f"<s>USER: {IMG}\nred? ASSISTANT:",
    "llava-next-vicuna": f"<s>{USER} USER: {IMG}\nred? ASSISTANT:",
    "llava-next-mistral": f"<s>[INST] {IMG}\nred? [/INST]",
    "llava-next-qwen": f"{HELPFUL}<|im_start|>user\n{IMG}\nred?<|im_end|>\n<|im_start|>assistant\n",
    "llava-next-chatml": (
        f"<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{IMG}\nred?<|im_end|>"
        "<|im_start|>assistant\n"
    ),
    "llava-next-qwen-hf": f"<|im_start|>user\n{IMG}\nred?<|im_end|>\n<|im_start|>assistant\n",
    "llava-next-chatml-hf": f"<|im_start|>user\n{IMG}\nred?<|im_end|><|im_start|>assistant\n",
    "llava-onevision-hf": f"<|im_start|>user {IMG}\nred?<|im_end|><|im_start|>assistant\n",
    "blip-2": f"{IMG}</s>Question: red? Answer:",
    "blip-2-caption": f"{IMG}</s>",
    "instructblip": f"{IMG}</s>red?",
    "instructblip-llama": f"{IMG}<s>red?",
    "minigpt-4": f"{GIVE}Human: <Img>{IMG}</Img> red?###Assistant:",
    "minigpt-4-train": f"<s>###Human: <Img>{IMG}</Img> red? ###Assistant: ",
    "minigpt-v2": f"<s>[INST] <Img>{IMG}</Img> red? [/INST]",
    "internvl2": f"{INTERN}<|im_start|>user\n<img>{CONTEXT}</img>\nred?<|im_end|><|im_start|>assistant\n",
    "internvl": f"<|im_start|>user\n<img>{CONTEXT}</img>\nred?<|im_end|>\n<|im_start|>assistant\n",
    "minicpm-v": (
        f"{HELPFUL}<|im_start|>user\n<image_id>0</image_id>{'<unk>' * FEW}\nred?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "minicpm-v-4.6": (
        f"<|im_start|>user\n<image_id>0</image_id>{PAD}\nred?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "qwen-vl": (
        f"{HELPFUL}<|im_start|>user\nPicture 1: <img>{'<imgpad>' * FEW}</img>\nred?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen2-vl": (
        f"{HELPFUL}<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen3-vl": f"<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?<|im_end|>\n<|im_start|>assistant\n",
    "idefics2": f"<s>User:{FAKE}{IMG}{FAKE} red?{EOU}Assistant:",
    "idefics3": f"<|begin_of_text|>User:{FAKE}<global-img>{IMG}{FAKE}red?{EOU}Assistant:",
    "smolvlm": f"<|im_start|>User:{FAKE}<global-img>{IMG}{FAKE}red?{EOU}Assistant:",
    "flamingo": f"{IMG}red?",
    "flamingo-vqa": f"{IMG}Question:red? Short answer:",
    "llama-3.2-vision": f"<|begin_of_text|>{USER_HEAD}{'<|image|>' * FEW}red?<|eot_id|>{ASSISTANT_HEAD}",
}

IM = "<|im_end|>\n<|im_start|>"
TALKS = {
    "chatml": (
        f"<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?{IM}assistant\nno{IM}user\n<|vision_start|>{PAD}"
        f"<|vision_end|>blue?{IM}assistant\nyes<|im_end|>"
    ),
    "compact": f"<|user|>{PAD}red?<|assistant|>no<|end|><|user|>{PAD}blue?<|assistant|>yes<|end|>",
    "minimind-v": "<s>user\n<<>>\nred?</s>\n<s>assistant\nno</s>\n<s>user\n<<>>\nblue?</s>\n<s>assistant\nyes</s>",
    "minimind-3v": (
        f"<|im_start|>user\n{PAD}\nred?{IM}assistant\n<think>\n\n</think>\n\nno{IM}user\n{PAD}\nblue?{IM}assistant\n"
        "<think>\n\n</think>\n\nyes<|im_end|>"
    ),
    "llava-plain": f"<s>{IMG}no\n{IMG}yes\n",
    "llava": (
        f"<s>{HUMAN}###Human: {IMG}\nred?###Assistant: no###Human: {IMG}\nblue?###Assistant: yes###"
    ),
    "llava-1.5": f"<s>{USER} USER: {IMG}\nred? ASSISTANT: no</s>USER: {IMG}\nblue? ASSISTANT: yes</s>",
    "llava-1.5-hf": f"<s>USER: {IMG}\nred? ASSISTANT: no</s>USER: {IMG}\nblue? ASSISTANT: yes</s>",
    "llava-next-vicuna": f"<s>{USER} USER: {IMG}\nred? ASSISTANT: no</s>USER: {IMG}\nblue? ASSISTANT: yes</s>",
    "llava-next-mistral": f"<s>[INST] {IMG}\nred? [/INST] no </s>[INST] {IMG}\nblue? [/INST] yes </s>",
    "llava-next-qwen": (
        f"{HELPFUL}<|im_start|>user\n{IMG}\nred?{IM}assistant\nno{IM}user\n{IMG}\nblue?{IM}assistant\nyes<|im_end|>"
    ),
    "llava-next-chatml": (
        f"<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{IMG}\nred?<|im_end|><|im_start|>"
        f"assistant\nno<|im_end|><|im_start|>user\n{IMG}\nblue?<|im_end|><|im_start|>assistant\nyes<|im_end|>"
    ),
    "llava-next-qwen-hf": (
        f"<|im_start|>user\n{IMG}\nred?{IM}assistant\nno{IM}user\n{IMG}\nblue?{IM}assistant\nyes<|im_end|>"
    ),
    "llava-next-chatml-hf": (
        f"<|im_start|>user\n{IMG}\nred?<|im_end|><|im_start|>assistant\nno<|im_end|><|im_start|>user\n{IMG}\nblue?"
        "<|im_end|><|im_start|>assistant\nyes<|im_end|>"
    ),
    "llava-onevision-hf": (
        f"<|im_start|>user {IMG}\nred?<|im_end|><|im_start|>assistant\nno<|im_end|><|im_start|>user {IMG}\nblue?"
        "<|im_end|><|im_start|>assistant\nyes<|im_end|>"
    ),
    "blip-2": f"{IMG}</s>Question: red? Answer: no. {IMG}Question: blue? Answer: yes\n",
    "blip-2-caption": f"{IMG}</s>no\n{IMG}yes\n",
    "instructblip": f"{IMG}</s>red? no</s>{IMG}blue? yes</s>",
    "instructblip-llama": f"{IMG}<s>red? no</s>{IMG}blue? yes</s>",
    "minigpt-4": (
        f"{GIVE}Human: <Img>{IMG}</Img> red?###Assistant: no###Human: <Img>{IMG}</Img> blue?###Assistant: yes###"
    ),
    "minigpt-4-train": (
        f"<s>###Human: <Img>{IMG}</Img> red? ###Assistant: no######Human: <Img>{IMG}</Img> blue? ###Assistant: yes###"
    ),
    "minigpt-v2": f"<s>[INST] <Img>{IMG}</Img> red? [/INST]no<s>[INST] <Img>{IMG}</Img> blue? [/INST]yes</s>",
    "internvl2": (
        f"{INTERN}<|im_start|>user\n<img>{CONTEXT}</img>\nred?<|im_end|><|im_start|>assistant\nno<|im_end|>"
        f"<|im_start|>user\n<img>{CONTEXT}</img>\nblue?<|im_end|><|im_start|>assistant\nyes<|im_end|>"
    ),
    "internvl": (
        f"<|im_start|>user\n<img>{CONTEXT}</img>\nred?{IM}assistant\nno{IM}user\n<img>{CONTEXT}</img>\nblue?{IM}"
        "assistant\nyes<|im_end|>"
    ),
    "minicpm-v": (
        f"{HELPFUL}<|im_start|>user\n<image_id>0</image_id>{'<unk>' * FEW}\nred?{IM}assistant\nno{IM}user\n"
        f"<image_id>1</image_id>{'<unk>' * FEW}\nblue?{IM}assistant\nyes<|im_end|>"
    ),
    "minicpm-v-4.6": (
        f"<|im_start|>user\n<image_id>0</image_id>{PAD}\nred?{IM}assistant\nno{IM}user\n<image_id>1</image_id>{PAD}\n"
        f"blue?{IM}assistant\n<think>\n\n</think>\n\nyes<|im_end|>"
    ),
    "qwen-vl": (
        f"{HELPFUL}<|im_start|>user\nPicture 1: <img>{'<imgpad>' * FEW}</img>\nred?{IM}assistant\nno{IM}user\n"
        f"Picture 2: <img>{'<imgpad>' * FEW}</img>\nblue?{IM}assistant\nyes<|im_end|>"
    ),
    "qwen2-vl": (
        f"{HELPFUL}<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?{IM}assistant\nno{IM}user\n"
        f"<|vision_start|>{PAD}<|vision_end|>blue?{IM}assistant\nyes<|im_end|>"
    ),
    "qwen3-vl": (
        f"<|im_start|>user\n<|vision_start|>{PAD}<|vision_end|>red?{IM}assistant\nno{IM}user\n<|vision_start|>{PAD}"
        f"<|vision_end|>blue?{IM}assistant\nyes<|im_end|>"
    ),
    "idefics2": (
        f"<s>User:{FAKE}{IMG}{FAKE} red?{EOU}Assistant: no{EOU}User:{FAKE}{IMG}{FAKE} blue?{EOU}Assistant: yes"
        "<end_of_utterance>"
    ),
    "idefics3": (
        f"<|begin_of_text|>User:{FAKE}<global-img>{IMG}{FAKE}red?{EOU}Assistant: no{EOU}User:{FAKE}<global-img>{IMG}"
        f"{FAKE}blue?{EOU}Assistant: yes<end_of_utterance>"
    ),
    "smolvlm": (
        f"<|im_start|>User:{FAKE}<global-img>{IMG}{FAKE}red?{EOU}Assistant: no{EOU}User:{FAKE}<global-img>{IMG}"
        f"{FAKE}blue?{EOU}Assistant: yes<end_of_utterance>"
    ),
    "flamingo": f"{IMG}red?no<|endofchunk|>{IMG}blue?yes<|endofchunk|>",
    "flamingo-vqa": (
        f"{IMG}Question:red? Short answer:no<|endofchunk|>{IMG}Question:blue? Short answer:yes<|endofchunk|>"
    ),
    "llama-3.2-vision": (
        f"<|begin_of_text|>{USER_HEAD}{'<|image|>' * FEW}red?<|eot_id|>{ASSISTANT_HEAD}no<|eot_id|>"
        f"{USER_HEAD}{'<|image|>' * FEW}blue?<|eot_id|>{ASSISTANT_HEAD}yes<|eot_id|>"
    ),
}


def test_every_template_is_written_out_here() -> None:
    assert sorted(PROMPTS) == sorted(TALKS) == NAMES


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt(name: str) -> None:
    assert written(name, asked()) == PROMPTS[name]
    assert rendered(name, asked()) == PROMPTS[name]


@pytest.mark.parametrize("name", TALKS)
def test_a_conversation(name: str) -> None:
    assert written(name, talked()) == TALKS[name]
    assert rendered(name, talked()) == TALKS[name]


SYSTEMS = {
    "chatml": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "compact": "<|system|>Be brief.<|end|><|user|>red?<|assistant|>",
    "minimind-v": "Be brief.<s>user\nred?</s>\n<s>assistant\n",
    "minimind-3v": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n<think>\n\n</think>\n\n",
    "llava": "<s>Be brief.###Human: red?###Assistant:",
    "llava-1.5": "<s>Be brief. USER: red? ASSISTANT:",
    "llava-1.5-hf": "<s>Be brief. USER: red? ASSISTANT:",
    "llava-next-vicuna": "<s>Be brief. USER: red? ASSISTANT:",
    "llava-next-mistral": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nred? [/INST]",
    "llava-next-qwen": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "llava-next-chatml": (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nred?<|im_end|><|im_start|>assistant\n"
    ),
    "llava-next-qwen-hf": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "llava-next-chatml-hf": (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nred?<|im_end|><|im_start|>assistant\n"
    ),
    "llava-onevision-hf": (
        "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user \nred?<|im_end|><|im_start|>assistant\n"
    ),
    "minigpt-4": "<s>Be brief.###Human: red?###Assistant:",
    "minigpt-v2": "Be brief.<s>[INST] red? [/INST]",
    "internvl2": "<s><|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nred?<|im_end|><|im_start|>assistant\n",
    "internvl": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "minicpm-v": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "minicpm-v-4.6": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n<think>\n\n</think>\n\n",
    "qwen-vl": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "qwen2-vl": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "qwen3-vl": f"<|im_start|>system\nBe brief.{IM}user\nred?{IM}assistant\n",
    "idefics2": f"<s>System: Be brief.{EOU}User: red?{EOU}Assistant:",
    "idefics3": f"<|begin_of_text|>System: Be brief.{EOU}User: red?{EOU}Assistant:",
    "smolvlm": f"<|im_start|>System: Be brief.{EOU}User: red?{EOU}Assistant:",
    "llama-3.2-vision": f"<|begin_of_text|>{DATES}Be brief.<|eot_id|>{USER_HEAD}red?<|eot_id|>{ASSISTANT_HEAD}",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_that_is_given_replaces_the_templates_own(name: str) -> None:
    sample = turns(("system", "Be brief."), ("user", "red?"))
    assert written(name, sample) == SYSTEMS[name]
    assert rendered(name, sample) == SYSTEMS[name]
