"""Which of our chat templates a checkpoint's own amounts to: both write the same conversation, and are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from sightling.errors import UserError
from sightling.interop.base import Folder
from sightling.model.templates import TEMPLATES, Template

PICTURE: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": "what is this?"}]
SHORT = [{"role": "user", "content": PICTURE}]
"""A conversation that every template can write."""

LONG = [
    *SHORT,
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
]


def template_of(
    folder: Folder, tokenizer: PreTrainedTokenizerFast, usual: Sequence[str], around: Sequence[str] = (),
    mark: str | None = None,
) -> str:
    """The name of the template that writes prompts as the checkpoint's own does.

    Of the ``usual`` ones the first that writes the same prompt about a picture is taken: what stands between turns
    is then as the model was trained, whatever the checkpoint's own says of it. Of the others, one that writes the
    same conversation of several turns. A checkpoint that has none of its own takes the first of the usual.
    ``around`` are control tokens that the checkpoint's processor, not its template, puts around a picture. A
    checkpoint whose template takes text alone has a ``mark`` for the first picture, on a line of its own.

    Raises:
        UserError: none writes the same; the message gives the checkpoint's own.
    """
    theirs = _own(folder, tokenizer)
    if theirs is None:
        return usual[0]
    try:
        wanted = _written(tokenizer, theirs, _lines(SHORT, mark))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"the chat template in {folder} cannot be followed: {str(error).splitlines()[0]}") from None
    for name in usual:
        if _same(tokenizer, name, wanted, SHORT, around, mark):
            return name
    known = tokenizer.get_vocab()
    for name in TEMPLATES:
        form = TEMPLATES.get(name)
        if all(token in known for token in form.control) and _same(
            tokenizer, name, wanted, SHORT, around, mark
        ):
            try:
                whole = _written(tokenizer, theirs, _lines(LONG, mark))
            except (TemplateError, TypeError, ValueError, KeyError):
                continue
            if _same(tokenizer, name, whole, LONG, around, mark):
                return name
    raise UserError(
        f"the chat template in {folder} writes {wanted!r}, which no template here does; {', '.join(usual)} were tried "
        "first"
    )


def _own(folder: Folder, tokenizer: PreTrainedTokenizerFast) -> str | None:
    for name in ("chat_template.json", "processor_config.json"):
        found = (folder.json(name) or {}).get("chat_template")
        if isinstance(found, str):
            return found
    found = folder.text("chat_template.jinja") or tokenizer.chat_template
    return found if isinstance(found, str) else None


def _same(
    tokenizer: PreTrainedTokenizerFast, name: str, wanted: str, conversation: Any, around: Sequence[str],
    mark: str | None,
) -> bool:
    """Whether a template writes that; a beginning that the tokenizer may put there itself is not compared."""
    form = TEMPLATES.get(name)
    try:
        ours = _written(tokenizer, unmarked(form, around).jinja(), conversation)
    except (TemplateError, TypeError, ValueError, KeyError):
        return False
    if mark is not None:
        ours = ours.replace(form.image, mark)
    return ours.removeprefix(form.begin) == wanted.removeprefix(form.begin)


def unmarked(form: Template, around: Sequence[str]) -> Template:
    """A template without what a checkpoint's processor, not its own template, puts around a picture."""
    before, uncut, after = form.before_image, form.uncut, form.after_image
    for token in around:
        before, uncut, after = (one.replace(token, "") for one in (before, uncut, after))
    return replace(form, before_image=before, uncut=uncut, after_image=after, apart="" if around else form.apart)


def _lines(conversation: Sequence[dict[str, Any]], mark: str | None) -> Any:
    """A conversation whose contents are text, where a picture has a mark; otherwise as it is."""
    if mark is None:
        return conversation
    contents = [
        "\n".join(mark if part["type"] == "image" else part["text"] for part in message["content"])
        for message in conversation
    ]
    return [{**message, "content": content} for message, content in zip(conversation, contents, strict=True)]


def _written(tokenizer: PreTrainedTokenizerFast, template: str, conversation: Any) -> str:
    made: Any = tokenizer.apply_chat_template(
        conversation, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return str(made)
