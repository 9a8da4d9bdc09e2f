"""A few samples to look at: their pictures and turns, and what a model is given and learns from.

With a processor, every sample is shown as the model sees it: the pixels its encoder gets, and its tokens, those that
the loss counts set apart.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from PIL import Image

from sightling.data.formats.base import Record
from sightling.data.sample import Picture, Sample, Turn
from sightling.errors import UserError

IGNORED = -100
FEWEST_ALIKE = 4
"""From how many equal tokens in a row on they are shown as one, with their number."""

LONGEST_CHARACTER = 8
"""Tokens that one character may be spread over, before it is shown as it decodes."""


class EncodedSample(Protocol):
    """A sample as a processor encodes it."""

    @property
    def input_ids(self) -> Sequence[int]:
        """Token ids."""
        ...

    @property
    def labels(self) -> Sequence[int]:
        """The ids again where the loss counts them, -100 elsewhere."""
        ...


class Encodes(Protocol):
    """What showing needs of a processor."""

    tokenizer: Any

    def encode(self, sample: Sample) -> EncodedSample:
        """A sample as tokens and labels."""
        ...

    def pixels(self, picture: Picture) -> Any:
        """``uint8`` pixels_NCHW of a picture's encoder inputs."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens shown as one: the text they decode to, their ids, and whether they are supervised.

    ``repeats`` is how many times ``text`` stands in a row (a picture's placeholders).
    """

    text: str
    ids: tuple[int, ...]
    supervised: bool
    repeats: int = 1


def pick(records: Iterable[Record], count: int, seed: int = 0, among: int = 20_000) -> list[Record]:
    """``count`` records drawn at random from the first ``among``, in reading order (reservoir sampling)."""
    rng = random.Random(seed)
    drawn: list[Record] = []
    for number, record in enumerate(records):
        if number >= among:
            break
        if len(drawn) < count:
            drawn.append(record)
        else:
            place = rng.randrange(number + 1)
            if place < count:
                drawn[place] = record
    return sorted(drawn, key=lambda record: record.index)


def token_runs(encoded: EncodedSample, tokenizer: Any) -> list[Run]:
    """The tokens of an encoded sample in order, as few runs as show each token's text and whether it is supervised.

    A character whose bytes are spread over several tokens is one run.

    Raises:
        ValueError: ids and labels differ in number, or a label is neither -100 nor its id.
    """
    ids, labels = list(encoded.input_ids), list(encoded.labels)
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} input ids, but {len(labels)} labels")
    for place, (token, label) in enumerate(zip(ids, labels)):
        if label not in (IGNORED, token):
            raise ValueError(f"token {place} is {token}, but its label is {label}")
    runs: list[Run] = []
    start = 0
    while start < len(ids):
        supervised = labels[start] != IGNORED
        alike = start
        while alike < len(ids) and ids[alike] == ids[start] and (labels[alike] != IGNORED) == supervised:
            alike += 1
        if alike - start >= FEWEST_ALIKE:
            runs.append(
                Run(_decode(tokenizer, ids[start : start + 1]), tuple(ids[start:alike]), supervised, alike - start)
            )
            start = alike
            continue
        stop = start + 1
        while "\ufffd" in _decode(tokenizer, ids[start:stop]) and stop < min(len(ids), start + LONGEST_CHARACTER):
            if (labels[stop] != IGNORED) != supervised:
                break
            stop += 1
        if "\ufffd" in _decode(tokenizer, ids[start:stop]):
            stop = start + 1
        runs.append(Run(_decode(tokenizer, ids[start:stop]), tuple(ids[start:stop]), supervised))
        start = stop
    return runs


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encoder_pictures(processor: Encodes, picture: Picture) -> list[Image.Image]:
    """The encoder's inputs for a picture (several when it is tiled), as pictures."""
    import numpy as np

    return [Image.fromarray(np.asarray(tile).transpose(1, 2, 0).copy()) for tile in processor.pixels(picture)]


def page(records: Sequence[Record], title: str, processor: Encodes | None = None) -> str:
    """A self-contained HTML page of records: pictures are in it, nothing is fetched.

    Args:
        records: what to show; bad ones are shown with their problems.
        title: the heading, such as the data set's path.
        processor: adds what the model sees and which tokens are supervised.
    """
    import jinja2

    source = (resources.files("sightling.data") / "show.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    cards = [_card(record, processor) for record in records]
    return environment.from_string(source).render(title=title, cards=cards, encoded=processor is not None)


def _card(record: Record, processor: Encodes | None) -> dict[str, Any]:
    sample, problems = record.sample, list(record.problems)
    card: dict[str, Any] = {"where": record.where, "turns": [], "runs": [], "seen": [], "meta": {}}
    if sample is not None:
        card["turns"] = [{"role": turn.role, "parts": list(_parts(turn, problems))} for turn in sample.turns]
        card["meta"] = {key: shortened(value) for key, value in sample.meta.items()}
        if processor is not None:
            try:
                encoded = processor.encode(sample)
                for picture in sample.pictures():
                    card["seen"] += [_uri(tile) for tile in encoder_pictures(processor, picture)]
            except UserError as error:
                problems.append(str(error))
            else:
                card["runs"] = token_runs(encoded, processor.tokenizer)
                card["tokens"] = len(encoded.input_ids)
                card["supervised"] = sum(label != IGNORED for label in encoded.labels)
    # A picture that cannot be opened is met twice: when it is drawn and when it is encoded.
    return {**card, "problems": list(dict.fromkeys(problems))}


def _parts(turn: Turn, problems: list[str]) -> Iterator[dict[str, str]]:
    for part in turn.parts:
        if isinstance(part, str):
            yield {"text": part}
            continue
        try:
            image = part.load()
        except UserError as error:
            problems.append(str(error))
            continue
        crop = f", box {part.box}" if part.box is not None else ""
        yield {"picture": _uri(image), "name": part.name + crop, "size": f"{image.width} x {image.height}"}


def shortened(value: Any, most: int = 120) -> str:
    """A meta value on one line."""
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _uri(image: Image.Image, most: int = 512) -> str:
    """A picture as a ``data:`` URI, no side longer than ``most`` pixels."""
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
