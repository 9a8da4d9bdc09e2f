"""What single templates do beside the usual, and what tokenizers are given for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from speech import FEW, NAMES, TEXT_STOP, processor_of, rendered, shown, turns, written
from transformers import PreTrainedTokenizerFast

from kit import WORDS, noise, tokenizer
from sightling.data.sample import Picture, Sample
from sightling.errors import UserError
from sightling.model import VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.templates import TEMPLATES
from sightling.model.templates.minigpt import box, task
from sightling.model.tokenizer import train_bpe
from sightling.model.vocabulary import add_control_tokens

IMG = "<image>" * FEW
PAD = "<|image_pad|>" * FEW
FAKE = "<fake_token_around_image>"


def user(*parts: object) -> Sample:
    """One user's turn."""
    return turns(("user", parts))


@pytest.mark.parametrize(
    ("name", "sample", "end"),
    [
        ("llava-1.5", user("red?", shown()), f"USER: {IMG}\nred? ASSISTANT:"),
        ("llava-1.5", user(shown()), f"USER: {IMG} ASSISTANT:"),
        ("llava-1.5", user(shown(), "\nred?"), f"USER: {IMG}\nred? ASSISTANT:"),
        ("llava-1.5", user("a", shown(), "b", shown(), "c"), f"USER: a{IMG}\nb{IMG}\nc ASSISTANT:"),
        ("llava-1.5", user(shown(), shown(), "c"), f"USER: {IMG}\n{IMG}\nc ASSISTANT:"),
        ("minicpm-v", user("a", shown(), shown(), "b"),
         f"a\n<image_id>0</image_id>{'<unk>' * FEW}\n<image_id>1</image_id>{'<unk>' * FEW}\nb<|im_end|>\n"
         "<|im_start|>assistant\n"),
        ("qwen-vl", user(shown(), shown(), "b"),
         f"Picture 1: <img>{'<imgpad>' * FEW}</img>\nPicture 2: <img>{'<imgpad>' * FEW}</img>\nb<|im_end|>\n"
         "<|im_start|>assistant\n"),
        ("idefics2", user(shown(), shown(), "b"), f"User:{FAKE}{IMG}{FAKE}{IMG}{FAKE} b<end_of_utterance>\nAssistant:"),
        ("idefics2", user(shown(), "\nb", shown(), "<b"),
         f"User:{FAKE}{IMG}{FAKE}\nb{FAKE}{IMG}{FAKE}<b<end_of_utterance>\nAssistant:"),
        ("idefics3", user(shown(), shown()),
         f"User:{FAKE}<global-img>{IMG}{FAKE}{FAKE}<global-img>{IMG}{FAKE}<end_of_utterance>\nAssistant:"),
        ("idefics2", user("b", shown()), f"User: b{FAKE}{IMG}{FAKE}<end_of_utterance>\nAssistant:"),
        ("blip-2", user("b"), "</s>Question: b Answer:"),
        ("llava-plain", user("what is it?", shown(), "!"), f"<s>{IMG}"),
        ("minigpt-v2", user(shown(), task("grounding", "describe this image in detail")),
         f"<s>[INST] <Img>{IMG}</Img> [grounding] describe this image in detail [/INST]"),
        ("llava-next-mistral",
         turns(("system", "Be brief."), ("user", (shown(), "a")), ("assistant", "b"), ("user", "c")),
         f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{IMG}\na [/INST] b </s>[INST] c [/INST]"),
        ("llama-3.2-vision", user("a"),
         "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
         "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)  # fmt: skip
def test_where_parts_of_a_turn_meet(name: str, sample: Sample, end: str) -> None:
    assert written(name, sample).endswith(end)
    assert rendered(name, sample) == written(name, sample)
    if end.startswith("<"):
        assert written(name, sample) == end


def test_minicpm_numbers_a_picture_before_the_marks_of_its_slices() -> None:
    tiles = {"type": "adaptive", "max_slices": 4}
    pictures = VisionLanguageImageProcessor(16, 4, 0, tiles, {"type": "resampler", "queries": 2})
    words = train_bpe(WORDS * 5, 330, TEMPLATES.get("minicpm-v"))
    processor = VisionLanguageProcessor(pictures, words, template="minicpm-v")
    small, wide = Picture(image=noise(16, 16)), Picture(image=noise(32, 16))
    text = processor.prompt_text(user(small, wide, "red?"))
    two = "<unk><unk>"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<image_id>0</image_id><image>{two}</image>\n"
        f"<image_id>1</image_id><image>{two}</image><slice>{two}</slice><slice>{two}</slice>\n"
        "red?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_minimind_spells_fifty_placeholders_as_twenty_five_and_twenty_five() -> None:
    assert TEMPLATES.get("minimind-v").placeholders(50) == "<" * 25 + ">" * 25
    assert TEMPLATES.get("minimind-v").placeholders(196) == "<" * 98 + ">" * 98
    assert TEMPLATES.get("llava").placeholders(3) == "<image><image><image>"
    ids = [processor_of("minimind-v").tokenizer.convert_tokens_to_ids(token) for token in ("<unk>", "<s>", "</s>")]
    assert ids == [0, 1, 2]


def test_minigpt_v2_writes_boxes_in_hundredths() -> None:
    assert box((0, 0, 200, 100), 200, 100) == "{<0><0><100><100>}"
    assert box((50, 33, 101, 99), 200, 100) == "{<25><33><50><99>}"
    assert task("vqa", "red?") == "[vqa] red?"


def test_nothing_but_pictures_where_only_those_are_shown() -> None:
    with pytest.raises(UserError, match=r"^the chat template 'llava-plain' shows pictures only; turn 0 \(user\) holds"):
        processor_of("llava-plain").encode(user("red?"), prompt_only=True)
    with pytest.raises(Exception, match="shows pictures only; a turn holds none"):
        rendered("llava-plain", user("red?"))


def test_a_system_that_would_stand_inside_a_user_turn_needs_one() -> None:
    with pytest.raises(UserError, match=r"writes the system's words into a user turn; there is none$"):
        processor_of("llava-next-mistral").encode(turns(("system", "Be brief."), ("assistant", "yes")))


def test_an_answer_ends_where_a_language_model_spells_the_stop() -> None:
    processor = processor_of("minigpt-4")
    assert processor.decode_answer(processor.plain(" a red circle###Human: and?")) == "a red circle"
    assert processor_of("chatml").decode_answer(processor_of("chatml").plain("a ### b")) == "a ### b"


# ---- tokenizers


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_of_elsewhere_learns_the_template(name: str, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    foreign = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    foreign.pad_token = None
    form = TEMPLATES.get(name)
    add_control_tokens(foreign, form, tmp_path)
    assert len({foreign.convert_tokens_to_ids(token) for token in form.control}) == len(form.control)
    assert (foreign.eos_token, foreign.pad_token) == (form.eos, form.pad)
    pictures = processor_of(name).image_processor
    processor = VisionLanguageProcessor(pictures, foreign, template=name)
    sample = turns(("user", (shown(), "red?")), ("assistant", "no"))
    assert processor.prompt_text(sample) == written(name, sample)


@pytest.mark.parametrize("name", NAMES)
def test_what_fills_a_row_is_neither_a_picture_nor_unknown_to_the_tokenizer(name: str) -> None:
    form, processor = TEMPLATES.get(name), processor_of(name)
    assert form.pad in form.control and form.image in form.control and form.pad != form.image
    assert processor.pad_token_id == processor.tokenizer.convert_tokens_to_ids(form.pad)
    assert (form.eos == form.stop) == (name not in TEXT_STOP)


def test_a_stop_that_is_text_must_be_one_token() -> None:
    processor = processor_of("llava-plain")
    assert processor.stop_token_id == processor.plain("\n")[0]
    assert processor.encode(turns(("user", shown()), ("assistant", "a\nb."))).input_ids[-1] == processor.stop_token_id
    cut = train_bpe(WORDS * 5, 330, TEMPLATES.get("llava-plain"))
    cut.backend_tokenizer.pre_tokenizer = None
    cut.backend_tokenizer.normalizer = None
    with pytest.raises(UserError, match=r"ends an answer with '\\n', which the tokenizer spells with 0 tokens"):
        VisionLanguageProcessor(processor.image_processor, cut, template="llava-plain")


def test_templates_hold_control_tokens_only_where_they_are_read_as_such() -> None:
    for name in NAMES:
        form = TEMPLATES.get(name)
        beside = (*form.leads.values(), form.asks, form.after_words, form.after_picture, form.ending()[0])
        assert not any(token in text for token in form.control for text in beside), name
        assert form.name == name
