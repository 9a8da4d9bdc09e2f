"""Answers that are boxes: right by overlap, one to one, and wrong where they are malformed."""

from __future__ import annotations

import pytest
from small import noise

from sightling.data.sample import Sample, question
from sightling.data.world import WorldOptions
from sightling.evaluate.boxes import LEAST, boxes_right
from sightling.evaluate.items import Item, in_grey
from sightling.evaluate.results import judge, measure
from sightling.evaluate.samples import sample_items
from sightling.evaluate.section import EvaluateSection
from sightling.evaluate.world import held_out, world_items, world_majority

TRUE = "{<10><10><30><30>}"
TWO = "<p>red circle</p> {<10><10><30><30>}<delim>{<60><60><80><80>}"
FAMILIES = {"refer": 1, "identify": 1, "detection": 1, "grounding": 1, "caption": 1, "color": 1}


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (TRUE, True),
        (f" {TRUE}. ", True),
        ("{<10><10><30><20>}", True),
        ("{<10><10><30><19>}", False),
        ("{<15><10><35><30>}", True),
        ("{<17><10><37><30>}", False),
        (f"{TRUE} {TRUE}", False),
        (f"it is {TRUE}", False),
        ("{<10><10><30><30>", False),
        ("<p>red circle</p> {<10><10><30><30>}", False),
        ("", False),
    ],
)
def test_one_box_is_right_from_half_an_overlap_on(said: str, right: bool) -> None:
    assert LEAST == 0.5
    assert boxes_right(said, [TRUE]) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (TWO, True),
        ("<p>red circle</p> {<60><60><80><80>}<delim>{<10><10><30><30>}", True),
        ("<p>Red circle</p>{<61><60><80><80>}, <p>red circle</p> {<10><10><30><31>}", True),
        ("<p>red circle</p> {<10><10><30><30>}", False),
        ("<p>red circle</p> {<10><10><30><30>}<delim>{<10><10><30><30>}", False),
        ("<p>blue circle</p> {<10><10><30><30>}<delim>{<60><60><80><80>}", False),
        (f"{TWO}<delim>{{<0><0><5><5>}}", False),
    ],
)
def test_several_boxes_are_matched_one_to_one(said: str, right: bool) -> None:
    assert boxes_right(said, [TWO]) is right


def test_a_match_is_found_where_the_first_choice_blocks_it() -> None:
    # The first said box meets both true ones, the second only the first.
    true = "{<0><0><20><20>}<delim>{<5><0><25><20>}"
    assert boxes_right("{<3><0><23><20>}<delim>{<0><0><18><20>}", [true])
    assert boxes_right("{<0><0><18><20>}<delim>{<3><0><23><20>}", [true])


def test_results_count_boxes_by_overlap_and_words_by_letters() -> None:
    def item(answer: str, boxes: bool) -> Item:
        sample = question("where?", noise(0), answer=answer)
        return Item(sample, 0, "refer" if boxes else "identify", "en", (answer,), boxes=boxes)

    near = "{<11><10><30><30>}"
    seen = judge(item(TRUE, True), near, "", ["{<0><0><1><1>}"])
    letters = judge(item(TRUE, False), near, "", [])
    assert (seen.right, seen.blind_right, seen.guess_right, letters.right) == (True, False, False, False)
    cell = measure([seen, letters], {}).cell("refer", "en")
    assert cell is not None and cell.accuracy.value == 1
    assert in_grey([item(TRUE, True)])[0].boxes


def test_questions_of_the_small_world_are_judged_as_their_families_say() -> None:
    options = WorldOptions(image_size=32, identifiers=True, synonyms=0.0)
    source = held_out(options, 1, None)
    items = world_items(source, FAMILIES, 8)
    assert {item.family for item in items} == set(FAMILIES)
    tasks = {"color": "vqa", "caption": "caption"}
    for item in items:
        assert item.text.startswith(f"[{tasks.get(item.family, item.family)}] ")
        assert item.boxes == (item.family in ("refer", "detection", "grounding"))
        assert item.is_caption == (item.family == "caption")
        if not item.is_caption:
            assert item.accepts(item.answers[0]) and not item.accepts("")
    majority = world_majority(source, FAMILIES, scenes=30)
    guess = majority.guess("refer", "en", (), "[refer] something never asked")
    assert guess.startswith("{<")
    plain = world_items(held_out(options.model_copy(update={"identifiers": False}), 1, None), FAMILIES, 8)
    assert [item.text.partition("] ")[2] for item in items] == [item.text for item in plain]


def test_a_data_set_is_judged_by_overlap_where_the_section_says_so() -> None:
    class Source:
        def __len__(self) -> int:
            return 1

        def group(self, index: int) -> list[Sample]:
            return [question("where?", noise(index), answer=TRUE)]

    near = "{<11><10><30><30>}"
    for judged, right in (("boxes", True), ("words", False)):
        section = EvaluateSection.model_validate({"judged": judged})
        (item,) = sample_items(Source(), section, "here")
        assert item.accepts(TRUE) and item.accepts(near) is right
