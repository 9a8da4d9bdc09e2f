"""Chat templates: how turns become one prompt. A template is five strings and its control tokens."""

from __future__ import annotations

from dataclasses import dataclass

from sightling.registry import Registry

END = "<|endoftext|>"
IMAGE = "<|image_pad|>"


@dataclass(frozen=True, slots=True)
class Template:
    """A chat format.

    ``opens[role]`` stands before a turn of that role and ``closes[role]`` after it. ``stop`` is the
    first token of an assistant's close: it is supervised and ends generation. ``before_image`` and
    ``after_image`` stand around a picture's placeholders. ``control`` lists every control token; text
    that a user writes never becomes one of them.
    """

    name: str
    control: tuple[str, ...]
    opens: dict[str, str]
    closes: dict[str, str]
    stop: str
    before_image: str
    after_image: str
    image: str = IMAGE

    def jinja(self) -> str:
        """The same format in the Jinja form that transformers and serving engines read.

        Contents are a string or a list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}``
        parts; a picture becomes ONE placeholder there, which the processor expands.
        """

        def quoted(text: str) -> str:
            return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"

        picture = quoted(self.before_image + self.image + self.after_image)
        roles = ""
        for index, role in enumerate(self.opens):
            roles += "{%- " + ("if" if index == 0 else "elif") + f" message['role'] == '{role}' -%}}"
            roles += "{{- " + quoted(self.opens[role]) + " -}}"
            roles += "{{- body(message['content']) -}}"
            roles += "{{- " + quoted(self.closes[role]) + " -}}"
        return (
            "{%- macro body(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}"
            "{%- for part in content -%}{%- if part is string -%}{{- part -}}"
            "{%- elif part['type'] in ['image', 'image_url'] -%}{{- " + picture + " -}}"
            "{%- else -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
            "{%- for message in messages -%}" + roles + "{%- else -%}"
            "{{- raise_exception('there is no role ' + message['role']) -}}{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- " + quoted(self.opens["assistant"]) + " -}}{%- endif -%}"
        )


TEMPLATES: Registry[Template] = Registry("chat template")


def _chatml() -> Template:
    start, end = "<|im_start|>", "<|im_end|>"
    return Template(
        name="chatml",
        control=(END, start, end, "<|vision_start|>", "<|vision_end|>", IMAGE, "<|video_pad|>"),
        opens={role: f"{start}{role}\n" for role in ("system", "user", "assistant")},
        closes={role: f"{end}\n" for role in ("system", "user", "assistant")},
        stop=end,
        before_image="<|vision_start|>",
        after_image="<|vision_end|>",
    )


TEMPLATES.register("chatml")(_chatml())


def _compact() -> Template:
    """One token a role and one that ends an answer: where a question has ten words, every other token counts."""
    roles = ("system", "user", "assistant")
    return Template(
        name="compact",
        control=(END, *(f"<|{role}|>" for role in roles), "<|end|>", IMAGE),
        opens={role: f"<|{role}|>" for role in roles},
        closes={"system": "<|end|>", "user": "", "assistant": "<|end|>"},
        stop="<|end|>",
        before_image="",
        after_image="",
    )


TEMPLATES.register("compact")(_compact())
