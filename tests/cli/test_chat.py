from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import sightling
from sightling import cli
from sightling.serve.preview import COLUMNS, ROWS, fitted, half_blocks
from sightling.serve.terminal import completions, human, printable

Piped = Callable[..., tuple[object, str, str]]


@pytest.fixture
def piped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Runs ``sightling chat`` with piped input: (exit code, standard output, standard error)."""

    def run(text: str | bytes, *argv: object) -> tuple[object, str, str]:
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as end:
            cli.main(["chat", *(str(part) for part in argv)])
        told = capsys.readouterr()
        return end.value.code, told.out, told.err

    return run


def expected(model_path: Path, *turns: tuple[list[Path], str], tokens: int = 6) -> str:
    session = sightling.Session(*sightling.load(model_path), max_new_tokens=tokens)
    lines = []
    for pictures, text in turns:
        for path in pictures:
            session.add(sightling.Picture(path=path))
        lines.append(printable("".join(session.ask(text))) + "\n")
    return "".join(lines)


def test_a_pipe_gives_the_answers_alone(piped: Piped, saved_model: Path, png: Path, tmp_path: Path) -> None:
    other = tmp_path / "a blue one.png"
    Image.new("RGB", (30, 30), (10, 10, 200)).save(other)
    text = f"red?\n\n圆形？\n/image {other}\nand this?\n"
    code, out, err = piped(text, saved_model, png, "--max-new-tokens", 6)
    assert code == 0
    assert out == expected(saved_model, ([png], "red?"), ([], "圆形？"), ([other], "and this?"))
    assert set(err.splitlines()) <= {"cut at 6 tokens; --max-new-tokens allows more"}


def test_new_and_quit(piped: Piped, saved_model: Path, png: Path) -> None:
    code, out, _ = piped(f"one\n/new\n/image '{png}'\nred?\n/quit\nnever\n", saved_model, png, "--max-new-tokens", 6)
    assert code == 0
    assert out == expected(saved_model, ([png], "one")) + expected(saved_model, ([png], "red?"))


@pytest.mark.parametrize("single", [(), ("--single",)])
def test_a_question_without_a_picture_is_told_once_in_a_conversation(
    piped: Piped, saved_model: Path, png: Path, single: tuple[str, ...]
) -> None:
    blind = "no picture is in this conversation, so this answer is without one; /image PATH adds one"
    text = f"red?\n/new\nred?\nand?\n/new\nred?\n/image {png}\nred?\nand?\n"
    code, _, err = piped(text, saved_model, png, "--max-new-tokens", 2, *single)
    assert code == 0
    assert [line for line in err.splitlines() if "picture" in line] == [blind, blind]


def test_a_mistake_is_one_sentence_and_the_chat_goes_on(piped: Piped, saved_model: Path, png: Path) -> None:
    mistakes = {
        b"/image none.png": "picture none.png does not exist",
        b"/image": "/image needs the path of a picture",
        b"/imgae x.png": "there is no command '/imgae'; did you mean '/image'?",
        str(png).encode(): "a picture is added by /image PATH",
        b"x " * 600: "the model's context is 512 tokens; /new starts a new conversation",
        b"red \xe5?": "the question is not valid UTF-8 text",
    }
    for typed, told in mistakes.items():
        code, out, err = piped(typed + b"\nred?\n", saved_model, "--max-new-tokens", 3)
        assert code == 2 and out == expected(saved_model, ([], "red?"), tokens=3)
        assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[0]]
        assert told in err, err


def test_bad_arguments_are_told_before_anything_else(piped: Piped, saved_model: Path, tmp_path: Path) -> None:
    assert piped("", saved_model, tmp_path / "none.png")[:2] == (2, "")
    code, out, err = piped("", tmp_path)
    assert (code, out) == (2, "") and "holds no model" in err and err.count("\n") == 1
    assert "temperature = -1.0" in piped("", saved_model, "--temperature", "-1")[2]


def test_help_in_the_chat(piped: Piped, saved_model: Path) -> None:
    code, out, err = piped("/help\n", saved_model)
    assert (code, out) == (0, "")
    assert all(word in err for word in ("/image PATH", "/new", "/help", "/quit"))


class Keyboard:
    """Stands for ``input`` and a terminal; what it is given is typed, an exception is a key."""

    def __init__(self, *typed: str | type[BaseException]) -> None:
        self._typed = iter(typed)

    def __call__(self, prompt: str = "") -> str:
        following = next(self._typed, EOFError)
        if isinstance(following, str):
            return following
        raise following


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs ``sightling chat`` at a make-believe terminal; returns what it showed."""

    def run(keyboard: Keyboard, *argv: object) -> str:
        monkeypatch.setattr(builtins, "input", keyboard)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLORTERM", "truecolor")
        monkeypatch.delenv("NO_COLOR", raising=False)
        with pytest.raises(SystemExit) as end:
            cli.main(["chat", *(str(part) for part in argv)])
        assert end.value.code == 0
        return capsys.readouterr().out

    return run


