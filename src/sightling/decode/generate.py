"""One answer, streamed: text comes as soon as it is certain.

Legend: ``B`` = 1 row, ``T`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sightling.data.sample import Sample
from sightling.decode.decoder import Decoder, decoder_for
from sightling.decode.memory import Mark, Memory, marks_of, pictures_behind
from sightling.decode.prompt import at_rest, encode_prompt, forbidden_ids, room, stop_ids
from sightling.decode.sampling import Chooser, Sampling
from sightling.decode.stream import TextStream
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import Encoded, VisionLanguageProcessor
from sightling.model.spatial import Position


@dataclass
class Trace:
    """What happened while an answer was generated; filled in as it is.

    Attributes:
        prompt_tokens: the prompt's length, visual tokens included.
        visual_tokens: how many of them stand for pictures.
        reused_tokens: how many of them a memory held already.
        ids: the answer's token ids, the stop token not among them.
        decoder: which way it was decoded, one of :data:`~sightling.decode.decoder.WAYS`.
        reason: why by transformers' layers; empty where it was not.
        finish: why it ended: "stop" (the model ended it), "length" (``max_new_tokens``), "context" (the model's
            context is full) or "" (it did not: it was left).
    """

    prompt_tokens: int = 0
    visual_tokens: int = 0
    reused_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    decoder: str = ""
    reason: str = ""
    finish: str = ""


def generate(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    sample: Sample,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    min_p: float = 0.0,
    decoder: str = "auto",
    memory: Memory | None = None,
    trace: Trace | None = None,
) -> Generator[str, None, None]:
    """The answer to a sample's last user turn, in pieces of text; a closing assistant turn is ignored.

    The sampling values are those of :class:`~sightling.decode.sampling.Sampling`. With a ``memory``, pictures
    and prompts that it knows are not computed again. ``decoder`` is one of :data:`~sightling.decode.decoder.WAYS`.
    ``trace`` is filled in on the way.

    Raises:
        UserError: at once, before the first piece is asked for: a value out of its range, a picture that cannot
            be read, a prompt that fills the model's context, a decoder that cannot decode this model.
    """
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p)
    chosen = decoder_for(model, decoder)
    prompt = encode_prompt(processor, sample)
    budget = room(model, processor, prompt, max_new_tokens)
    trace = trace if trace is not None else Trace()
    memory = memory if memory is not None else Memory()
    keys = [picture.key() for picture in prompt.pictures]
    with at_rest(model):
        features = memory.visual_tokens(model, processor, prompt, keys)
    trace.decoder, trace.reason = chosen.way, getattr(chosen, "reason", "")
    trace.prompt_tokens = len(prompt.input_ids)
    trace.visual_tokens = sum(token == model.config.image_token_id for token in prompt.input_ids)
    chooser = Chooser(sampling, prompt.input_ids, forbidden_ids(model), model.device)
    marks = marks_of(processor, prompt, keys)
    tokens = _tokens(chosen, model, processor, prompt, marks, features, chooser, budget, memory, trace)
    return _texts(processor, tokens)


def _texts(processor: VisionLanguageProcessor, tokens: Generator[int, None, None]) -> Generator[str, None, None]:
    stream = TextStream(processor.tokenizer)
    with closing(tokens):
        for token in tokens:
            piece = stream.push(token)
            if piece:
                yield piece
    last = stream.end()
    if last:
        yield last


def _tokens(
    decoder: Decoder,
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    prompt: Encoded,
    marks: list[Mark],
    features: list[Tensor],
    chooser: Chooser,
    budget: int,
    memory: Memory,
    trace: Trace,
) -> Generator[int, None, None]:
    """The answer's ids; inference mode is entered for each step alone, since a generator's caller runs between."""
    stops = stop_ids(model, processor)
    row, held = memory.take(decoder, marks)
    trace.reused_tokens = held
    fresh = features[len(features) - pictures_behind(processor, prompt, held) :]
    whole = False
    try:
        with at_rest(model):
            token = _next(decoder, row, prompt.input_ids[held:], prompt.positions[held:], fresh, chooser)
            whole = True
            while token not in stops:
                trace.ids.append(token)
                yield token
                if len(trace.ids) == budget:
                    trace.finish = "length" if budget == chooser.sampling.max_new_tokens else "context"
                    return
                whole = False
                following = _next(decoder, row, (token,), None, [], chooser)
                marks.append(token)
                token, whole = following, True
            trace.finish = "stop"
    finally:
        # What was interrupted within a step is not whole: some layers hold its token, others do not.
        if whole:
            memory.keep(decoder, row, marks)


@torch.inference_mode()
def _next(
    decoder: Decoder,
    row: Any,
    tokens: tuple[int, ...],
    positions: Sequence[Position] | None,
    features: list[Tensor],
    chooser: Chooser,
) -> int:
    """Feed tokens behind what is held and choose the one that follows."""
    hidden_BD = decoder.feed(row, [tokens], features, [positions])
    return chooser.choose(decoder.logits(hidden_BD)[0])
