"""Two or three pictures and what the first of them does not tell; :mod:`~sightling.world.pair_families` asks for it.

What someone who sees only the first picture can reach, with the specification's own numbers (``n`` things in the first
picture, ``C`` colours and ``S`` shapes):

========== ========================================== =================================================
family     asks                                       right by chance, given the first picture
========== ========================================== =================================================
change     what changed between two pictures          1/6
gone       which thing is gone                        1/n
added      which thing is new                         about 1/(C S)
moved      which thing moved                          1/n
direction  in which direction a thing moved           1/4 where all four are free, else 1/2
recolored  what colour a thing became                 1 of the other colours that stand out, at most 2/C
reshaped   what shape a thing became                  1 of the other shapes that have room, at most 2/S
more       which of two pictures has more of a kind   1/2
which      which of two or three has a certain thing  1/2
same       whether two pictures are the same          1/2
========== ========================================== =================================================

``which`` counts four answers, equally frequent. Of two pictures (first, second, both, none) the first one leaves two.
Of three (first, second, third, none) it leaves three when the thing is not in it and one when it is: right in
1/4 + 3/4 x 1/3 = 1/2 of the questions.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sightling.world import changes
from sightling.world.changes import BY_COLOR, BY_SHAPE, DIRECTIONS, all_differ, named, reference, with_thing, without
from sightling.world.families.base import one, pick
from sightling.world.mentions import Mention
from sightling.world.scene import Scene
from sightling.world.scenes import sample_scene
from sightling.world.series import Puzzle, Setting

_ATTEMPTS = 200
"""How often a second picture is drawn anew before the first one is given up."""


def _order(scene: Scene, rng: Random) -> list[int]:
    indices = list(range(len(scene.things)))
    rng.shuffle(indices)
    return indices


# --- one change -------------------------------------------------------------------------------------------------


def _changes(scene: Scene, setting: Setting) -> dict[str, Scene] | None:
    """The scene after a change of each kind; ``None`` where one kind is impossible."""
    rng, spec = setting.rng, setting.spec
    found: dict[str, Scene] = {}
    for index in _order(scene, rng):
        if "color" not in found and (colors := changes.colors_for(scene, index, rng, spec)):
            found["color"] = with_thing(scene, pick(list(colors.values()), rng), index)
        elif "shape" not in found and (shapes := changes.shapes_for(scene, index, spec)):
            found["shape"] = with_thing(scene, pick(list(shapes.values()), rng), index)
        elif "place" not in found and (thing := changes.moved(scene, index, rng, spec)) is not None:
            found["place"] = with_thing(scene, thing, index)
    more = changes.newcomer(scene, rng, spec)
    if len(found) < 3 or more is None or len(scene.things) < 2:
        return None
    gone = without(scene, int(rng.random() * len(scene.things)))
    return {**found, "added": with_thing(scene, more), "removed": gone, "nothing": scene}


def change(scene: Scene, setting: Setting) -> Puzzle | None:
    """What changed: one of :data:`KINDS`."""
    changes = _changes(scene, setting)
    if changes is None:
        return None
    kinds = tuple(changes)
    kind = pick(kinds, setting.rng)
    return Puzzle((scene, changes[kind]), "change", kind, KINDS, KINDS)


KINDS = ("color", "shape", "place", "added", "removed", "nothing")


def same(scene: Scene, setting: Setting) -> Puzzle | None:
    """Whether there was a change at all."""
    changes = _changes(scene, setting)
    if changes is None:
        return None
    del changes["nothing"]
    changed = changes[pick(list(changes), setting.rng)]
    answer = pick(("yes", "no"), setting.rng)
    return Puzzle((scene, scene if answer == "yes" else changed), "same", answer, ("yes", "no"), ("yes", "no"))


# --- which thing ------------------------------------------------------------------------------------------------


def gone(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which thing of the first picture the second one lacks."""
    if len(scene.things) < 2 or not all_differ(scene):
        return None
    index = int(setting.rng.random() * len(scene.things))
    names = tuple(named(thing) for thing in scene.things)
    return Puzzle((scene, without(scene, index)), "gone", names[index], names, names)