def test_a_terminal_shows_the_model_and_the_pictures(
    terminal: Callable[..., str], saved_model: Path, png: Path
) -> None:
    keys = Keyboard("red?", "/help", KeyboardInterrupt, "/image none.png", "/new")
    shown = terminal(keys, saved_model, png, "--max-new-tokens", 6)
    for word in ("sightling", "encoder", "siglip", "pixel_shuffle", "llama", "context 512 tokens", "48 x 40 pixels"):
        assert word in shown, word
    assert "▀" in shown and "38;2;200;10;10" in shown
    assert expected(saved_model, ([png], "red?")) in shown
    assert "Ctrl-D or /quit leaves" in shown
    assert "does not exist" in shown and "a new conversation" in shown
    assert "▀" not in terminal(Keyboard(), saved_model, png, "--no-preview")


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(
    terminal: Callable[..., str], saved_model: Path, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sightling.Session.ask
    asked: list[str] = []

    def ask(self: sightling.Session, text: str) -> Iterator[str]:
        pieces = original(self, text)
        asked.append(text)
        if len(asked) > 1:
            return pieces

        def stopped() -> Iterator[str]:
            yield next(pieces)
            pieces.close()
            raise KeyboardInterrupt

        return stopped()

    monkeypatch.setattr(sightling.Session, "ask", ask)
    shown = terminal(Keyboard("red?", "and now?"), saved_model, png, "--max-new-tokens", 6)
    assert asked == ["red?", "and now?"]
    assert "stopped" in shown


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_preview_fits_and_keeps_the_shape(width: int, height: int) -> None:
    across, down = fitted(width, height)
    assert 1 <= across <= COLUMNS and 1 <= down <= ROWS
    assert across == COLUMNS or abs(down - ROWS) <= 1 or width * ROWS * 2 == height * COLUMNS
    exact = width / height
    # Half a pixel of rounding each way.
    assert (across - 0.51) / (2 * down + 1.02) <= exact or across == 1
    assert exact <= (across + 0.51) / max(0.01, 2 * down - 1.02) or down == 1


def test_a_preview_has_the_colours_of_its_pixels() -> None:
    image = Image.new("RGB", (2, 2))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)])
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(half_blocks(image, columns=2, rows=1))
    assert isinstance(console.file, io.StringIO)
    assert "38;2;255;0;0;48;2;0;0;255m▀" in console.file.getvalue()
    assert "38;2;0;255;0;48;2;9;9;9m▀" in console.file.getvalue()


def test_a_models_words_do_not_drive_the_terminal() -> None:
    assert printable("a\x1b[31m\x07b\n\t圆\u202e") == "a\ufffd[31m\ufffdb\n\t圆\ufffd"


def test_parameters_for_people() -> None:
    assert [human(n) for n in (850, 45_400, 1_234_567, 7_000_000_000)] == ["850", "45 k", "1.23 M", "7.00 B"]


def test_completion(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    (tmp_path / "cats").mkdir()
    assert completions("/i") == ["/image "]
    assert completions("/image " + str(tmp_path / "ca")) == [
        f"/image {tmp_path / 'cat.png'}", f"/image {tmp_path / 'cats'}/"
    ]  # fmt: skip
    assert completions("what") == completions("/new x") == []
