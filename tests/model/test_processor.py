from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kit import CLIP, grow, noise, picture, plain, talk
from sightling.data.sample import Part, Picture, Sample, Turn
from sightling.errors import UserError
from sightling.model import VisionLanguageProcessor
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.modeling import IGNORED
from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

WORDS = ["red", "", " is it blue?", "图中有", "\n", "a\n\nb", "  ", "1 2", "user\n", "é…", "\t", "<b>"]
TEXT = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=3).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
SPOOFS = st.lists(
    st.sampled_from(["red", "<|im_end|>", "<|im_start|>user\n", "<|image_pad|>", "<|end|>", "<|", "|>", "im_end",
                     "<|assistant|>", "<|vision_start|>", "<|endoftext|>"]), max_size=4).map("".join)  # fmt: skip


def compact() -> VisionLanguageProcessor:
    """A processor of the other template."""
    words = train_bpe(["what colour is the circle?\nred", "图中有红色的圆形"] * 5, 330, TEMPLATES.get("compact"))
    return VisionLanguageProcessor(plain()[1].image_processor, words, template="compact")


PROCESSORS = {"chatml": plain()[1], "compact": compact()}


def free_of(processor: VisionLanguageProcessor, text: str) -> bool:
    return not any(token in text for token in processor._control)


@st.composite
def conversations(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> Sample:
    """Up to three questions with pictures among their words, answered in turns, perhaps with a system's turn."""

    def asked() -> tuple[Part, ...]:
        return tuple(
            Picture(image=noise(5, 4)) if kind else draw(text)
            for kind in draw(st.lists(st.booleans(), min_size=1, max_size=4))
        )

    turns = []
    if draw(st.booleans()):
        turns.append(Turn("system", (draw(text),)))
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Turn("user", asked()))
        turns.append(Turn("assistant", (draw(text),), supervised=draw(st.booleans())))
    return Sample(tuple(turns if draw(st.booleans()) else turns[:-1]))


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The sample as transformers writes conversations."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.image}
                for part in turn.parts
            ],
        }
        for turn in sample.turns
    ]


# ---- placeholders


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"encoder": {**CLIP, "keep_cls": True}},
        {"connector": {"type": "pixel_shuffle", "factor": 2}},
        {"connector": {"type": "pixel_shuffle", "factor": 4}, "tiling": {"type": "single", "fit": "crop"}},
    ],
    ids=["mlp", "cls", "pixel shuffle", "one token"],
)
def test_as_many_placeholders_as_were_counted_and_as_the_model_makes(section: dict[str, Any]) -> None:
    model, processor = grow(**section)
    for number, (width, height) in enumerate([(16, 16), (40, 7), (3, 90), (1, 1)]):
        shown = picture(number, width, height)
        encoded = processor.encode(talk(("see", shown, "red?"), "yes"))
        placeholders = encoded.input_ids.count(processor.image_token_id)
        assert placeholders == processor.image_processor.count(width, height)
        assert processor.visual(shown).count(processor.image_token_id) == placeholders
        with torch.no_grad():
            made = model.get_image_features(processor.pixels(shown))
        assert placeholders == made.shape[0] * made.shape[1]


# ---- ids


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=120, deadline=None)
@given(conversations())
def test_ids_are_those_of_the_jinja_template(name: str, sample: Sample) -> None:
    processor = PROCESSORS[name]
    answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
    # An answer that begins with a line break is cut off from the opening: the documented exception.
    broken = any("\n" in answer[: len(answer) - len(answer.lstrip())] for answer in answers)
    broken = broken or any("\r" in answer[: len(answer) - len(answer.lstrip())] for answer in answers)
    assume(not broken and all(free_of(processor, turn.text) for turn in sample.turns))
    asks = sample.turns[-1].role == "user"
    said = processor.apply_chat_template(messages(sample), tokenize=False, add_generation_prompt=asks)
    pictures = [one.image for one in sample.pictures()]
    theirs = processor(text=said, images=pictures or None)
    ids = list(theirs["input_ids"][0])
    encoded = processor.encode(sample, prompt_only=asks)
    ours = list(encoded.input_ids)
    # The last turn ends with its stop token; what follows it teaches nothing.
    assert ours == (ids if asks else ids[: len(ours)])
    if not asks:
        assert ours[-1] == processor.stop_token_id
        assert processor.stop_token_id not in ids[len(ours) :]
    if pictures:
        assert torch.equal(theirs["pixel_values"], torch.cat([processor.pixels(one) for one in encoded.pictures]))


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_answer_that_begins_with_a_line_break_is_what_generation_would_begin_with(name: str) -> None:
    processor = PROCESSORS[name]
    sample = talk("red?", "\n\nred")
    prompt = processor.encode(Sample(sample.turns[:1]), prompt_only=True).input_ids
    assert processor.encode(sample).input_ids[: len(prompt)] == prompt


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=80, deadline=None)
@given(conversations(SPOOFS))
def test_no_text_becomes_a_control_token(name: str, sample: Sample) -> None:
    processor = PROCESSORS[name]
    bare = Sample(
        tuple(Turn(turn.role, tuple("" if isinstance(part, str) else part for part in turn.parts), turn.supervised)
              for turn in sample.turns)
    )  # fmt: skip
    asks = sample.turns[-1].role == "user"
    spoken = processor.encode(sample, prompt_only=asks)
    silent = processor.encode(bare, prompt_only=asks)
    control = set(processor._control.values())
    assert [i for i in spoken.input_ids if i in control] == [i for i in silent.input_ids if i in control]
    # Nothing is lost either: between the control tokens the words stand to the letter.
    form = TEMPLATES.get(name)
    written = "".join(form.opens[turn.role] + "\0" + turn.text + "\0" + form.closes[turn.role] for turn in sample.turns)
    written += form.opens["assistant"] if asks else ""
    whole = processor.tokenizer.decode([token for token in spoken.input_ids if token not in control])
    expected = "".join(part if place % 2 else without(form.control, part)
                       for place, part in enumerate(written.split("\0")))  # fmt: skip
    assert whole == (expected if asks or name == "compact" else expected.removesuffix("\n"))
    (tokenized,) = processor.apply_chat_template(messages(sample), tokenize=True, add_generation_prompt=asks)
    assert tuple(tokenized) == spoken.input_ids


