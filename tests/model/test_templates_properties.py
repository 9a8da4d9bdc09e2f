"""What holds for every chat template, whatever is said."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech import (
    NAMES,
    TEXT_STOP,
    WITH_SYSTEM,
    WORDLESS,
    asks,
    messages,
    processor_of,
    rendered,
    shown,
    turns,
    written,
)

from sightling.data.sample import Part, Picture, Sample, Turn
from sightling.errors import UserError
from sightling.model.modeling import IGNORED
from sightling.model.templates import TEMPLATES

WORDS = ["red", "", " is it blue?", "图中有", "\n", "a\n\nb", "  ", "1 2", "user\n", "é…", "<b>", "###", "{n}"]
CONTROL = sorted({token for name in NAMES for token in TEMPLATES.get(name).control})
SPOOFS = [*CONTROL, "red", "###Assistant: ", "<|", "|>", "im_end"]


def kinds(name: str) -> Iterator[Sample]:
    """Turns with 0, 1 and 2 pictures, one and several, with and without a system, prompts and whole conversations."""
    asked: list[tuple[Part, ...]] = [
        ("red?",),
        (shown(), "red?"),
        ("red?", shown()),
        (shown(), shown(), "red?"),
        ("in", shown(), "and", shown(), "?"),
    ]
    systems = [[], [Turn("system", ("Be brief.",))]] if name in WITH_SYSTEM else [[]]
    for system, number, count, whole in product(systems, range(len(asked)), (1, 2), (False, True)):
        told = list(system)
        for turn in range(count):
            parts = asked[(number + 2 * turn) % len(asked)]
            told.append(Turn("user", (*parts, shown()) if name in WORDLESS else parts))
            told.append(Turn("assistant", ("no, it\nis blue",)))
        yield Sample(tuple(told if whole else told[:-1]))


@st.composite
def conversations(draw: st.DrawFn, words: list[str], name: str) -> Sample:
    """Up to three questions with up to two pictures each among their words, and answers; perhaps a system's turn."""
    text = st.lists(st.sampled_from(words), max_size=3).map("".join)

    def asked() -> tuple[Part, ...]:
        kinds = draw(st.lists(st.booleans(), min_size=1, max_size=4).filter(lambda kinds: sum(kinds) < 3))
        parts: tuple[Part, ...] = tuple(shown() if kind else draw(text) for kind in kinds)
        return parts if any(kinds) or name not in WORDLESS else (*parts, shown())

    told = []
    if name in WITH_SYSTEM and draw(st.booleans()):
        told.append(Turn("system", (draw(text),)))
    for _ in range(draw(st.integers(1, 3))):
        told.append(Turn("user", asked()))
        told.append(Turn("assistant", (draw(text),), supervised=draw(st.booleans())))
    return Sample(tuple(told if draw(st.booleans()) else told[:-1]))


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_form_writes_the_same_string(name: str) -> None:
    for sample in kinds(name):
        assert rendered(name, sample) == written(name, sample)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_the_jinja_form_writes_the_same_string_whatever_is_said(name: str, data: st.DataObject) -> None:
    sample = data.draw(conversations(WORDS, name))
    assert rendered(name, sample) == written(name, sample)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_no_text_becomes_a_control_token(name: str, data: st.DataObject) -> None:
    processor = processor_of(name)
    sample = data.draw(conversations(SPOOFS, name))
    # The same turns, each text a harmless word, or none where there was none.
    plain = Sample(
        tuple(
            Turn(turn.role, tuple(part and "x" if isinstance(part, str) else part for part in turn.parts))
            for turn in sample.turns
        )
    )
    control = set(processor._control.values())
    spoken, harmless = (processor.encode(one, prompt_only=asks(one)).input_ids for one in (sample, plain))
    assert [id for id in spoken if id in control] == [id for id in harmless if id in control]
    # Nothing is lost either: the string is the one with every text in its place.
    assert written(name, sample) == rendered_apart(name, sample)
    (tokenized,) = processor.apply_chat_template(messages(sample), tokenize=True, add_generation_prompt=asks(sample))
    assert tuple(tokenized) == spoken


