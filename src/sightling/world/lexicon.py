"""The words and colours of the small world: what a thing can be called, in English and Chinese.

Every table maps a stable key to an :class:`Entry`. The first word of each language is the canonical one (the one
that answers use); the others are synonyms that descriptions may use and that the parser understands. Within one
table no word belongs to two keys. Chinese words hold one another (``"粉红色"`` holds ``"红色"``), so readers of
Chinese match the longest word first.

A new thing is one entry here, and, for a shape, its outline in :mod:`sightling.world.outlines`.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's words: canonical first, synonyms after.

    Attributes:
        name: the key, equal to the key in its table.
        en: English words (singular); ``en[0]`` is canonical.
        plural: the English plurals, aligned with ``en``; the words themselves for adjectives.
        zh: Chinese words; ``zh[0]`` is canonical.
        rgb: the middle of the colour, for colours only.
    """

    name: str
    en: tuple[str, ...]
    plural: tuple[str, ...]
    zh: tuple[str, ...]
    rgb: RGB | None = None

    def words(self, language: str) -> tuple[str, ...]:
        """The singular words in ``"en"`` or ``"zh"``, canonical first."""
        return {"en": self.en, "zh": self.zh}[language]

    def canonical(self, language: str) -> str:
        """The one word that answers use."""
        return self.words(language)[0]


def _noun(name: str, en: str, zh: str, irregular: str = "") -> tuple[str, Entry]:
    """A noun's table row; words are parted by ``|``, ``irregular`` lists all plurals where adding "s" is wrong."""
    words = tuple(en.split("|"))
    plural = tuple(irregular.split("|")) if irregular else tuple(word + "s" for word in words)
    return name, Entry(name, words, plural, tuple(zh.split("|")))


def _adjective(name: str, en: str, zh: str, rgb: RGB | None = None) -> tuple[str, Entry]:
    words = tuple(en.split("|"))
    return name, Entry(name, words, words, tuple(zh.split("|")), rgb)


SHAPES: dict[str, Entry] = dict(
    [
        _noun("circle", "circle|disc|disk", "圆形|圆"),
        _noun("square", "square|box", "正方形|方形|方块", "squares|boxes"),
        _noun("triangle", "triangle", "三角形|三角"),
        _noun("star", "star|five-pointed star", "星形|五角星|星星"),
        _noun("cross", "cross|plus sign", "十字形|十字|加号", "crosses|plus signs"),
        _noun("heart", "heart|love heart", "心形|爱心"),
        _noun("diamond", "diamond|rhombus|lozenge", "菱形|钻石形", "diamonds|rhombuses|lozenges"),
        _noun("crescent", "crescent|moon|crescent moon", "月牙形|月牙|新月|弯月"),
        _noun("pentagon", "pentagon", "五边形"),
        _noun("ring", "ring|hoop|donut", "圆环|环形|圆圈"),
        _noun("arrow", "arrow|arrow sign", "箭头|箭头形"),
        _noun("drop", "drop|teardrop", "水滴形|水滴"),
        _noun("letter", "letter", "字母"),
    ]
)
"""Shapes by key; ``"letter"`` is a letter or a digit, see :data:`GLYPHS` and :data:`DIGIT`."""

DIGIT: Entry = _noun("digit", "digit|number|numeral", "数字")[1]
"""The words for a thing of shape ``"letter"`` whose glyph is a digit."""

THING: Entry = _noun("thing", "thing|object|item", "东西|物体|图形")[1]
"""The words for a thing of any shape."""

