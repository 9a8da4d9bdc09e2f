"""A template in Jinja, for transformers and serving engines: the same strings as its script, pictures unexpanded."""

from __future__ import annotations

from sightling.model.templates.base import PICTURE_KINDS, Template


def quoted(text: str) -> str:
    """A string as Jinja writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def say(text: str) -> str:
    """A tag that writes a fixed string."""
    return "{{- " + quoted(text) + " -}}"


def when(condition: str, body: str, otherwise: str = "") -> str:
    """``body`` under a condition."""
    other = "{%- else -%}" + otherwise if otherwise else ""
    return "{%- if " + condition + " -%}" + body + other + "{%- endif -%}"


def jinja(form: Template) -> str:
    """The template's Jinja form; contents are a string or a list of parts, see :meth:`Template.jinja`."""
    state = "{%- set state = namespace(number=" + str(form.first_number) + ", begun=false, held='', seen=false) -%}"
    simple = not _writes_turns_apart(form)
    text = ("" if simple else state) + (_plain_body(form) if simple else _body(form))
    if form.begin and not form.begin_behind:
        text += say(form.begin)
    text += _default_system(form)
    text += "{%- for message in messages -%}"
    for index, role in enumerate(form.opens):
        text += "{%- " + ("if" if index == 0 else "elif") + f" message['role'] == '{role}' -%}}" + _turn(form, role)
    return (
        text + "{%- else -%}"
        "{{- raise_exception('there is no role ' + message['role']) -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}" + say(form.open("assistant", last=True)) + "{%- endif -%}"
    )


def _writes_turns_apart(form: Template) -> bool:
    """Whether a turn depends on more than its own parts, one by one."""
    return bool(
        form.leads or form.asks or form.after_words or form.after_picture or form.apart or form.picture_first
        or form.merged or form.wordless or form.begin_behind or form.system_inside or form.system_unseen
        or "{n}" in form.before_image
    )  # fmt: skip


def _plain_body(form: Template) -> str:
    picture = quoted(form.before_image + form.uncut + form.image + form.after_image)
    return (
        "{%- macro body(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}"
        "{%- for part in content -%}{%- if part is string -%}{{- part -}}"
        "{%- elif part['type'] in ['image', 'image_url'] -%}{{- " + picture + " -}}"
        "{%- else -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    )


def _body(form: Template) -> str:
    """A macro that writes one turn's parts; ``here.before`` is what stood before a part in it."""
    shown = "(part is not string and part['type'] in " + repr(list(PICTURE_KINDS)) + ")"
    before, number, after = form.before_image.partition("{n}")
    opening = say(before) + ("{{- state.number -}}" + say(after) if number else "")
    begin = when("not state.begun", say(form.begin) + "{%- set state.begun = true -%}") if form.begin_behind else ""
    if form.merged:
        opening = when("here.before != 'picture'", opening)
    picture = (
        when("here.before == 'words' and not here.text.endswith(" + quoted(form.after_words) + ")",
             say(form.after_words), when("here.before == 'picture'", say(form.after_picture)))
        + opening + say(form.uncut + form.image + form.after_image)
        + "{%- set state.number = state.number + 1 -%}{%- set here.before = 'picture' -%}"
    )  # fmt: skip
    joint = when("here.before == 'picture' and not here.text.startswith(" + quoted(form.after_picture) + ")",
                 say(form.after_picture))  # fmt: skip
    if form.apart:
        stands = "here.before == 'picture' and here.text[0] != '<' and not here.text[0].isspace()"
        joint += when(stands, say(form.apart))
    words = (
        "{%- set here.text = part if part is string else part['text'] -%}"
        + when("here.text", begin + joint
               + when("asks and not here.asked", "{{- asks -}}{%- set here.asked = true -%}")
               + "{{- here.text -}}{%- set here.before = 'words' -%}")
    )  # fmt: skip
    lone = ""
    condition = "true"
    if form.picture_first:
        lone = (
            "{%- for part in parts -%}" + when(shown, "{%- set here.pictures = here.pictures + 1 -%}")
            + "{%- endfor -%}"
        )  # fmt: skip
        condition = "here.pictures != 1"
    order = "[true]"
    chosen = "true"
    if form.picture_first:
        order = "([true] if " + condition + " else [true, false])"
        chosen = condition + " or " + shown + " == round"
    starts = "not parts or (parts[0] is string or parts[0]['type'] not in " + repr(list(PICTURE_KINDS)) + ")"
    if form.picture_first:
        starts = "(" + starts + ") and here.pictures != 1"
    if form.wordless:
        words = when("wordy", words)
    return (
        "{%- macro body(content, lead, asks, wordy) -%}"
        "{%- set parts = [content] if content is string else content -%}"
        "{%- set here = namespace(before='', text='', asked=false, pictures=0) -%}"
        + lone + when("lead and (" + starts + ")", begin + "{{- lead -}}")
        + "{%- for round in " + order + " -%}{%- for part in parts -%}"
        + when(chosen, when(shown, picture, words))
        + "{%- endfor -%}{%- endfor -%}" + begin + _needs_picture(form) + "{%- endmacro -%}"
    )  # fmt: skip


def _needs_picture(form: Template) -> str:
    if not form.wordless:
        return ""
    message = f"the chat template {form.name} shows pictures only; a turn holds none"
    return when("not wordy and here.before != 'picture'", "{{- raise_exception(" + quoted(message) + ") -}}")


def _default_system(form: Template) -> str:
    if form.system is None:
        return ""
    text = say(form.opens["system"] + form.system + form.closes["system"])
    condition = "messages[0]['role'] != 'system'"
    if form.system_inside:
        text = "{%- set state.held = " + quoted(form.opens["system"] + form.system + form.closes["system"]) + " -%}"
    if not form.system_unseen:
        return when(condition, text)
    look = (
        "{%- for message in messages -%}" + when(
            "message['content'] is not string",
            "{%- for part in message['content'] -%}"
            + when("part is not string and part['type'] in " + repr(list(PICTURE_KINDS)),
                   "{%- set state.seen = true -%}")
            + "{%- endfor -%}")
        + "{%- endfor -%}"
    )  # fmt: skip
    return look + when(condition + " and not state.seen", text)


def _turn(form: Template, role: str) -> str:
    words = "{{- body(message['content']) -}}"
    if _writes_turns_apart(form):
        asks = form.asks if role == "user" else ""
        wordy = "false" if form.wordless and role == "user" else "true"
        call = f"body(message['content'], {quoted(form.leads.get(role, ''))}, {quoted(asks)}, {wordy})"
        words = "{{- " + call + " -}}"
        if role == "system" and form.system_inside:
            around = (quoted(form.opens[role]), quoted(form.closes[role]))
            return "{%- set state.held = " + around[0] + " + " + call + " + " + around[1] + " -%}"
        if role == "user" and form.system_inside:
            words = "{{- state.held -}}{%- set state.held = '' -%}" + words
    opening, close = say(form.opens[role]), say(form.closes[role])
    if form.open(role, last=True) != form.opens[role]:
        opening = when("loop.last", say(form.open(role, last=True)), opening)
    if role in form.last:
        close = when("loop.last", say(form.last[role]), close)
    return opening + words + close
