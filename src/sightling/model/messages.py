"""Chat messages as transformers and OpenAI write them, turned into samples.

A sample keeps text and pictures apart, so nothing that stands in a message's text can become a control token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.image_utils import load_image

from sightling.data.sample import Notes, Part, Picture, Sample, Turn
from sightling.errors import UserError, nearest

ROLES = ("system", "user", "assistant")
PICTURE_KEYS = ("image", "url", "path", "base64", "image_url")


def sample_of(messages: Sequence[Mapping[str, Any]]) -> Sample:
    """One conversation: ``[{"role": ..., "content": text or parts}, ...]``.

    A part is a string, ``{"type": "text", "text": ...}`` or ``{"type": "image", ...}`` with the picture under
    ``image``, ``url``, ``path`` or ``base64``, or OpenAI's ``{"type": "image_url", "image_url": {"url": ...}}``.
    ``notes`` beside the picture, ``{"caption": ..., "tags": ..., "boxes": ...}``, is what other models say of it.

    Raises:
        UserError: a message of another form, with its number.
    """
    return Sample(tuple(_turn(message, f"message {number}") for number, message in enumerate(messages)))


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping) or "role" not in message:
        raise UserError(f"{where} must be a mapping with role and content, not {message!r:.80}")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; {nearest(str(role), ROLES)}")
    if content is None:
        content = ""
    parts = [content] if isinstance(content, (str, Mapping)) else list(content)
    return Turn(role, tuple(_part(part, f"{where}, part {number}") for number, part in enumerate(parts)))


def _part(part: Any, where: str) -> Part:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("image", "image_url"):
        given = next((part[key] for key in PICTURE_KEYS if part.get(key) is not None), None)
        if kind == "image_url" and isinstance(given, Mapping):
            given = given.get("url")
        shown = _picture(given, where)
        return shown if part.get("notes") is None else replace(shown, notes=_notes(part["notes"], where))
    raise UserError(f"{where} must be a text or an image, not {part!r:.80}")


def _notes(told: Any, where: str) -> Notes:
    keys = [field.name for field in fields(Notes)]
    if not isinstance(told, Mapping) or not all(isinstance(value, str) for value in told.values()):
        raise UserError(f"{where} has notes that are no mapping of {', '.join(keys)} to text")
    for key in told:
        if key not in keys:
            raise UserError(f"{where}.notes has no key {key!r}; {nearest(str(key), keys)}")
    return Notes(**told)


def _picture(given: Any, where: str) -> Picture:
    if isinstance(given, Picture):
        return given
    if isinstance(given, Image.Image):
        return Picture(image=given)
    if isinstance(given, bytes):
        return Picture(data=given)
    if isinstance(given, Path):
        return Picture(path=given)
    if not isinstance(given, str):
        raise UserError(f"{where} is an image without a picture; give it as image, url, path or base64")
    if given.startswith(("http://", "https://")):
        return Picture(image=load_image(given))
    if given.startswith("data:"):
        given = given.partition(",")[2]
    elif Path(given.removeprefix("file://")).suffix or len(given) < 256:
        # Shorter than any picture's base64: a path, even one without a suffix.
        return Picture(path=Path(given.removeprefix("file://")))
    try:
        return Picture(data=base64.b64decode(given, validate=True))
    except binascii.Error:
        raise UserError(f"{where} is neither a path, a URL nor base64: {given[:40]!r}...") from None
