"""A conversation about pictures: turns, and what need not be computed again for the next one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from sightling.data.sample import Picture, Sample, Turn
from sightling.decode.decoder import decoder_for
from sightling.decode.generate import Trace, generate
from sightling.decode.memory import Memory
from sightling.decode.sampling import Sampling
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor


class Session:
    """Several turns with one model.

    Pictures that were added stand before the words of the next question. Visual tokens are remembered by the
    pictures' content, and the conversation so far stays in the key-value cache.

    Args:
        model: the model.
        processor: its processor.
        system: a system turn to begin with, if any.
        single: ask each question about all pictures so far, without what was said before; for a model that learnt
            single questions only.
        decoder: one of :data:`~sightling.decode.decoder.WAYS`.
        **sampling: the values of :class:`~sightling.decode.sampling.Sampling` for every answer.

    Raises:
        UserError: a sampling value is unknown or out of its range, or a decoder that cannot decode this model.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: VisionLanguageProcessor,
        *,
        system: str | None = None,
        single: bool = False,
        decoder: str = "auto",
        **sampling: Any,
    ) -> None:
        self.model = model
        self.processor = processor
        self.sampling = Sampling.of(sampling)
        self.single = single
        self.decoder = decoder
        decoder_for(model, decoder)
        self.trace = Trace()
        self._system = (Turn("system", (system,)),) if system else ()
        self._turns: list[Turn] = []
        self._waiting: list[Picture] = []
        self._memory = Memory()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation so far; with ``single`` its latest question and answer."""
        return (*self._system, *self._turns)

    @property
    def waiting(self) -> tuple[Picture, ...]:
        """Pictures that the next question will bring."""
        return tuple(self._waiting)

    def add(self, picture: Picture) -> Picture:
        """Add a picture to the next question; returned decoded, so that a file that changes later changes nothing.

        Raises:
            UserError: it is missing, corrupt or too large; the conversation is as before.
        """
        opened = Picture(image=picture.load(), tiles=picture.tiles, notes=picture.notes)
        self._waiting.append(opened)
        return opened

    def reset(self) -> None:
        """Start a new conversation: turns and pictures are gone; what was seen need not be encoded again."""
        self._turns.clear()
        self._waiting.clear()
        self._memory.forget()

    def ask(self, text: str) -> Generator[str, None, None]:
        """The answer in pieces of text. When it ends, or is left halfway, question and answer join the conversation.

        An answer that is left before its first word leaves the conversation as it was. ``trace`` tells about the
        latest answer.

        Raises:
            UserError: at once, with the conversation as it was: no text, text that is no Unicode, or a
                conversation that fills the model's context (both numbers are told).
        """
        text = checked(text)
        before = self._turns[0].parts if self.single and self._turns else ()
        asked = Turn("user", (*(part for part in before if isinstance(part, Picture)), *self._waiting, text))
        trace = Trace()
        pieces = generate(
            self.model,
            self.processor,
            Sample((*(self._system if self.single else self.turns), asked)),
            memory=self._memory,
            trace=trace,
            decoder=self.decoder,
            **self.sampling.options(),
        )
        self.trace = trace
        return self._recorded(asked, pieces, trace)

    def _recorded(self, asked: Turn, pieces: Generator[str, None, None], trace: Trace) -> Generator[str, None, None]:
        said: list[str] = []
        try:
            with closing(pieces):
                for piece in pieces:
                    said.append(piece)
                    yield piece
        finally:
            if said or trace.finish:
                earlier = [] if self.single else self._turns
                self._turns = [*earlier, asked, Turn("assistant", ("".join(said),))]
                self._waiting.clear()


def checked(text: str) -> str:
    """A question that can be asked.

    Raises:
        UserError: it is empty, or holds bytes that are no Unicode text.
    """
    if not text.strip():
        raise UserError("the question is empty; ask something")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the question is not valid UTF-8 text (at character {error.start + 1})") from None
    return text
