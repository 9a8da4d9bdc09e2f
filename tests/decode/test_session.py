from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sightling.data.sample import Picture, Sample, Turn
from sightling.decode.generate import generate
from sightling.decode.prompt import ContextFull
from sightling.decode.session import Session
from sightling.errors import UserError
from tinymodel import picture, tiny


def test_turns_and_pictures_join_the_conversation() -> None:
    model, processor = tiny()
    session = Session(model, processor, system="be short", max_new_tokens=6)
    one, two = picture(1), picture(2)
    session.add(one)
    first = "".join(session.ask("red?"))
    session.add(two)
    assert len(session.waiting) == 1
    second = "".join(session.ask("and this?"))
    assert session.waiting == ()
    turns = (Turn("system", ("be short",)), Turn("user", (one, "red?")))
    assert first == "".join(generate(model, processor, Sample(turns), max_new_tokens=6))
    turns = (*turns, Turn("assistant", (first,)), Turn("user", (two, "and this?")))
    assert second == "".join(generate(model, processor, Sample(turns), max_new_tokens=6))
    assert [turn.role for turn in session.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert session.trace.reused_tokens > 0


def test_a_picture_is_encoded_once_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny()
    encoded: list[int] = []
    original = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda p, g: (encoded.append(p.shape[0]), original(p, g))[1])
    session = Session(model, processor, max_new_tokens=2)
    session.add(picture(1))
    for text in ("a", "b", "c"):
        list(session.ask(text))
    session.reset()
    assert session.turns == () and session.waiting == ()
    # Another object, the same pixels.
    session.add(picture(1))
    list(session.ask("d"))
    assert len(encoded) == 1


def test_a_file_is_read_when_it_is_added(tmp_path: Path) -> None:
    model, processor = tiny()
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20), "red").save(path)
    session = Session(model, processor, max_new_tokens=2)
    session.add(Picture(path=path))
    path.unlink()
    list(session.ask("red?"))
    with pytest.raises(UserError, match="does not exist"):
        session.add(Picture(path=path))
    assert session.waiting == ()


def test_an_answer_that_is_left_is_kept_as_far_as_it_came() -> None:
    model, processor = tiny()
    session = Session(model, processor, max_new_tokens=20)
    session.add(picture(1))
    unheard = session.ask("red?")
    unheard.close()
    assert session.turns == () and len(session.waiting) == 1
    running = session.ask("red?")
    piece = next(running)
    running.close()
    assert session.turns[-1] == Turn("assistant", (piece,)) and session.waiting == ()
    assert session.trace.finish == ""
    assert isinstance("".join(session.ask("and now?")), str)


def test_a_full_context_leaves_the_conversation_as_it_was() -> None:
    model, processor = tiny(context=64)
    session = Session(model, processor, max_new_tokens=4)
    list(session.ask("red?"))
    session.add(picture(1))
    before = session.turns
    with pytest.raises(ContextFull, match=r"holds \d+ tokens, visual ones included.*context is 64 tokens"):
        session.ask("x " * 60)
    assert session.turns == before and len(session.waiting) == 1
    list(session.ask("red?"))
    assert len(session.turns) == 4


def test_what_cannot_be_asked() -> None:
    model, processor = tiny()
    session = Session(model, processor)
    with pytest.raises(UserError, match="empty"):
        session.ask("  ")
    with pytest.raises(UserError, match="not valid UTF-8 text"):
        session.ask("red \udce5?")
    with pytest.raises(UserError, match="top_p = 2"):
        Session(model, processor, top_p=2)


def test_single_questions_are_answered_as_if_nothing_had_been_said() -> None:
    model, processor = tiny()
    one, two = picture(1), picture(2)
    session = Session(model, processor, single=True, max_new_tokens=6)
    session.add(one)
    for text, more in (("what is it?", None), ("how many?", two), ("what color?", None)):
        if more is not None:
            session.add(more)
        answer = "".join(session.ask(text))
        alone = Session(model, processor, max_new_tokens=6)
        for shown in (one,) if text == "what is it?" else (one, two):
            alone.add(shown)
        assert answer == "".join(alone.ask(text))
        assert len(session.turns) == 2 and session.turns[0].text == alone.turns[0].text
        assert len(session.turns[0].pictures) == (1 if text == "what is it?" else 2)
    session.reset()
    assert session.turns == ()