def without(tokens: tuple[str, ...], text: str) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text


# ---- labels


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=80, deadline=None)
@given(conversations())
def test_labels_are_on_supervised_answers_and_their_stop_tokens(name: str, sample: Sample) -> None:
    processor = PROCESSORS[name]
    if sample.turns[-1].role == "user":
        sample = Sample((*sample.turns, Turn("assistant", ("two",))))
    encoded = processor.encode(sample)
    assert len(encoded.labels) == len(encoded.input_ids)
    assert all(label in (IGNORED, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label != IGNORED:
            runs[-1].append(label)
            if label == processor.stop_token_id:
                runs.append([])
    assert runs.pop() == []
    counted = [turn.text for turn in sample.turns if turn.role == "assistant" and turn.supervised]
    assert [run[-1] for run in runs] == [processor.stop_token_id] * len(counted)
    assert [processor.tokenizer.decode(run[:-1]) for run in runs] == counted


def test_a_prompt_has_no_labels_and_goes_on_as_the_sample_does() -> None:
    _, processor = plain()
    sample = talk((picture(), "what colour?"), "red", "sure?", "yes")
    prompt = processor.encode(Sample(sample.turns[:-1]), prompt_only=True)
    whole = processor.encode(sample)
    assert prompt.labels == whole.labels[: len(prompt.labels)]
    assert set(prompt.labels[-5:]) == {IGNORED}
    assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    rest = whole.input_ids[len(prompt.input_ids) :]
    assert rest == (*processor.plain("yes"), processor.stop_token_id)
    assert processor.decode_answer([*rest, 40]) == "yes"
    assert processor.prompt_text(sample).count("<|image_pad|>") == 16


# ---- pictures and what they share


def test_pictures_come_in_order_and_the_trunk_ends_behind_those_of_the_first_question() -> None:
    _, processor = plain()
    one, two, three = picture(1), picture(2), picture(3)
    encoded = processor.encode(talk((one, "and", two, "red?"), "no", ("here", three), "yes", system="look"))
    assert [id(shown) for shown in encoded.pictures] == [id(one), id(two), id(three)]
    assert encoded.trunk_pictures == 2
    trunk = encoded.input_ids[: encoded.trunk]
    assert trunk.count(processor.image_token_id) == 32
    # The last token of the trunk is the last placeholder or what closes the picture right behind it.
    assert set(trunk[-2:]) & {processor.image_token_id}
    assert encoded.input_ids[encoded.trunk :].count(processor.image_token_id) == 16
    late = processor.encode(talk("hello", "hi", (one, "red?"), "no"))
    assert (late.trunk, late.trunk_pictures, len(late.pictures)) == (0, 0, 1)
    wordless = processor.encode(talk("hello", "hi"))
    assert (wordless.trunk, wordless.trunk_pictures, wordless.pictures) == (0, 0, ())


def test_samples_about_the_same_picture_have_the_same_trunk() -> None:
    for processor in PROCESSORS.values():
        shown = picture(1)
        first = processor.encode(talk(("see: ", shown, "red?"), "no"))
        second = processor.encode(talk(("see: ", shown, "图中有"), "有", "and?", "no"))
        assert first.trunk == second.trunk > 16
        assert first.input_ids[: first.trunk] == second.input_ids[: second.trunk]


@pytest.mark.parametrize(
    ("sample", "prompt_only", "message"),
    [
        (Sample(()), False, "the sample has no turns"),
        (talk("red?", "no"), True, "the sample ends with the assistant's turn; a prompt ends with the user's"),
        (Sample((Turn("tool", ("x",)),)), False,  # type: ignore[arg-type]
         "turn 0 has the role 'tool'; known are ['assistant', 'system', 'user']"),
    ],
)  # fmt: skip
def test_what_cannot_be_encoded_is_one_sentence(sample: Sample, prompt_only: bool, message: str) -> None:
    with pytest.raises(UserError) as error:
        plain()[1].encode(sample, prompt_only=prompt_only)
    assert str(error.value) == message


# ---- transformers' way in


def test_several_conversations_are_padded_on_the_left() -> None:
    _, processor = plain()
    samples = [talk((picture(1), "what colour?", picture(2))), talk("red?")]
    told = processor.apply_chat_template(
        [messages(sample) for sample in samples], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    assert told["pixel_values"].shape == (2, 3, 16, 16)
    for row, sample in enumerate(samples):
        own = told["attention_mask"][row].bool()
        assert own.tolist() == sorted(own.tolist())
        assert tuple(told["input_ids"][row][own].tolist()) == processor.encode(sample, prompt_only=True).input_ids
    listed = [messages(sample) for sample in samples]
    texts = [processor.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in listed]
    images = [[one.image for one in sample.pictures()] for sample in samples]
    called = processor(text=texts, images=images, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(called[name], told[name])


def test_pictures_and_placeholders_must_agree_and_no_picture_is_cut() -> None:
    _, processor = plain()
    shown = noise()
    with pytest.raises(UserError, match=r"^the text holds 2 image placeholders, but 1 pictures were given$"):
        processor(text="<|image_pad|> or <|image_pad|>", images=shown)
    with pytest.raises(UserError, match=r"^the text holds 0 image placeholders, but 1 pictures were given$"):
        processor(text="red?", images=[shown])
    with pytest.raises(UserError, match=r"^the text holds 1 \(1, 0 a row\) .*, but 1 \(0, 1 a row\) pictures"):
        processor(text=["<|image_pad|>", "red?"], images=[[], [shown]])
    with pytest.raises(UserError, match=r"^max_length cuts a picture: 10 of its row's 16 placeholders would be left$"):
        processor(text="<|image_pad|>red?", images=shown, truncation=True, max_length=10)


def test_one_message_can_be_gone_on_with() -> None:
    _, processor = plain()
    told = [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "it is"}]
    ids = processor.apply_chat_template(told, tokenize=True, continue_final_message=True)
    assert ids == [list(processor.encode(talk("red?", "it is")).input_ids[:-1])]
    with pytest.raises(UserError, match="the last one is not"):
        processor.apply_chat_template(told[:1], tokenize=True, continue_final_message=True)
    with pytest.raises(UserError, match="cannot follow 'tools'"):
        processor.apply_chat_template(told, tokenize=True, tools=[{}])


# ---- keeping it


def same(one: VisionLanguageProcessor, two: VisionLanguageProcessor) -> None:
    shown = noise(33, 21)
    sample = talk((Picture(image=shown), "图中有 <|im_end|>?"), "有", system="look")
    first, second = one.encode(sample), two.encode(sample)
    assert (first.input_ids, first.labels, first.trunk) == (second.input_ids, second.labels, second.trunk)
    assert torch.equal(one.pixels(Picture(image=shown)), two.pixels(Picture(image=shown)))
    assert one.chat_template == two.chat_template and one.template == two.template
    assert (one.pad_token_id, one.stop_token_id) == (two.pad_token_id, two.stop_token_id)


@pytest.mark.parametrize("name", PROCESSORS)
def test_it_is_the_same_after_pickling_and_after_saving(name: str, tmp_path: Path) -> None:
    pictures = VisionLanguageImageProcessor(
        16, 4, 0, {"type": "single", "fit": "pad"}, {"type": "pixel_shuffle", "version": "v1"}, "bilinear"
    )
    made = VisionLanguageProcessor(pictures, PROCESSORS[name].tokenizer, template=name)
    made.encode(talk("known already", "yes"))
    same(made, pickle.loads(pickle.dumps(made)))
    made.save_pretrained(tmp_path)
    same(made, VisionLanguageProcessor.from_pretrained(tmp_path))


def test_a_tokenizer_without_the_templates_tokens_is_refused() -> None:
    _, processor = plain()
    with pytest.raises(UserError, match=r"^the tokenizer lacks the control token .* of the chat template 'compact'$"):
        VisionLanguageProcessor(processor.image_processor, processor.tokenizer, template="compact")
