"""Which of our chat templates a checkpoint's own amounts to: both write the same conversation, and are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop.base import Folder
from sightling.model.template import TEMPLATES

PROBE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
"""A conversation that every template can write."""


def template_of(
    folder: Folder, tokenizer: PreTrainedTokenizerFast, candidates: Sequence[str], proper: Sequence[str] = ()
) -> str:
    """The name of the template that writes a prompt about a picture as the checkpoint's own does.

    Args:
        folder: the checkpoint's.
        tokenizer: its tokenizer.
        candidates: the templates to choose from; the first, where the checkpoint has none of its own.
        proper: texts that the checkpoint's own may put before a conversation (a BOS, a system's words).

    Raises:
        UserError: none writes the same prompt; the message gives the checkpoint's own.
    """
    theirs = _own(folder, tokenizer)
    if theirs is None:
        return candidates[0]
    try:
        wanted = _written(tokenizer, theirs)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"the chat template in {folder} cannot be followed: {str(error).splitlines()[0]}") from None
    starts = ("", *proper)
    for name in (one for one in candidates if one in TEMPLATES):
        template = TEMPLATES.get(name)
        prompt = _written(tokenizer, template.jinja()).removeprefix(template.begin)
        if any(wanted.removeprefix(template.begin).removeprefix(start) == prompt for start in starts):
            return name
    raise UserError(
        f"the chat template in {folder} writes {wanted!r}, which none of the templates {', '.join(candidates)} does"
    )


def _own(folder: Folder, tokenizer: PreTrainedTokenizerFast) -> str | None:
    for name in ("chat_template.json", "processor_config.json"):
        found = (folder.json(name) or {}).get("chat_template")
        if isinstance(found, str):
            return found
    found = folder.text("chat_template.jinja") or tokenizer.chat_template
    return found if isinstance(found, str) else None


def _written(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    made: Any = tokenizer.apply_chat_template(
        PROBE, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return str(made)
