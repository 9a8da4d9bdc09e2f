from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import noise

from sightling.data.sample import question
from sightling.evaluate.charts import accuracy_bar, line_plot, nice_step, thinned
from sightling.evaluate.facts import StageFacts
from sightling.evaluate.gallery import caption_gallery, galleries
from sightling.evaluate.items import Item
from sightling.evaluate.metrics import Estimate
from sightling.evaluate.report import counted, percent, point_interval, points, render_report
from sightling.evaluate.results import Prediction, Results, judge, measure
from sightling.world.describe import describe
from sightling.world.scenes import SceneSpec, sample_scene

ABOUT = {
    "kind": "world", "from": "scenes", "seed": 1, "trained_on": [], "majority_from": "others", "pictures": 12,
    "questions": 60, "model": "runs/m", "recipe": "tiny", "description": "a model", "parameters": 1234,
    "parts": [{"name": "language_model", "kind": "llama", "parameters": 1234}],
    "run": {"device": "cpu", "threads": 2, "processes": 1, "created": "today"}, "train_command": "sightling train tiny",
    "versions": {"sightling": "0", "torch": "0", "transformers": "0"}, "command": "sightling evaluate runs/m",
    "rank": None, "seconds": {"questions": 1.0, "answers": 2.0}, "device": "cpu", "created": "today",
}  # fmt: skip
VOID = {"meta", "img", "line", "rect", "polyline", "br"}