def rendered_apart(name: str, sample: Sample) -> str:
    """The Jinja form's string of a sample whose texts hold control tokens, put in behind the expansion."""
    form = TEMPLATES.get(name)
    # What stands for it begins as it does: some templates part words from a picture by their first letter.
    stand = form.image[0] + "\0"
    assert form.image not in stand

    def kept(part: Part) -> Part:
        return part.replace(form.image, stand) if isinstance(part, str) else part

    hidden = Sample(tuple(Turn(turn.role, tuple(map(kept, turn.parts))) for turn in sample.turns))
    return rendered(name, hidden).replace(stand, form.image)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_what_is_supervised_is_what_the_model_writes_whatever_is_said(name: str, data: st.DataObject) -> None:
    sample = data.draw(conversations(WORDS, name))
    check_supervision(name, sample if not asks(sample) else Sample((*sample.turns, Turn("assistant", ("two",)))))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_supervised_is_what_the_model_writes(name: str) -> None:
    for sample in kinds(name):
        if not asks(sample):
            check_supervision(name, sample)


def check_supervision(name: str, sample: Sample) -> None:
    """The answer with what leads it and ends it, behind exactly the prompt that generation would see."""
    processor, form = processor_of(name), TEMPLATES.get(name)
    last = sample.turns[-1]
    sample = Sample((*sample.turns[:-1], Turn("assistant", last.parts)))
    encoded = processor.encode(sample)
    prompt = processor.encode(Sample(sample.turns[:-1]), prompt_only=True)
    start = len(prompt.input_ids)
    assert encoded.input_ids[:start] == prompt.input_ids
    assert encoded.labels[:start] == prompt.labels
    assert encoded.labels[start:] == encoded.input_ids[start:]
    assert encoded.input_ids[-1] == processor.stop_token_id
    head, stops, _ = form.ending()
    assert stops
    said = processor.tokenizer.decode(encoded.input_ids[start:-1])
    assert said == form.leads.get("assistant", "") + last.text + head
    if name not in TEXT_STOP and not form.stop_as_text:
        assert processor.decode_answer(encoded.input_ids[start:]) == last.text.strip()
    assert (encoded.trunk, encoded.trunk_pictures) == (prompt.trunk, prompt.trunk_pictures)
    silent = Sample(tuple(Turn(turn.role, turn.parts, supervised=False) for turn in sample.turns))
    assert set(processor.encode(silent).labels) == {IGNORED}


@pytest.mark.parametrize("name", NAMES)
def test_marks_that_a_user_writes_are_words(name: str) -> None:
    processor = processor_of(name)
    said = "".join(CONTROL)
    sample = turns(("user", (said, shown())), ("assistant", said))
    harmless = turns(("user", ("x", shown())), ("assistant", "x"))
    control = set(processor._control.values())
    spoken, expected = (processor.encode(one).input_ids for one in (sample, harmless))
    assert [id for id in spoken if id in control] == [id for id in expected if id in control]
    assert processor.prompt_text(sample).count(said) == (1 if name in WORDLESS else 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_is_what_stands_behind_the_prompt(name: str) -> None:
    processor = processor_of(name)
    question = turns(("user", (shown(), "red?")))
    whole = processor.encode(Sample((*question.turns, Turn("assistant", ("no, blue",)))))
    prompt = processor.encode(question, prompt_only=True)
    assert whole.input_ids == (*prompt.input_ids, *processor.reply("no, blue"))


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_is_gone_on_with_has_no_end(name: str) -> None:
    processor = processor_of(name)
    sample = turns(("user", (shown(), "red?")), ("assistant", "it is"))
    (ids,) = processor.apply_chat_template(messages(sample), tokenize=True, continue_final_message=True)
    assert processor.tokenizer.decode(ids).endswith("it is")
    prompt = processor.encode(Sample(sample.turns[:1]), prompt_only=True).input_ids
    assert tuple(ids[: len(prompt)]) == prompt


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_jinja_string(name: str) -> None:
    """Words that no token straddles: cut as one string they are cut as they were one by one."""
    processor = processor_of(name)
    question = ("user", (shown(), "is it red"))
    sample = turns(question, ("assistant", "no"), ("user", ("and", shown())), ("assistant", "yes"))
    told = processor.apply_chat_template(messages(sample), tokenize=False)
    pictures = [part.image for turn in sample.turns for part in turn.parts if isinstance(part, Picture)]
    theirs = processor(text=told, images=pictures)["input_ids"][0]
    ours = processor.encode(sample).input_ids
    assert tuple(theirs[: len(ours)]) == ours


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_SYSTEM)))
def test_a_template_without_a_system_refuses_one(name: str) -> None:
    with pytest.raises(UserError, match=r"^turn 0 has the role 'system'; known are \['assistant', 'user'\]$"):
        processor_of(name).encode(turns(("system", "Be brief."), ("user", (shown(), "red?"))))
