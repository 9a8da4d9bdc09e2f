"""Tell me about the picture: a short caption, or everything in detail."""

from __future__ import annotations

from random import Random

from sightling.world.describe import describe_with
from sightling.world.describe.words import Words
from sightling.world.families.base import Draft, Family, Propose, View, Write


def _proposer(form: str) -> Propose:
    def propose(view: View, rng: Random) -> Draft | None:
        return Draft(form, "", ()) if view.facts else None

    return propose


def _writer(detail: str) -> Write:
    def write(view: View, draft: Draft, language: str, words: Words) -> str:
        # Answers keep to the canonical words: a synonym is for understanding, not for saying.
        return describe_with(view.scene, language, detail, Words(words.rng))

    return write


def _no_word(language: str, form: str, answer: str) -> str:
    return answer


CAPTION = Family(
    name="caption",
    about="one short sentence that names all things",
    propose=_proposer("caption"),
    templates={
        "en": {"caption": ("what is in the picture?", "describe the picture briefly.", "write a short caption.")},
        "zh": {"caption": ("图中有什么？", "简单描述这张图。", "用一句话描述这张图。")},
    },
    word=_no_word,
    write=_writer("short"),
    thinned=False,
    task="caption",
    judged="things",
)

DESCRIPTION = Family(
    name="description",
    about="every thing with size, colour, texture, shape and place",
    propose=_proposer("description"),
    templates={
        "en": {
            "description": (
                "describe the picture in detail.",
                "what is where in the picture?",
                "describe each thing in the picture.",
            )
        },
        "zh": {"description": ("详细描述这张图。", "图中什么东西在什么位置？", "逐一描述图中的东西。")},
    },
    word=_no_word,
    write=_writer("detailed"),
    thinned=False,
    task="caption",
    judged="things",
)
