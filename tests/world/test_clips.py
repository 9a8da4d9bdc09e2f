"""Clips, and questions about them: true, and not to be told from the middle frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightling.errors import UserError
from sightling.world.changes import Room
from sightling.world.clip_families import CLIPS
from sightling.world.clips import Clip, Track
from sightling.world.happenings import EVENTS
from sightling.world.mentions import Mention
from sightling.world.scene import Background, Scene, Thing
from sightling.world.scenes import SceneSpec
from sightling.world.series import Answer, Puzzle, Setting, draw, say

SPEC = SceneSpec(min_things=3, max_things=4)
COUNT = 160
FRAMES = 4
MIDDLE = 2

BOUNDS = {"event": (0.2, 0.2), "moved": (1 / 4, 1 / 2), "direction": (1 / 4, 1 / 2), "appearing": (0.25, 0.25),
          "how_many": (0.25, 0.25), "turned": (1 / 4, 1 / 3), "colors": (1 / 22, 1 / 12),
          "color_first": (1 / 11, 2 / 12), "color_last": (1 / 11, 2 / 12)}  # fmt: skip


@cache
def puzzles(family: str) -> tuple[Puzzle, ...]:
    return tuple(draw(CLIPS[family], Setting(SPEC, Random(seed), FRAMES)) for seed in range(COUNT))


def about(puzzle: Puzzle) -> list[Thing | None]:
    """The thing that the question names, in each frame; ``None`` where it is not there."""
    mention = puzzle.slots["a"]
    assert isinstance(mention, Mention)
    found: list[Thing | None] = []
    for scene in puzzle.scenes:
        same = [thing for thing in scene.things if thing.shape == mention.shape]
        here = [thing for thing in same if mention.color in (None, thing.color)]
        assert len(here) <= 1
        found.append(here[0] if here else None)
    return found


def moving(puzzle: Puzzle) -> list[tuple[Thing, Thing]]:
    """(at first, at the end) of all things that are in every frame and do not stay in their place."""
    first, last = puzzle.scenes[0].things, puzzle.scenes[-1].things
    return [(one, two) for one in first for two in last if one.shade == two.shade and (one.x, one.y) != (two.x, two.y)
            and one.radius == two.radius]  # fmt: skip


def looks(thing: Thing) -> tuple[object, ...]:
    return thing.shape, thing.size, thing.radius, thing.angle, thing.texture


def comings(puzzle: Puzzle) -> tuple[int, int]:
    """(how many came, how many went) from each frame to the next, summed."""
    came = went = 0
    for before, after in pairwise(puzzle.scenes):
        came += len(set(after.things) - set(before.things))
        went += len(set(before.things) - set(after.things))
    return came, went


# ---- the truth, found by comparing the frames


def event(puzzle: Puzzle) -> str:
    shown = [len(scene.things) for scene in puzzle.scenes]
    if len(set(shown)) > 1:
        return "came" if shown[-1] > shown[0] else "went"
    if moving(puzzle):
        return "moved"
    return "nothing" if puzzle.scenes[0] == puzzle.scenes[-1] else "color"


def moved(puzzle: Puzzle) -> Answer:
    ((one, two),) = moving(puzzle)
    assert (one.x - two.x) ** 2 + (one.y - two.y) ** 2 > 0.2**2
    return Mention(color=one.color, shape=one.shape)


def direction(puzzle: Puzzle) -> str:
    ((one, two),) = moving(puzzle)
    assert about(puzzle)[0] == one
    across, down = two.x - one.x, two.y - one.y
    assert 0 in (across, down)
    return ("left" if across < 0 else "right") if across else ("up" if down < 0 else "down")


def appearing(puzzle: Puzzle) -> str:
    there = [thing is not None for thing in about(puzzle)]
    turns = [(one, two) for one, two in pairwise(there) if one != two]
    return {((False, True),): "came", ((True, False),): "went", ((False, True), (True, False)): "came and went",
            ((True, False), (False, True)): "went and came"}[tuple(turns)]  # fmt: skip


def turned(puzzle: Puzzle) -> Answer:
    changed = {one.shape for one in puzzle.scenes[0].things for two in puzzle.scenes[-1].things
               if looks(one) == looks(two) and one.color != two.color}  # fmt: skip
    (shape,) = changed
    return Mention(shape=shape)


def end_colors(puzzle: Puzzle) -> tuple[str, str]:
    first, last = about(puzzle)[0], about(puzzle)[-1]
    assert first is not None and last is not None
    return first.color, last.color


TRUTH: dict[str, Callable[[Puzzle], Answer]] = {
    "event": event,
    "moved": moved,
    "direction": direction,
    "appearing": appearing,
    "how_many": lambda puzzle: str(comings(puzzle)[puzzle.form == "went"]),
    "turned": turned,
    "colors": end_colors,
    "color_first": lambda puzzle: end_colors(puzzle)[0],
    "color_last": lambda puzzle: end_colors(puzzle)[1],
}


@pytest.mark.parametrize("family", CLIPS)
def test_answers_are_true(family: str) -> None:
    for puzzle in puzzles(family):
        assert puzzle.clip is not None and puzzle.scenes == puzzle.clip.frames(FRAMES)
        assert puzzle.answer == TRUTH[family](puzzle)
        assert puzzle.answer in puzzle.options and (puzzle.answer in puzzle.choices or family == "colors")


@pytest.mark.parametrize("family", ["moved", "direction", "how_many"])
def test_things_that_move_or_come_keep_clear_of_the_others(family: str) -> None:
    for puzzle in puzzles(family)[:60]:
        assert puzzle.clip is not None
        middle = set(puzzle.scenes[MIDDLE].things)
        for time in (0.0, 0.3, 0.5, 0.9, 1.0):
            scene = puzzle.clip.at(time)
            for index, thing in enumerate(scene.things):
                # Things of the drawn scene may overlap a little, as its specification says.
                assert thing in middle or Room(scene, SPEC, index).fits(thing)


# ---- what the middle frame tells


@pytest.mark.parametrize("family", CLIPS)
def test_given_the_middle_frame_every_option_is_as_likely(family: str) -> None:
    by_number: dict[int, Counter[int]] = {}
    for puzzle in puzzles(family):
        by_number.setdefault(len(puzzle.options), Counter())[puzzle.options.index(puzzle.answer)] += 1
    for number, places in by_number.items():
        if places.total() >= 10 * number:
            even = places.total() / number
            statistic = sum((places[place] - even) ** 2 for place in range(number)) / even
            assert statistic - (number - 1) < 4 * (2 * (number - 1)) ** 0.5, places
    chance = sum(1 / len(puzzle.options) for puzzle in puzzles(family)) / COUNT
    low, high = BOUNDS[family]
    assert low - 1e-9 <= chance <= high + 1e-9


def test_whether_the_thing_is_in_the_middle_frame_does_not_tell_its_history() -> None:
    table: dict[bool, Counter[Answer]] = {True: Counter(), False: Counter()}
    for puzzle in puzzles("appearing"):
        table[about(puzzle)[MIDDLE] is not None][puzzle.answer] += 1
    for counts in table.values():
        assert counts.total() > 50
        assert all(counts[answer] > 0.12 * counts.total() for answer in puzzles("appearing")[0].options)


def test_the_number_of_things_in_the_middle_frame_does_not_tell_what_happened() -> None:
    table: dict[int, Counter[Answer]] = {}
    for puzzle in puzzles("event"):
        table.setdefault(len(puzzle.scenes[MIDDLE].things), Counter())[puzzle.answer] += 1
    assert set(table) == {3, 4}
    for counts in table.values():
        even = counts.total() / len(EVENTS)
        assert sum((counts[answer] - even) ** 2 for answer in EVENTS) / even < 4 + 4 * 8**0.5


@pytest.mark.parametrize("frames", [4, 5, 8, 13])
def test_the_middle_frame_is_the_scene_that_the_clip_is_built_around(frames: int) -> None:
    """With any number of frames the thing in question has equal chances there: both states of it come."""
    states = set()
    for seed in range(12):
        puzzle = draw(CLIPS["appearing"], Setting(SPEC, Random(seed), frames))
        assert puzzle.answer == appearing(puzzle) and len(puzzle.scenes) == frames
        states.add(about(puzzle)[frames // 2] is not None)
    assert states == {True, False}


# ---- clips themselves


def thing(**told: object) -> Thing:
    base = dict(shape="star", color="red", size="small", texture="plain", x=0.5, y=0.5, radius=0.1, angle=0.0,
                shade=(200, 0, 0), glyph="")  # fmt: skip
    return Thing(**{**base, **told})  # type: ignore[arg-type]


GROUND = Background("plain", (255, 255, 255), (255, 255, 255), 0)


def test_a_track_moves_evenly_and_passes_its_anchor() -> None:
    track = Track(thing(), step=(0.4, -0.2), anchor=0.5)
    places = [(found.x, found.y) for time in (0, 0.25, 0.5, 1) if (found := track.at(time))]
    assert places == [(0.3, 0.6), (0.4, 0.55), (0.5, 0.5), (0.7, 0.4)]


def test_spans_and_turns_begin_at_their_time() -> None:
    track = Track(thing(), spans=((0.0, 0.25), (0.5, 1.0)), turns=0.75, after=thing(color="blue"))
    seen = [found and found.color for found in map(track.at, (0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 1.0))]
    assert seen == ["red", "red", None, "red", "red", "blue", "blue"]


def test_frames_show_the_midpoints_of_their_shares() -> None:
    clip = Clip((Track(thing(), step=(0.8, 0.0), anchor=0.5),), GROUND)
    assert [scene.things[0].x for scene in clip.frames(4)] == [0.2, 0.4, 0.6, 0.8]
    assert clip.frames(1) == (Scene((thing(),), GROUND),)
    with pytest.raises(UserError, match="at least 1 is needed"):
        clip.frames(0)
    with pytest.raises(UserError, match=r"there is no time 1\.5"):
        clip.at(1.5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(CLIPS)), st.integers(0, COUNT - 1), st.sampled_from(["en", "zh"]))
def test_questions_are_short_and_their_answer_is_among_the_choices(family: str, seed: int, language: str) -> None:
    asked = say(puzzles(family)[seed], CLIPS[family], language, Random(seed), 0.2)
    assert asked.text[-1] in "?？"
    assert not asked.choices or asked.answer in asked.choices
    assert len(set(asked.choices)) == len(asked.choices) and len(asked.answer.split()) <= 4


def test_a_clip_is_a_function_of_the_seed_alone() -> None:
    for family in CLIPS.values():
        assert draw(family, Setting(SPEC, Random(7))) == draw(family, Setting(SPEC, Random(7)))
