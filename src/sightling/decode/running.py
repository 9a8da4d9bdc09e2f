"""Answers decoded side by side that begin and end on their own: what a server needs.

Between two tokens a new question may join and a running answer may be left. A prompt is run alone when it joins, and
its keys and values move in beside those of the others; each step then gives every answer one token. An answer is what
:func:`~sightling.decode.generate.generate` gives it alone, whoever else is there.

Source of the method: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models".

Legend: ``B`` rows, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightling.data.sample import Sample
from sightling.decode.decoder import decoder_for
from sightling.decode.generate import Trace
from sightling.decode.memory import Memory
from sightling.decode.prompt import at_rest, encode_prompt, forbidden_ids, room, stop_ids
from sightling.decode.rows import Rows
from sightling.decode.sampling import Chooser, Sampling
from sightling.decode.stream import TextStream
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor


@dataclass(frozen=True, slots=True)
class Said:
    """What a step gave one answer.

    Attributes:
        ticket: whose it is, as :meth:`Running.join` named it.
        text: further text that is certain; often empty.
        trace: what has happened so far; ``finish`` says why the answer ended, if it did.
    """

    ticket: int
    text: str
    trace: Trace


class _Answer:
    """One running answer."""

    def __init__(self, ticket: int, chooser: Chooser, stream: TextStream, budget: int, trace: Trace) -> None:
        self.ticket, self.chooser, self.stream, self.budget, self.trace = ticket, chooser, stream, budget, trace
        self.token = -1

    def take(self, logits_V: Tensor, stops: frozenset[int]) -> Said:
        """Choose the next token; text that is certain with it."""
        self.token = self.chooser.choose(logits_V)
        if self.token in stops:
            self.trace.finish = "stop"
            return Said(self.ticket, self.stream.end(), self.trace)
        self.trace.ids.append(self.token)
        text = self.stream.push(self.token)
        if len(self.trace.ids) == self.budget:
            self.trace.finish = "length" if self.budget == self.chooser.sampling.max_new_tokens else "context"
            text += self.stream.end()
        return Said(self.ticket, text, self.trace)


class Running:
    """A batch that answers join and leave.

    Args:
        model: the model.
        processor: its processor.
        rows: how many answers may run at once.
        decoder: one of :data:`~sightling.decode.decoder.WAYS`; by transformers' layers each answer runs alone.
        pictures: how many pictures are remembered.

    Raises:
        UserError: a decoder that cannot decode this model, or fewer than one row.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: VisionLanguageProcessor,
        *,
        rows: int = 32,
        decoder: str = "auto",
        pictures: int = 32,
    ) -> None:
        if rows < 1:
            raise UserError(f"rows = {rows} is too few; at least 1 is needed")
        self._model, self._processor, self._rows = model, processor, rows
        self._decoder = decoder_for(model, decoder)
        self._memory = Memory(pictures)
        self._stops = stop_ids(model, processor)
        self._next = 0
        self._said: list[Said] = []
        # Rows that are held together, with their answers in the order of the rows.
        self._groups: list[tuple[Any, list[_Answer]]] = []

    def __len__(self) -> int:
        """How many answers are running."""
        return sum(len(answers) for _, answers in self._groups)

    @property
    def way(self) -> str:
        """How they are decoded, one of :data:`~sightling.decode.decoder.WAYS`."""
        return self._decoder.way

    def join(self, sample: Sample, **sampling: Any) -> int:
        """Run a question's prompt and choose its answer's first token, which the next :meth:`step` tells; its ticket.

        ``sampling`` are the values of :class:`~sightling.decode.sampling.Sampling`.

        Raises:
            UserError: every row is taken, a value out of its range, a picture that cannot be read, a prompt that fills
                the model's context; those that are running go on.
        """
        if len(self) >= self._rows:
            raise UserError(f"all {self._rows} rows are taken; wait until an answer ends")
        chosen = Sampling.of(sampling)
        prompt = encode_prompt(self._processor, sample)
        budget = room(self._model, self._processor, prompt, chosen.max_new_tokens)
        keys = [picture.key() for picture in prompt.pictures]
        chooser = Chooser(chosen, prompt.input_ids, forbidden_ids(self._model), self._model.device)
        trace = Trace(
            prompt_tokens=len(prompt.input_ids),
            visual_tokens=sum(token == self._model.config.image_token_id for token in prompt.input_ids),
            decoder=self._decoder.way,
            reason=getattr(self._decoder, "reason", ""),
        )
        answer = _Answer(self._next, chooser, TextStream(self._processor.tokenizer), budget, trace)
        with torch.inference_mode(), at_rest(self._model):
            features = self._memory.visual_tokens(self._model, self._processor, prompt, keys)
            held = self._decoder.start(1)
            hidden_BD = self._decoder.feed(held, [prompt.input_ids], features, [prompt.positions])
            self._said.append(answer.take(self._decoder.logits(hidden_BD)[0], self._stops))
            self._next += 1
            if not trace.finish:
                self._take_in(held, answer)
        return answer.ticket

    def leave(self, ticket: int) -> None:
        """End an answer before its end; one that has ended, or was never there, is nothing to end."""
        self._said = [said for said in self._said if said.ticket != ticket]
        with torch.inference_mode():
            for held, answers in self._groups:
                self._drop(held, answers, [place for place, one in enumerate(answers) if one.ticket == ticket])
        self._groups = [group for group in self._groups if group[1]]

    def step(self) -> list[Said]:
        """One further token of every answer; before them the first ones of those that joined since the last step."""
        said, self._said = self._said, []
        with torch.inference_mode(), at_rest(self._model):
            for held, answers in self._groups:
                logits_BV = self._decoder.logits(self._decoder.feed(held, [[one.token] for one in answers]))
                said += [one.take(logits_V, self._stops) for one, logits_V in zip(answers, logits_BV)]
                self._drop(held, answers, [place for place, one in enumerate(answers) if one.trace.finish])
        self._groups = [group for group in self._groups if group[1]]
        return said

    def _take_in(self, held: Any, answer: _Answer) -> None:
        if isinstance(held, Rows) and self._groups:
            rows, answers = self._groups[0]
            rows.join(held)
            answers.append(answer)
        else:
            self._groups.append((held, [answer]))

    @staticmethod
    def _drop(held: Any, answers: list[_Answer], places: list[int]) -> None:
        if not places:
            return
        if len(places) == len(answers):
            answers.clear()
            return
        answers[:] = [answers[former] for former in held.drop(places)]
