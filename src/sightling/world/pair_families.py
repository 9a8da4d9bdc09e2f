"""How questions about two or three pictures are asked, see :mod:`~sightling.world.pairs` for what they ask."""

from __future__ import annotations

from sightling.world import pairs
from sightling.world.families.base import yes_no
from sightling.world.lexicon import COLORS, SHAPES
from sightling.world.series import Answer, SeriesFamily, name_word, word_table


def color_word(language: str, answer: Answer) -> str:
    """A colour as an answer says it."""
    return COLORS[str(answer)].canonical(language)


def _shape_word(language: str, answer: Answer) -> str:
    return SHAPES[str(answer)].canonical(language)


CHANGE = SeriesFamily(
    "change",
    "what changed between two pictures",
    pairs.change,
    {
        "en": {"change": ("what changed between the two pictures?", "what is different in the second picture?")},
        "zh": {"change": ("两张图之间有什么变化？", "第二张图有什么不同？")},
    },
    word_table(
        {"color": "a color", "shape": "a shape", "place": "a place", "added": "something came",
         "removed": "something went", "nothing": "nothing"},
        {"color": "颜色", "shape": "形状", "place": "位置", "added": "多了东西", "removed": "少了东西",
         "nothing": "没有变化"},
    ),
)  # fmt: skip

SAME = SeriesFamily(
    "same",
    "whether two pictures are the same",
    pairs.same,
    {
        "en": {"same": ("are the two pictures the same?", "do the two pictures show exactly the same?")},
        "zh": {"same": ("两张图一样吗？", "两张图完全相同吗？")},
    },
    lambda language, answer: yes_no(language, "same", str(answer)),
)

GONE = SeriesFamily(
    "gone",
    "which thing of the first picture is gone in the second",
    pairs.gone,
    {
        "en": {"gone": ("which thing is gone?", "which thing is missing in the second picture?", "what was removed?")},
        "zh": {"gone": ("哪个东西不见了？", "第二张图少了什么？", "什么被拿走了？")},
    },
    name_word,
)

ADDED = SeriesFamily(
    "added",
    "which thing of the second picture is not in the first",
    pairs.added,
    {
        "en": {"added": ("which thing is new?", "which thing is only in the second picture?", "what was added?")},
        "zh": {"added": ("哪个东西是新的？", "第二张图多了什么？", "什么是新加上的？")},
    },
    name_word,
)

MOVED = SeriesFamily(
    "moved",
    "which of the things moved",
    pairs.moved,
    {
        "en": {"moved": ("which thing moved?", "which thing is in another place?", "what moved?")},
        "zh": {"moved": ("哪个东西移动了？", "哪个东西换了位置？", "什么移动了？")},
    },
    name_word,
)

DIRECTION = SeriesFamily(
    "direction",
    "in which direction a thing moved",
    pairs.direction,
    {
        "en": {
            "any": ("in which direction did {a:the} move?", "which way did {a:the} move?"),
            "across": ("did {a:the} move left or right?", "did {a:the} move right or left?"),
            "upright": ("did {a:the} move up or down?", "did {a:the} move down or up?"),
        },
        "zh": {
            "any": ("{a}向哪个方向移动了？", "{a}往哪边移动了？"),
            "across": ("{a}向左还是向右移动了？", "{a}向右还是向左移动了？"),
            "upright": ("{a}向上还是向下移动了？", "{a}向下还是向上移动了？"),
        },
    },
    word_table(
        {"left": "left", "right": "right", "up": "up", "down": "down"},
        {"left": "左", "right": "右", "up": "上", "down": "下"},
    ),
)

RECOLORED = SeriesFamily(
    "recolored",
    "what colour a thing became",
    pairs.recolored,
    {
        "en": {"color": ("what color did {a:the} become?", "which color did {a:the} turn?")},
        "zh": {"color": ("{a}变成了什么颜色？", "{a}后来是什么颜色？")},
    },
    color_word,
)

RESHAPED = SeriesFamily(
    "reshaped",
    "what shape a thing became",
    pairs.reshaped,
    {
        "en": {"shape": ("what shape did {a:the} become?", "which shape did {a:the} turn into?")},
        "zh": {"shape": ("{a}变成了什么形状？", "{a}后来是什么形状？")},
    },
    _shape_word,
)

MORE = SeriesFamily(
    "more",
    "which of two pictures has more things of a kind",
    pairs.more,
    {
        "en": {
            "more": (
                "which picture has more {a:many}, the first or the second?",
                "are there more {a:many} in the first or in the second picture?",
            )
        },
        "zh": {"more": ("哪张图的{a}更多，第一张还是第二张？", "第一张图和第二张图，哪张的{a}更多？")},
    },
    word_table({"first": "first", "second": "second"}, {"first": "第一张", "second": "第二张"}),
)

WHICH = SeriesFamily(
    "which",
    "which of two or three pictures has a certain thing",
    pairs.which,
    {
        "en": {
            "which of 2": ("which of the two pictures has {a:a}?", "in which of the two pictures is there {a:a}?"),
            "which of 3": ("which of the three pictures has {a:a}?", "in which of the three pictures is there {a:a}?"),
        },
        "zh": {
            "which of 2": ("两张图中哪张有{a}？", "{a}在两张图中的哪一张里？"),
            "which of 3": ("三张图中哪张有{a}？", "{a}在三张图中的哪一张里？"),
        },
    },
    word_table(
        {"first": "first", "second": "second", "third": "third", "both": "both", "none": "none"},
        {"first": "第一张", "second": "第二张", "third": "第三张", "both": "两张都有", "none": "都没有"},
    ),
)

PAIRS: dict[str, SeriesFamily] = {
    family.name: family
    for family in (CHANGE, GONE, ADDED, MOVED, DIRECTION, RECOLORED, RESHAPED, MORE, WHICH, SAME)
}
"""Every family of questions about two or three pictures, by name."""
