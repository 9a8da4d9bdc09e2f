"""Clips and what their middle frame does not tell; :mod:`~sightling.world.clip_families` asks for it.

What someone who sees only the middle frame can reach, with the specification's own numbers (``n`` things in that frame,
``C`` colours):

=========== ============================================ ==============================================
family      asks                                         right by chance, given the middle frame
=========== ============================================ ==============================================
event       what happened                                1/5
moved       which thing moved                            1 of the things that can, all n or all but one
direction   in which direction a thing moved             1/4 where all four are free, else 1/2
appearing   whether a thing appeared, vanished or both   1/4
how_many    how many things appeared, or vanished        1/4
turned      which thing changed colour                   1/n
colors      from which colour to which a thing changed   half of one of the other colours, at most 1/C
color_first what colour a thing had at first             one of the other colours, at most 2/C
color_last  what colour a thing had at the end           one of the other colours, at most 2/C
=========== ============================================ ==============================================

A clip begins with its middle frame; what comes before and after is built around it. Whatever happens at once happens
between two frames, at ``k / frames`` for a whole ``k``; what moves does so all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sightling.world import changes
from sightling.world.changes import BY_SHAPE, DIRECTIONS, Room, all_differ, named, newcomer, reference, with_thing
from sightling.world.clips import Clip, Track
from sightling.world.families.base import one, pick
from sightling.world.mentions import Mention
from sightling.world.pairs import FREEDOMS, candidates
from sightling.world.scene import Scene, Thing
from sightling.world.series import Answer, Puzzle, Setting

FEWEST_FRAMES = 4
"""With fewer frames a thing cannot come and go on one side of the middle."""

LONG = (0.3, 0.55)
"""How far a thing moves in a whole clip, as fractions of the shorter side."""

_TRIES = 20
_LOOKS = (0.0, 1.0, 0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875)
"""When a moving thing's way is checked to be free; the ends are the likeliest not to be."""


def _before(setting: Setting) -> float:
    """A time between two frames, so that what happens then has happened in the middle frame."""
    return setting.rng.randint(1, setting.middle) / setting.frames


def _after(setting: Setting) -> float:
    """A time between two frames, so that what happens then has yet to happen in the middle frame."""
    return setting.rng.randint(setting.middle + 1, setting.frames - 1) / setting.frames


def _moment(setting: Setting) -> float:
    """The time of the middle frame."""
    return (setting.middle + 0.5) / setting.frames


def _still(scene: Scene) -> list[Track]:
    return [Track(thing) for thing in scene.things]


def _puzzle(
    scene: Scene,
    tracks: Sequence[Track],
    setting: Setting,
    form: str,
    answer: Answer,
    options: Sequence[Answer],
    choices: Sequence[Answer] | None = None,
    **slots: Mention,
) -> Puzzle:
    clip = Clip(tuple(tracks), scene.background, scene.aspect)
    listed = tuple(options if choices is None else choices)
    return Puzzle(clip.frames(setting.frames), form, answer, tuple(options), listed, slots, clip)


# --- moving -----------------------------------------------------------------------------------------------------