def added(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which thing only the second picture has."""
    thing = changes.newcomer(scene, setting.rng, setting.spec)
    if thing is None:
        return None
    there = {(each.color, each.shape) for each in scene.things}
    options = [(color, shape) for color in setting.spec.colors for shape in setting.spec.shapes]
    names = tuple(Mention(color=color, shape=shape) for color, shape in options if (color, shape) not in there)
    return Puzzle((scene, with_thing(scene, thing)), "added", named(thing), names, ())


def moved(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which thing lies elsewhere in the second picture."""
    if len(scene.things) < 2 or not all_differ(scene):
        return None
    places = [changes.moved(scene, index, setting.rng, setting.spec) for index in range(len(scene.things))]
    index = int(setting.rng.random() * len(places))
    thing = places[index]
    if thing is None or None in places:
        return None
    names = tuple(named(each) for each in scene.things)
    return Puzzle((scene, with_thing(scene, thing, index)), "moved", names[index], names, names)


# --- what became of a thing -------------------------------------------------------------------------------------


def candidates(scene: Scene, setting: Setting) -> tuple[Scene, list[int]]:
    """(the scene, its things in the order in which they are to be tried as the one that moves straight).

    A thing that could go in any direction is rare, so in half of the scenes one is put near the middle, first in order
    and with one other thing at most to be in its way.
    """
    order = _order(scene, setting.rng)
    if setting.rng.random() < 0.5:
        kept = order[:2]
        scene = replace(scene, things=tuple(scene.things[index] for index in kept))
        order = [0, 1][: len(kept)]
        scene = changes.centred(scene, 0, setting.rng, setting.spec)
    return scene, order


def direction(scene: Scene, setting: Setting) -> Puzzle | None:
    """In which direction a thing went."""
    rng, spec = setting.rng, setting.spec
    scene, indices = candidates(scene, setting)
    for index in indices:
        said = reference(scene, index, BY_SHAPE, spec)
        if said is None:
            continue
        ways = {way: changes.shifted(scene, index, way, rng, spec) for way in DIRECTIONS}
        free = {way: thing for way, thing in ways.items() if thing is not None}
        for form, options in FREEDOMS.items():
            if all(way in free for way in options):
                answer = pick(options, rng)
                scenes = scene, with_thing(scene, free[answer], index)
                return Puzzle(scenes, form, answer, options, options, {"a": said})
    return None


FREEDOMS = {"any": ("left", "right", "up", "down"), "across": ("left", "right"), "upright": ("up", "down")}
"""Which directions a question about a direction leaves open, by its form; all that it leaves open are possible."""


def recolored(scene: Scene, setting: Setting) -> Puzzle | None:
    """What colour a thing took."""
    index = int(setting.rng.random() * len(scene.things))
    said = reference(scene, index, BY_SHAPE, setting.spec)
    found = changes.colors_for(scene, index, setting.rng, setting.spec)
    if said is None or len(found) < max(2, len(setting.spec.colors) // 2):
        return None
    color = pick(list(found), setting.rng)
    scenes = scene, with_thing(scene, found[color], index)
    return Puzzle(scenes, "color", color, tuple(found), setting.spec.colors, {"a": said})


def reshaped(scene: Scene, setting: Setting) -> Puzzle | None:
    """What shape a thing took."""
    index = int(setting.rng.random() * len(scene.things))
    said = reference(scene, index, BY_COLOR, setting.spec)
    found = changes.shapes_for(scene, index, setting.spec)
    if said is None or len(found) < max(2, len(setting.spec.shapes) // 2):
        return None
    shape = pick(list(found), setting.rng)
    scenes = scene, with_thing(scene, found[shape], index)
    return Puzzle(scenes, "shape", shape, tuple(found), setting.spec.shapes, {"a": said})


# --- which picture ----------------------------------------------------------------------------------------------


def _count(scene: Scene, attribute: str, value: str) -> int:
    return sum(getattr(thing, attribute) == value for thing in scene.things)


def more(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which picture has more things of a shape or a colour; the two have nothing else in common."""
    rng, spec = setting.rng, setting.spec
    attribute = pick(("shape", "color"), rng)
    values = sorted({getattr(thing, attribute) for thing in scene.things})
    value = pick(values, rng)
    here = _count(scene, attribute, value)
    if here >= spec.max_things:
        return None
    answer = pick(("first", "second"), rng)
    there = rng.randint(0, here - 1) if answer == "first" else rng.randint(here + 1, spec.max_things)
    other = _with_so_many(attribute, value, there, setting)
    both = ("first", "second")
    if other is None:
        return None
    return Puzzle((scene, other), "more", answer, both, both, {"a": one(attribute, value)})


def _with_so_many(attribute: str, value: str, count: int, setting: Setting) -> Scene | None:
    """A fresh scene with exactly ``count`` things of that value; things are changed until it is so."""
    rng, spec = setting.rng, setting.spec
    rest = [name for name in (spec.colors if attribute == "color" else spec.shapes) if name != value]
    for _ in range(_ATTEMPTS):
        scene = sample_scene(rng.getrandbits(48), spec)
        if len(scene.things) < count:
            continue
        for index in _order(scene, rng):
            excess = _count(scene, attribute, value) - count
            if excess == 0:
                return scene
            if (getattr(scene.things[index], attribute) == value) == (excess > 0):
                scene = _made(scene, index, attribute, pick(rest, rng) if excess > 0 else value, setting)
        if _count(scene, attribute, value) == count:
            return scene
    return None


def _made(scene: Scene, index: int, attribute: str, value: str, setting: Setting) -> Scene:
    """The scene with one thing's attribute changed, or as it was where that cannot be."""
    if attribute == "color":
        thing = changes.recolored(scene, index, value, setting.rng, setting.spec)
    else:
        thing = changes.reshaped(scene, index, value, setting.spec)
    return scene if thing is None else with_thing(scene, thing, index)


def which(scene: Scene, setting: Setting) -> Puzzle | None:
    """Which picture has a thing of a certain colour and shape; here the first one too is made for the answer."""
    rng, spec = setting.rng, setting.spec
    pictures = pick((2, 3), rng)
    target = Mention(color=pick(spec.colors, rng), shape=pick(spec.shapes, rng))
    options = PLACES[pictures]
    answer = pick(tuple(options), rng)
    scenes = []
    for number in range(pictures):
        made = _with_target(target, number in options[answer], setting)
        if made is None:
            return None
        scenes.append(made)
    names = tuple(options)
    return Puzzle(tuple(scenes), f"which of {pictures}", answer, names, names, {"a": target})


PLACES: dict[int, dict[str, tuple[int, ...]]] = {
    2: {"first": (0,), "second": (1,), "both": (0, 1), "none": ()},
    3: {"first": (0,), "second": (1,), "third": (2,), "none": ()},
}
"""By the number of pictures, in which of them the thing is for each answer."""


def _with_target(target: Mention, present: bool, setting: Setting) -> Scene | None:
    """A fresh scene with one such thing or none; half of the scenes also have things that share one attribute."""
    rng, spec = setting.rng, setting.spec
    assert target.color is not None and target.shape is not None
    for _ in range(_ATTEMPTS):
        scene = sample_scene(rng.getrandbits(48), spec)
        order = _order(scene, rng)
        if present:
            index = order.pop()
            scene = _made(_made(scene, index, "shape", target.shape, setting), index, "color", target.color, setting)
        if len(order) > 1 and rng.random() < 0.5:
            scene = _made(scene, order[0], "color", target.color, setting)
            scene = _made(scene, order[1], "shape", target.shape, setting)
        here = sum((thing.color, thing.shape) == (target.color, target.shape) for thing in scene.things)
        if here == present:
            return scene
    return None
