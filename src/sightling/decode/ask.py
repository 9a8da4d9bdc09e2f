"""The shortest way from a picture and a question to an answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sightling.data.sample import Picture, question
from sightling.decode.generate import generate
from sightling.decode.sampling import Sampling
from sightling.decode.session import checked
from sightling.errors import UserError
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor

PictureLike = Picture | Image.Image | str | os.PathLike[str] | bytes
"""A picture: a :class:`~sightling.data.sample.Picture`, a PIL image, a path, or an encoded file's bytes."""


def as_picture(given: PictureLike) -> Picture:
    """A ``Picture`` of whatever a picture may be given as.

    Raises:
        UserError: it is of another type.
    """
    if isinstance(given, Picture):
        return given
    if isinstance(given, Image.Image):
        return Picture(image=given)
    if isinstance(given, bytes):
        return Picture(data=given)
    if isinstance(given, (str, os.PathLike)):
        return Picture(path=Path(given))
    raise UserError(f"a picture is a path, a PIL image, bytes or a Picture, not {type(given).__name__!r}")


def ask(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    pictures: PictureLike | Sequence[PictureLike] | None,
    text: str,
    *,
    decoder: str = "auto",
    **sampling: Any,
) -> str:
    """The model's answer to a question about a picture, or about several, or about none.

    ``sampling`` are the values of :class:`~sightling.decode.sampling.Sampling`; greedy when nothing is said.
    ``decoder`` is one of :data:`~sightling.decode.decoder.WAYS`.

    Example: ``sightling.ask(model, processor, "cat.png", "what colour is it?", max_new_tokens=20)``.

    Raises:
        UserError: a picture cannot be read, a sampling value is wrong, no question, too long a prompt, or a
            decoder that cannot decode this model.
    """
    chosen = Sampling.of(sampling)
    several = pictures is not None and isinstance(pictures, Sequence) and not isinstance(pictures, (str, bytes))
    listed: Sequence[Any] = () if pictures is None else pictures if several else (pictures,)  # type: ignore[assignment]
    sample = question(checked(text), *(as_picture(given) for given in listed))
    return "".join(generate(model, processor, sample, decoder=decoder, **chosen.options()))