def _motion(scene: Scene, index: int, setting: Setting, way: tuple[int, int] | None = None) -> Track | None:
    """The thing moving straight, ``way`` or anyhow, so that it passes its place in ``scene`` at the middle frame."""
    rng, thing, room = setting.rng, scene.things[index], Room(scene, setting.spec, index)
    for _ in range(_TRIES if way is None else _TRIES // 4):
        far = rng.uniform(*LONG)
        across, down = way if way is not None else pick(_WAYS, rng)
        step = round(across * far / room.width, 4), round(down * far / room.height, 4)
        track = Track(thing, step, _moment(setting))
        seen = (track.at(time) for time in _LOOKS)
        if all(there is not None and room.fits(there) for there in seen):
            return track
    return None


_WAYS = tuple((across, down) for across in (-1, 0, 1) for down in (-1, 0, 1) if across or down)


def moved(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which thing moved."""
    if len(scene.things) < 2 or not all_differ(scene):
        return None
    free: dict[int, Track] = {}
    for index in range(len(scene.things)):
        track = _motion(scene, index, setting)
        if track is not None:
            free[index] = track
        elif len(free) < index:
            return None  # the second that cannot
    if len(free) < 2:
        return None
    index = pick(tuple(free), setting.rng)
    tracks = _still(scene)
    tracks[index] = free[index]
    names = [named(thing) for thing in scene.things]
    return _puzzle(scene, tracks, setting, "moved", names[index], [names[each] for each in free], names)


def direction(scene: Scene, setting: Setting) -> Puzzle | None:
    """In which direction a thing moved."""
    rng = setting.rng
    scene, indices = candidates(scene, setting)
    for index in indices:
        said = reference(scene, index, BY_SHAPE, setting.spec)
        if said is None:
            continue
        ways = {name: _motion(scene, index, setting, way) for name, way in DIRECTIONS.items()}
        free = {name: track for name, track in ways.items() if track is not None}
        for form, options in FREEDOMS.items():
            if all(name in free for name in options):
                answer = pick(options, rng)
                tracks = _still(scene)
                tracks[index] = free[answer]
                return _puzzle(scene, tracks, setting, form, answer, options, a=said)
    return None


# --- coming and going -------------------------------------------------------------------------------------------


def _comes(thing: Thing, at: float) -> Track:
    return Track(thing, spans=((at, 1.0),))


def _goes(thing: Thing, at: float) -> Track:
    return Track(thing, spans=((0.0, at),))


def appearing(scene: Scene, setting: Setting) -> Puzzle | None:
    """A thing that the middle frame shows, or one that it does not show; either can have any of four histories."""
    rng = setting.rng
    shown = rng.random() < 0.5
    whole = scene
    index = int(rng.random() * len(scene.things))
    if not shown:
        thing = newcomer(scene, rng, setting.spec)
        if thing is None:
            return None
        index, whole = len(scene.things), with_thing(scene, thing)
    said = reference(whole, index, BY_SHAPE, setting.spec)
    if said is None:
        return None
    around = (_before(setting), _after(setting))
    # Apart from the middle frame: a share of the time that ends before it.
    since = rng.randint(1, setting.middle - 1)
    beside = (since / setting.frames, rng.randint(since + 1, setting.middle) / setting.frames)
    middle, aside = (around, beside) if shown else (beside, around)
    histories = {
        "came": ((_before(setting) if shown else _after(setting), 1.0),),
        "went": ((0.0, _after(setting) if shown else _before(setting)),),
        "came and went": (middle,),
        "went and came": ((0.0, aside[0]), (aside[1], 1.0)),
    }
    answer = pick(tuple(histories), rng)
    tracks = _still(whole)
    tracks[index] = replace(tracks[index], spans=histories[answer])
    return _puzzle(scene, tracks, setting, "appearing", answer, tuple(histories), a=said)


MOST_EVENTS = 3


def how_many(scene: Scene, setting: Setting) -> Puzzle | None:
    """So many things come (or go), some before the middle frame and some after it; perhaps one does the opposite."""
    rng = setting.rng
    if len(scene.things) < 2:
        return None
    form, opposite = pick((("came", "went"), ("went", "came")), rng)
    whole = scene
    for _ in range(MOST_EVENTS + 1):
        thing = newcomer(whole, rng, setting.spec, small=True)
        if thing is None:
            return None
        whole = with_thing(whole, thing)
    there = list(range(len(scene.things)))
    absent = list(range(len(scene.things), len(whole.things)))
    rng.shuffle(there)
    # One thing stays whatever happens, so that no frame is empty.
    there.pop()
    count = rng.randint(0, MOST_EVENTS)
    tracks: list[Track | None] = [*_still(scene), *[None] * len(absent)]
    for number in range(count + 1):
        kind = form if number < count else opposite
        if kind == opposite and rng.random() < 0.5:
            continue
        shown = bool(there) and rng.random() < 0.5
        index = there.pop() if shown else absent.pop()
        # What the middle frame shows came before it or goes after it; what it does not show, the other way round.
        early = shown == (kind == "came")
        at = _before(setting) if early else _after(setting)
        tracks[index] = (_comes if kind == "came" else _goes)(whole.things[index], at)
    answers = tuple(str(number) for number in range(MOST_EVENTS + 1))
    shown_tracks = [track for track in tracks if track is not None]
    return _puzzle(scene, shown_tracks, setting, form, str(count), answers)


# --- colours ----------------------------------------------------------------------------------------------------


def _changing(scene: Scene, index: int, setting: Setting, late: bool) -> tuple[list[Track], str, list[str]] | None:
    """(tracks in which the thing changes colour, the colour that the middle frame does not show, all it could be).

    The thing has its own colour in the middle frame, and the other one before that, or ``late``, after it.
    """
    colors = changes.colors_for(scene, index, setting.rng, setting.spec)
    if len(colors) < max(2, len(setting.spec.colors) // 2):
        return None
    color = pick(list(colors), setting.rng)
    own, other = scene.things[index], colors[color]
    tracks = _still(scene)
    if late:
        tracks[index] = Track(own, turns=_after(setting), after=other)
    else:
        tracks[index] = Track(other, turns=_before(setting), after=own)
    return tracks, color, list(colors)


def turned(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which thing changed colour, named by its shape."""
    shapes = [thing.shape for thing in scene.things]
    if len(shapes) < 2 or len(set(shapes)) < len(shapes):
        return None
    late = setting.rng.random() < 0.5
    changing = [_changing(scene, index, setting, late) for index in range(len(shapes))]
    index = int(setting.rng.random() * len(shapes))
    found = changing[index]
    if found is None or None in changing:
        return None
    names = [one("shape", shape) for shape in shapes]
    return _puzzle(scene, found[0], setting, "turned", names[index], names)


def colors(scene: Scene, setting: Setting) -> Puzzle | None:
    """From which colour to which a thing changed."""
    index = int(setting.rng.random() * len(scene.things))
    said = reference(scene, index, (("shape",),), setting.spec)
    late = setting.rng.random() < 0.5
    found = _changing(scene, index, setting, late)
    if said is None or found is None:
        return None
    tracks, color, colors = found
    own = scene.things[index].color
    options = [pair for other in colors for pair in ((own, other), (other, own))]
    return _puzzle(scene, tracks, setting, "colors", (own, color) if late else (color, own), options, (), a=said)


def color_at_end(scene: Scene, setting: Setting, late: bool) -> Puzzle | None:
    """Which colour a thing had at first, or ``late``, at the end: the one that the middle frame does not show."""
    index = int(setting.rng.random() * len(scene.things))
    said = reference(scene, index, (("shape",),), setting.spec)
    found = _changing(scene, index, setting, late)
    if said is None or found is None:
        return None
    tracks, color, colors = found
    return _puzzle(scene, tracks, setting, "last" if late else "first", color, colors, setting.spec.colors, a=said)


# --- anything ---------------------------------------------------------------------------------------------------

EVENTS = ("moved", "came", "went", "color", "nothing")


def event(scene: Scene, setting: Setting) -> Puzzle | None:
    """What happened: one of :data:`EVENTS`."""
    rng = setting.rng
    if len(scene.things) < 2:
        return None
    extra = newcomer(scene, rng, setting.spec)
    if extra is None:
        return None
    index = int(rng.random() * len(scene.things))
    recolored = _changing(scene, index, setting, rng.random() < 0.5)
    motions = ((mover, _motion(scene, mover, setting)) for mover in range(len(scene.things)))
    mover, motion = next(((mover, track) for mover, track in motions if track is not None), (0, None))
    if motion is None or recolored is None:
        return None
    answer = pick(EVENTS, rng)
    tracks = _still(scene)
    shown = rng.random() < 0.5
    if answer == "moved":
        tracks[mover] = motion
    elif answer == "color":
        tracks = recolored[0]
    elif answer in ("came", "went"):
        act = _comes if answer == "came" else _goes
        at = _before(setting) if shown == (answer == "came") else _after(setting)
        if shown:
            tracks[index] = act(scene.things[index], at)
        else:
            tracks.append(act(extra, at))
    return _puzzle(scene, tracks, setting, "event", answer, EVENTS)