COLORS: dict[str, Entry] = dict(
    [
        _adjective("red", "red|scarlet|crimson", "红色|红|大红色", (214, 24, 32)),
        _adjective("orange", "orange|tangerine", "橙色|橘色|橘黄色|橙", (252, 124, 0)),
        _adjective("yellow", "yellow|lemon-yellow", "黄色|黄|柠檬黄", (246, 212, 14)),
        _adjective("green", "green|emerald", "绿色|绿|翠绿色", (28, 150, 58)),
        _adjective("blue", "blue|cobalt", "蓝色|蓝|深蓝色", (20, 84, 220)),
        _adjective("purple", "purple|violet", "紫色|紫|紫罗兰色", (144, 32, 158)),
        _adjective("pink", "pink|rosy", "粉色|粉红色|粉红|粉", (255, 150, 200)),
        _adjective("brown", "brown|chocolate", "棕色|褐色|咖啡色|棕", (116, 66, 24)),
        _adjective("black", "black|jet-black", "黑色|黑|漆黑", (20, 20, 22)),
        _adjective("white", "white|snow-white", "白色|白|雪白", (250, 250, 250)),
        _adjective("gray", "gray|grey", "灰色|灰", (132, 132, 134)),
        _adjective("cyan", "cyan|turquoise|aqua", "青色|青|青绿色", (30, 208, 220)),
    ]
)
"""Colours by key, each with its RGB middle; far enough apart that a person never doubts which one it is."""

SIZES: dict[str, Entry] = dict(
    [
        _adjective("small", "small|little|tiny", "小|小小|小型"),
        _adjective("large", "large|big|huge", "大|大大|大型"),
        # Not "tiny", which has been a synonym of small from the first.
        _adjective("miniature", "miniature|mini|minute", "微小|微型|迷你"),
    ]
)
"""Sizes by key; ``"miniature"`` is for pictures of high resolution and appears only where a specification names it."""

TEXTURES: dict[str, Entry] = dict(
    [
        _adjective("plain", "plain|solid", "纯色|单色"),
        _adjective("striped", "striped|stripy", "条纹|带条纹|斜纹"),
        _adjective("dotted", "dotted|spotted|polka-dot", "圆点花纹|带斑点|波点"),
        _adjective("checkered", "checkered|chequered|checked", "格子|方格|格纹"),
    ]
)

BACKGROUNDS: dict[str, Entry] = dict(
    [
        _adjective("plain", "plain|solid", "纯色|单色"),
        _adjective("gradient", "gradient|shaded", "渐变|渐变色"),
        _adjective("noise", "noisy|grainy|mottled", "噪点|斑驳"),
        _adjective("grid", "grid|gridded", "网格|格线"),
        _adjective("checker", "checkerboard|chessboard", "棋盘格|棋盘"),
    ]
)

PLACES: dict[str, Entry] = dict(
    [
        _adjective("top left", "top left|upper left", "左上角|左上方|左上"),
        _adjective("top", "top|upper middle", "上方|上边|上面|顶部"),
        _adjective("top right", "top right|upper right", "右上角|右上方|右上"),
        _adjective("left", "left|left side", "左侧|左边|左面|左方"),
        _adjective("center", "center|centre|middle", "中间|中央|中心|正中"),
        _adjective("right", "right|right side", "右侧|右边|右面|右方"),
        _adjective("bottom left", "bottom left|lower left", "左下角|左下方|左下"),
        _adjective("bottom", "bottom|lower middle", "下方|下边|下面|底部"),
        _adjective("bottom right", "bottom right|lower right", "右下角|右下方|右下"),
    ]
)
"""The nine regions of a picture, in reading order."""

RELATIONS: dict[str, Entry] = dict(
    [
        _adjective("left", "to the left of|left of", "左边|左侧|左面|左方"),
        _adjective("right", "to the right of|right of", "右边|右侧|右面|右方"),
        _adjective("above", "above|over", "上方|上边|上面"),
        _adjective("below", "below|under|beneath", "下方|下边|下面"),
    ]
)
"""How a first thing lies to a second: ``"left"`` says that the first is left of the second."""

OPPOSITES: dict[str, str] = {"left": "right", "right": "left", "above": "below", "below": "above"}

# Look-alikes are left out, for they cannot be told apart in a small picture, even by a person:
# O Q 0, I l 1, S 5, Z 2, B 8, G 6, V U.
LETTERS: tuple[str, ...] = tuple("ACDEFHJKLMNPRTUWXY")
DIGITS: tuple[str, ...] = tuple("23456789")
GLYPHS: tuple[str, ...] = LETTERS + DIGITS
"""What a thing of shape ``"letter"`` can show."""
