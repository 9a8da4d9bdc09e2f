"""A conversation in the terminal, or through a pipe.

At a terminal: a banner, previews of the pictures, line editing, Ctrl-C stops an answer. Through a pipe: each line
of input is a turn, each answer is printed alone, and whatever else is to be said goes to standard error.
"""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightling.decode.prompt import ContextFull, context_limit
from sightling.decode.session import Session
from sightling.errors import UserError, nearest
from sightling.serve.opening import Opened, open_path
from sightling.serve.preview import half_blocks
from sightling.sight.video import FrameSampling

HELP = {
    "/image PATH": "add a picture or a video to the next question",
    "/new": "start a new conversation, without pictures",
    "/help": "show this",
    "/quit": "leave, as Ctrl-D does; Ctrl-C stops an answer",
}


class Quit(Exception):
    """The user is done."""


class Terminal:
    """Reads turns, prints answers.

    Args:
        session: the conversation.
        name: what the banner calls the model.
        preview: show pictures where the terminal has the colours for it.
        frames: which frames of a video are shown; by default eight, uniformly.
    """

    def __init__(
        self, session: Session, name: str, *, preview: bool = True, frames: FrameSampling | None = None
    ) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Bytes that are no text become a sentence about them, words that the terminal lacks a mark.
                stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")
        self._session = session
        self._name = name
        self._frames = frames
        self._talks = sys.stdin.isatty() and sys.stdout.isatty()
        self._console = Console(highlight=False) if self._talks else Console(highlight=False, stderr=True)
        self._shows = preview and self._talks and self._console.color_system in ("truecolor", "256")
        self._shows = self._shows and self._console.encoding.startswith("utf")
        self._failed = False
        self._told_blind = False

    def run(self, pictures: Sequence[Opened] = ()) -> int:
        """Talk until the input ends; 0, or 2 when something that came through a pipe was bad."""
        if self._talks:
            self._console.print(banner(self._session, self._name))
        for opened in pictures:
            self._add(opened)
        lines = self._typed() if self._talks else (line.lstrip("\ufeff") for line in sys.stdin)
        try:
            for line in lines:
                self._turn(line.strip())
        except Quit:
            pass
        return 2 if self._failed and not self._talks else 0

    def _turn(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)
        except ContextFull as error:
            self._fail(f"{error}; /new starts a new conversation")
        except UserError as error:
            self._fail(str(error))

    def _typed(self) -> Iterator[str]:
        """Lines from the keyboard, with editing and completion where Python has readline."""
        editing = _editing()
        mark = "› " if self._console.encoding.startswith("utf") else "> "
        if editing is not None and self._console.color_system is not None:
            # The two control characters tell readline that what is between them takes no room.
            mark = f"\001\033[1;36m\002{mark}\001\033[0m\002"
        while True:
            try:
                yield input(mark)
            except KeyboardInterrupt:
                self._console.print()
                self._note("Ctrl-D or /quit leaves")
            except EOFError:
                self._console.print()
                return

    # ---- what a line can ask for

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/image": self._image, "/new": self._new, "/help": self._help, "/quit": self._quit
        }  # fmt: skip
        if name not in commands:
            hint = "a picture is added by /image PATH" if os.path.isfile(_unquoted(line)) else nearest(name, commands)
            raise UserError(f"there is no command {name!r}; {hint}")
        commands[name](rest.strip())

    def _image(self, path: str) -> None:
        if not path:
            raise UserError("/image needs the path of a picture, as in /image cat.png")
        self._add(open_path(Path(_unquoted(path)).expanduser(), self._frames))

    def _new(self, rest: str) -> None:
        self._session.reset()
        self._told_blind = False
        if self._talks:
            self._note("a new conversation")

    def _help(self, rest: str) -> None:
        table = Table.grid(padding=(0, 2))
        for command, meaning in HELP.items():
            table.add_row(Text(command, "bold"), Text(meaning))
        self._console.print(table)

    def _quit(self, rest: str) -> None:
        raise Quit

    def _add(self, opened: Opened) -> None:
        added = [self._session.add(picture) for picture in opened.pictures]
        if not self._talks:
            return
        width, height = added[0].size()
        processor = self._session.processor
        tokens = sum(processor.visual(picture).count(processor.image_token_id) for picture in added)
        if self._shows:
            self._console.print(half_blocks(added[len(added) // 2].load()))
        frames = ""
        if opened.video is not None:
            frames = f"{len(added)} of {opened.video.frames:,} frames of {opened.video.duration:.1f} s, "
        self._note(f"{opened.name}, {frames}{width} x {height} pixels, {tokens:,} visual tokens")

    def _answer(self, text: str) -> None:
        stopped = False
        pieces = self._session.ask(text)
        self._tell_blind()
        with closing(pieces):
            try:
                for piece in pieces:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
            except KeyboardInterrupt:
                if not self._talks:
                    raise
                stopped = True
        print(flush=True)
        trace = self._session.trace
        if stopped:
            self._note("stopped")
        elif trace.finish == "length":
            self._note(f"cut at {len(trace.ids):,} tokens; --max-new-tokens allows more")
        elif trace.finish == "context":
            self._note(f"the model's context of {context_limit(self._session.model):,} tokens is full; /new empties it")
        elif self._talks and not trace.ids:
            self._note("no words")

    # ---- what is said beside the answers

    def _tell_blind(self) -> None:
        """Once in a conversation, that a question brings no picture; an answer alone does not show it."""
        shown = self._session.waiting or any(turn.pictures for turn in self._session.turns)
        if not shown and not self._told_blind:
            self._told_blind = True
            self._note("no picture is in this conversation, so this answer is without one; /image PATH adds one")

    def _note(self, text: str) -> None:
        self._console.print(Text(text, "dim"), soft_wrap=True)

    def _fail(self, text: str) -> None:
        self._failed = True
        self._console.print(Text(f"error: {printable(text)}", "red"), soft_wrap=True)


def banner(session: Session, name: str) -> Table:
    """The model's name, its parts with their parameters, and how to begin."""
    model, processor = session.model, session.processor
    config, size = model.config, processor.image_processor.image_size
    tower = config.vision_config.model_type.removesuffix("_vision_model")
    kinds = {
        "encoder": f"{tower}, {size} px, patches of {processor.image_processor.patch_size}",
        "connector": str(config.connector["type"]),
        "language_model": f"{config.text_config.model_type}, {_layers(config.text_config)}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("sightling", "bold cyan"), Text(name, "bold", overflow="fold"), "")
    for part, module in model.parts().items():
        count = sum(parameter.numel() for parameter in module.parameters())
        table.add_row(Text(part.replace("_", " ")), Text(kinds[part]), Text(human(count), justify="right"))
    limit = context_limit(model)
    room = f", context {limit:,} tokens" if limit else ""
    whole = sum(parameter.numel() for parameter in model.parameters())
    table.add_row(
        "", Text(f"{model.device}, {str(model.dtype).removeprefix('torch.')}{room}"), Text(human(whole), "bold")
    )
    table.add_row("", Text("/image PATH adds a picture, /help says more", "dim"), "")
    return table


def _layers(config: object) -> str:
    return f"{getattr(config, 'num_hidden_layers', '?')} layers of {getattr(config, 'hidden_size', '?')}"


def human(count: int) -> str:
    """A number of parameters for a person: 850, 45 k, 1.23 M, 7.00 B."""
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.2f} {letter}"
    return f"{count / 1000:.0f} k" if count >= 1000 else str(count)


def printable(text: str) -> str:
    """Text without control characters but for line ends and tabs: a model's words shall not drive the terminal."""
    return "".join(char if char in "\n\t" or not _controls(char) else "\ufffd" for char in text)


def _controls(char: str) -> bool:
    code = ord(char)
    # Of the C0 and C1 sets, and what turns the direction of writing around.
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def _unquoted(path: str) -> str:
    """A path as typed or dragged into the terminal: in quotes, or with its spaces escaped."""
    path = path.strip()
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        return path[1:-1]
    return path if os.sep == "\\" or os.path.exists(path) else path.replace("\\ ", " ")


def _editing() -> ModuleType | None:
    """readline, set up to complete commands and paths; None where Python has none."""
    try:
        import readline
    except ImportError:
        return None
    readline.set_completer_delims("")
    readline.set_completer(lambda text, state: dict(enumerate(completions(text))).get(state))
    # macOS often has libedit behind the same name.
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    return readline


def completions(line: str) -> list[str]:
    """What the typed beginning of a command or of a picture's path can become."""
    command, space, path = line.partition(" ")
    if not line.startswith("/"):
        return []
    if not space:
        return [known.split()[0] + (" " if " " in known else "") for known in HELP if known.startswith(line)]
    if command != "/image":
        return []
    found = sorted(glob.glob(glob.escape(os.path.expanduser(path)) + "*"))
    return [f"{command} {name}{os.sep if os.path.isdir(name) else ''}" for name in found]
