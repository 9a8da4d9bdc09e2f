from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.world import lexicon
from sightling.world.facts import ThingFact, fact_of, facts_of, place_is_clear, place_of, reading_order, relation
from sightling.world.scene import Background, Scene, Thing

THING = Thing("circle", "red", "small", "plain", 0.5, 0.5, 0.08, 0.0, (214, 24, 32))
coordinates = st.floats(0, 1, allow_nan=False)


def at(x: float, y: float) -> Thing:
    return replace(THING, x=x, y=y)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (0.1, 0.1, "top left"), (0.5, 0.1, "top"), (0.9, 0.1, "top right"),
        (0.1, 0.5, "left"), (0.5, 0.5, "center"), (0.9, 0.5, "right"),
        (0.1, 0.9, "bottom left"), (0.5, 0.9, "bottom"), (0.9, 0.9, "bottom right"),
    ],
)  # fmt: skip
def test_places_are_thirds_both_ways(x: float, y: float, place: str) -> None:
    assert place_of(at(x, y)) == place
    assert place_is_clear(at(x, y))


def test_a_place_near_a_line_is_not_clear() -> None:
    assert not place_is_clear(at(0.34, 0.5))
    assert not place_is_clear(at(0.5, 0.65))


@given(coordinates, coordinates)
@settings(max_examples=50, deadline=None)
def test_every_place_has_words(x: float, y: float) -> None:
    assert place_of(at(x, y)) in lexicon.PLACES


@given(coordinates, coordinates, coordinates, coordinates)
@settings(max_examples=100, deadline=None)
def test_relations_turn_round_with_the_things(x1: float, y1: float, x2: float, y2: float) -> None:
    forth, back = relation(at(x1, y1), at(x2, y2)), relation(at(x2, y2), at(x1, y1))
    assert {lexicon.OPPOSITES[word] for word in forth} == back
    assert not {"left", "right"} <= forth and not {"above", "below"} <= forth
    assert forth <= set(lexicon.RELATIONS)


def test_relations_need_a_clear_margin() -> None:
    assert relation(at(0.2, 0.5), at(0.8, 0.55)) == {"left"}
    assert relation(at(0.5, 0.2), at(0.45, 0.8)) == {"above"}
    assert relation(at(0.5, 0.5), at(0.55, 0.55)) == frozenset()
    assert relation(at(0.9, 0.9), at(0.1, 0.1)) == {"right", "below"}


def test_facts_carry_every_attribute() -> None:
    letter = Thing("letter", "blue", "large", "plain", 0.1, 0.9, 0.17, 5.0, (20, 84, 220), "K")
    assert fact_of(letter) == ThingFact("letter", "blue", "large", "plain", "K", "bottom left")
    scene = Scene((THING, letter), Background("plain", (255, 255, 255), (255, 255, 255), 0))
    assert facts_of(scene) == (fact_of(THING), fact_of(letter))


def test_reading_order_goes_row_by_row() -> None:
    things = (at(0.9, 0.9), at(0.8, 0.2), at(0.1, 0.3), at(0.5, 0.5))
    scene = Scene(things, Background("plain", (255, 255, 255), (255, 255, 255), 0))
    assert reading_order(scene) == (2, 1, 3, 0)


@pytest.mark.parametrize(
    "table",
    ["SHAPES", "COLORS", "SIZES", "TEXTURES", "BACKGROUNDS", "PLACES", "RELATIONS"],
)
def test_no_word_of_a_table_means_two_things(table: str) -> None:
    entries: dict[str, lexicon.Entry] = getattr(lexicon, table)
    for kind in ("en", "plural", "zh"):
        words = [word for entry in entries.values() for word in getattr(entry, kind)]
        assert len(words) == len(set(words)), kind
    for name, entry in entries.items():
        assert entry.name == name
        assert len(entry.en) == len(entry.plural) and entry.zh
        assert entry.canonical("en") == entry.en[0] and entry.canonical("zh") == entry.zh[0]


def test_look_alike_glyphs_are_left_out() -> None:
    for pair in ("O0", "I1", "S5", "Z2", "B8", "G6", "UV"):
        assert len(set(pair) & set(lexicon.GLYPHS)) <= 1, pair
    assert len(set(lexicon.GLYPHS)) == len(lexicon.GLYPHS)
