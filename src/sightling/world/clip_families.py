"""How questions about clips are asked, see :mod:`~sightling.world.happenings` for what they ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sightling.world import happenings
from sightling.world.pair_families import DIRECTION, color_word
from sightling.world.scene import Scene
from sightling.world.series import Answer, Puzzle, SeriesFamily, Setting, name_word, word_table


def _colors_word(language: str, answer: Answer) -> str:
    assert isinstance(answer, tuple)
    first, last = (color_word(language, color) for color in answer)
    return f"from {first} to {last}" if language == "en" else f"从{first}到{last}"


def _family(
    name: str,
    about: str,
    propose: Callable[[Scene, Setting], Puzzle | None],
    en: Mapping[str, tuple[str, ...]],
    zh: Mapping[str, tuple[str, ...]],
    word: Callable[[str, Answer], str],
) -> SeriesFamily:
    return SeriesFamily(name, about, propose, {"en": en, "zh": zh}, word)


CLIPS: dict[str, SeriesFamily] = {
    family.name: family
    for family in (
        _family(
            "event",
            "what happened in a clip",
            happenings.event,
            {"event": ("what happened?", "what happens in the video?")},
            {"event": ("发生了什么？", "视频里发生了什么？")},
            word_table(
                {"moved": "a thing moved", "came": "a thing appeared", "went": "a thing vanished",
                 "color": "a color changed", "nothing": "nothing"},
                {"moved": "有东西移动了", "came": "有东西出现了", "went": "有东西消失了", "color": "有东西变色了",
                 "nothing": "什么都没有发生"},
            ),
        ),
        _family(
            "moved",
            "which of the things moved",
            happenings.moved,
            {"moved": ("which thing moved?", "what moved?", "which thing did not stay in its place?")},
            {"moved": ("哪个东西移动了？", "什么移动了？", "哪个东西没有停在原处？")},
            name_word,
        ),
        replace(DIRECTION, propose=happenings.direction),
        _family(
            "appearing",
            "whether a thing appeared, vanished, or both",
            happenings.appearing,
            {"appearing": ("did {a:the} appear or vanish?", "did {a:the} vanish or appear?")},
            {"appearing": ("{a}是出现了还是消失了？", "{a}是消失了还是出现了？")},
            word_table(
                {"came": "appeared", "went": "vanished", "came and went": "appeared, then vanished",
                 "went and came": "vanished, then appeared"},
                {"came": "出现了", "went": "消失了", "came and went": "先出现后消失", "went and came": "先消失后出现"},
            ),
        ),
        _family(
            "how_many",
            "how many things appeared, or vanished",
            happenings.how_many,
            {"came": ("how many things appeared?", "how many new things came?"),
             "went": ("how many things vanished?", "how many things went away?")},
            {"came": ("出现了几个东西？", "有几个新东西出现？"), "went": ("消失了几个东西？", "有几个东西不见了？")},
            lambda language, answer: str(answer),
        ),
        _family(
            "turned",
            "which of the things changed colour",
            happenings.turned,
            {"turned": ("which thing changed color?", "what changed its color?")},
            {"turned": ("哪个东西变色了？", "什么改变了颜色？")},
            name_word,
        ),
        _family(
            "colors",
            "from which colour to which a thing changed",
            happenings.colors,
            {"colors": ("how did the color of {a:the} change?", "from which color to which did {a:the} change?")},
            {"colors": ("{a}的颜色怎样变化？", "{a}从什么颜色变成了什么颜色？")},
            _colors_word,
        ),
        _family(
            "color_first",
            "what colour a thing had at first",
            lambda scene, setting: happenings.color_at_end(scene, setting, late=False),
            {"first": ("what color did {a:the} have at first?", "what color was {a:the} at the beginning?")},
            {"first": ("{a}一开始是什么颜色？", "{a}最初是什么颜色？")},
            color_word,
        ),
        _family(
            "color_last",
            "what colour a thing had at the end",
            lambda scene, setting: happenings.color_at_end(scene, setting, late=True),
            {"last": ("what color did {a:the} have at the end?", "what color was {a:the} in the end?")},
            {"last": ("{a}最后是什么颜色？", "{a}到最后是什么颜色？")},
            color_word,
        ),
    )
}  # fmt: skip
"""Every family of questions about clips, by name."""