class Checked(HTMLParser):
    """Reads a page and fails where a tag is not closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(page: str) -> Checked:
    checked = Checked()
    checked.feed(page)
    checked.close()
    assert checked.open == []
    return checked


def predictions(said: str = "blue") -> list[Prediction]:
    colors = ("red", "blue", "green")
    found = []
    for number in range(12):
        for language in ("en", "zh"):
            for family in ("color", "shape"):
                sample = question(f"{family} {number}?", noise(number), answer=colors[number % 3])
                item = Item(sample, number, family, language, (colors[number % 3],), colors)
                found.append(judge(item, "square" if family == "shape" else colors[number % 2], said, ["green"]))
        scene = sample_scene(number, SceneSpec())
        item = Item(question("tell me", noise(number), answer="x"), number, "caption", "en", ("x",), (), scene)
        found.append(judge(item, describe(sample_scene(number % 6, SceneSpec()), "en", "short", Random(0)), "", []))
    return found


def results(**about: object) -> Results:
    return measure(predictions(), {**ABOUT, **about})


STAGES = [
    StageFacts("tokenizer", "tokenizer", "", None, 3.0, None, {}),
    StageFacts("learn", "answer on world", "encoder 0.1", 30, 61.0, 1 << 28,
               {"loss": [(10, 3.0), (20, 2.0)], "eval_loss": [(30, 1.7)], "accuracy": [(10, 0.5), (30, 0.7)]}),
]  # fmt: skip


def test_the_page_asks_nothing_of_anybody() -> None:
    page = render_report(results(), STAGES)
    checked = read(page)
    assert checked.links
    assert all(link.startswith("data:image/") for link in checked.links)
    without_pictures = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_pictures)
    assert "<script" not in page


def test_the_page_shows_the_numbers() -> None:
    measured = results()
    text = " ".join(read(render_report(measured, STAGES)).text)
    assert "nan" not in text.lower().split()
    for cell in measured.cells:
        assert percent(cell.accuracy.value) in text
    for expected in ("sightling train tiny", "sightling evaluate runs/m", "1,234", "256.0 MiB", "Things named right"):
        assert expected in text


@pytest.mark.parametrize("about", [{"kind": "samples"}, {"trained_on": ["learn"]}, {"train_command": None, "run": {}}])
def test_the_page_of_other_evaluations(about: dict[str, object]) -> None:
    text = " ".join(read(render_report(results(**about), [])).text)
    assert ("learnt from these very samples" in text) == ("trained_on" in about)
    assert "How it learnt" not in text


def test_a_page_without_captions_or_lists() -> None:
    only = [one for one in predictions() if one.item.family == "shape"]
    text = " ".join(read(render_report(measure(only, ABOUT), [])).text)
    assert "Captions" not in text
    captions = [one for one in predictions() if one.caption is not None]
    text = " ".join(read(render_report(measure(captions, ABOUT), [])).text)
    assert "Accuracy by family" not in text


def test_every_table_moves_in_its_own_frame() -> None:
    page = render_report(results(), STAGES)
    assert page.count("<table") == len(re.findall(r'<div class="scroll"[^>]*><table', page)) > 4
    assert re.search(r"\.scroll \{\s*overflow-x: auto;", page)


def test_what_a_model_says_cannot_break_the_page() -> None:
    evil = "</style><script>alert(1)</script><b>"
    page = render_report(measure(predictions(evil), ABOUT), [])
    read(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_galleries_show_the_worst_family_first_and_wrong_answers_first() -> None:
    shown = galleries(results())
    assert [gallery.family for gallery in shown] == ["shape", "color"]
    for gallery in shown:
        rights = [one.prediction.right for one in gallery.shown]
        assert rights == sorted(rights)
        assert gallery.wrong == sum(not one.right for one in predictions() if one.item.family == gallery.family)
        assert all(uri.startswith("data:image/png") for one in gallery.shown for uri in one.pictures)
    assert {one.prediction.item.family for one in caption_gallery(results())} == {"caption"}


def test_bars_stand_where_their_numbers_are() -> None:
    drawing = accuracy_bar(Estimate(0.75, 0.5, 0.875, 10, 10), Estimate(0.25, 0.1, 0.4, 10, 10), 0.3, 0.125, "x < y")
    assert '<rect class="model" x="0.00" y="3" width="75.00"' in drawing
    assert '<line class="whisker" x1="50.00" y1="8.5' in drawing
    assert 'x2="87.50"' in drawing
    assert 'class="chance" x1="12.50"' in drawing
    assert 'aria-label="x &lt; y"' in drawing


@given(st.floats(1e-6, 1e6))
@settings(max_examples=50, deadline=None)
def test_steps_between_ticks_are_round(rough: float) -> None:
    step = nice_step(rough)
    assert rough * (1 - 1e-9) <= step <= 2.5 * rough
    assert f"{step / 10 ** math.floor(math.log10(step) + 1e-9):.1f}" in ("1.0", "2.0", "2.5", "5.0", "10.0")


def test_a_plot_reaches_from_zero_to_its_top() -> None:
    plot = line_plot({"trained": [(0, 5.2), (100, 0.0)]}, "loss")
    assert 'points="0.00,13.33 100.00,100.00"' in plot.drawing
    assert plot.y_ticks[0] == (100.0, "0")
    assert plot.y_ticks[-1] == (0.0, "6")
    assert plot.x_ticks == [(0.0, "0"), (25.0, "25"), (50.0, "50"), (75.0, "75"), (100.0, "100")]


def test_long_curves_are_thinned_by_means() -> None:
    line = [(float(x), float(x)) for x in range(10_000)]
    short = thinned(line)
    assert len(short) <= 400
    assert sum(y for _, y in short) / len(short) == pytest.approx(4999.5)


def test_one_of_a_thing_is_said_as_one() -> None:
    assert [counted(n, "picture") for n in (0, 1, 1200)] == ["0 pictures", "1 picture", "1,200 pictures"]
    one = " ".join(" ".join(read(render_report(results(questions=1, pictures=1), [])).text).split())
    assert "1 question about 1 scene of the small world" in one
    one = " ".join(" ".join(read(render_report(results(kind="samples", questions=1, pictures=1), [])).text).split())
    assert "1 question about 1 picture of scenes." in one


def test_numbers_in_words() -> None:
    assert (percent(0.12345), percent(None)) == ("12.3 %", "–")
    estimate = Estimate(-0.031, -0.07, 0.01, 5, 5)
    assert (points(estimate), point_interval(estimate)) == ("−3.1", "−7.0 to +1.0")
    nothing = Estimate(-0.0003, -0.0004, 0.0, 5, 5)
    assert (points(nothing), point_interval(nothing)) == ("+0.0", "+0.0 to +0.0")
