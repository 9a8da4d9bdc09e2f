"""One change to a scene: a thing takes another colour, shape or place, comes or goes.

Every function gives the changed thing, or what can take its place, or ``None`` where the scene leaves no room; the
scene itself is a value and stays as it is. Nothing else of the picture changes, not even a pixel's noise.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from random import Random

from sightling.world.colors import distance, jittered, mix
from sightling.world.families.base import View
from sightling.world.lexicon import RGB
from sightling.world.mentions import Mention
from sightling.world.outlines import ROUND, extent, scale_of
from sightling.world.scene import Scene, Thing
from sightling.world.scenes import CONTRAST, SceneSpec, sample_scene

FAR = 0.3
"""How far a thing moves at least, as a fraction of the shorter side: more than a large thing's radius."""

STEP = (0.2, 0.4)
"""How far a thing moves straight in one direction, likewise."""

TRIES = 40
"""How many places are tried for a thing."""

DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Steps along x and y, which grow to the right and downwards."""

BY_SHAPE = (("shape",), ("color", "shape"))
BY_COLOR = (("color",), ("color", "shape"))


def named(thing: Thing) -> Mention:
    """A thing by its colour and shape, as answers name it: "red star"."""
    return Mention(color=thing.color, shape=thing.shape)


def alike(one: Thing, other: Thing) -> bool:
    """Whether two things have one name."""
    return (one.color, one.shape) == (other.color, other.shape)


def all_differ(scene: Scene) -> bool:
    """Whether each thing of the scene has a name of its own."""
    return len({(thing.color, thing.shape) for thing in scene.things}) == len(scene.things)


def without(scene: Scene, index: int) -> Scene:
    """The scene with one thing gone."""
    return replace(scene, things=scene.things[:index] + scene.things[index + 1 :])


def with_thing(scene: Scene, thing: Thing, index: int | None = None) -> Scene:
    """The scene with one thing more, painted last, or in the place of thing ``index``."""
    things = list(scene.things)
    if index is None:
        things.append(thing)
    else:
        things[index] = thing
    return replace(scene, things=tuple(things))


Box = tuple[float, float, float, float]


class Room:
    """Where in a scene a thing can lie: within the margin, and clear of every other thing by the spec's gap.

    Args:
        scene: what is there.
        spec: gap and margin.
        index: a thing that does not count, because it is the one that changes.
    """

    def __init__(self, scene: Scene, spec: SceneSpec, index: int | None = None) -> None:
        self.width, self.height = max(scene.aspect, 1.0), max(1 / scene.aspect, 1.0)
        self.gap, self.margin = spec.gap, spec.margin
        self.boxes = [self._box(thing) for number, thing in enumerate(scene.things) if number != index]

    def _box(self, thing: Thing) -> Box:
        """The bounding box in units of the shorter side."""
        left, top, right, bottom = (thing.radius * side for side in extent(thing.shape, thing.glyph, thing.angle))
        x, y = thing.x * self.width, thing.y * self.height
        return x + left, y + top, x + right, y + bottom

    def fits(self, thing: Thing) -> bool:
        """Whether the thing can lie where it is."""
        left, top, right, bottom = self._box(thing)
        within = min(left, top, self.width - right, self.height - bottom) >= self.margin
        return within and all(
            max(left - box[2], box[0] - right, top - box[3], box[1] - bottom) >= self.gap for box in self.boxes
        )

    def anywhere(self, thing: Thing, rng: Random) -> Thing:
        """The thing at a place drawn evenly within the margin, whatever else is there."""
        left, top, right, bottom = (thing.radius * side for side in extent(thing.shape, thing.glyph, thing.angle))
        x = rng.uniform(self.margin - left, self.width - self.margin - right) / self.width
        y = rng.uniform(self.margin - top, self.height - self.margin - bottom) / self.height
        return replace(thing, x=round(x, 4), y=round(y, 4))

    def apart(self, one: Thing, other: Thing) -> float:
        """The distance of two centres in units of the shorter side."""
        return math.hypot((one.x - other.x) * self.width, (one.y - other.y) * self.height)


def reference(scene: Scene, index: int, ways: tuple[tuple[str, ...], ...], spec: SceneSpec) -> Mention | None:
    """The first of the ``ways`` to name a thing that fits no other thing of the scene."""
    view = View(scene, spec, Random(0))
    for way in ways:
        found = view.mention(index, way)
        if found is not None:
            return found
    return None


# --- colour and shape -------------------------------------------------------------------------------------------


def stands_out(shade: RGB, scene: Scene) -> bool:
    """Whether a colour contrasts with both colours of the scene's ground and with their middle."""
    ground = scene.background
    grounds = (ground.first, ground.second, mix(ground.first, ground.second, 0.5))
    return min(distance(shade, each) for each in grounds) >= CONTRAST


def recolored(
    scene: Scene, index: int, color: str, rng: Random, spec: SceneSpec, room: Room | None = None
) -> Thing | None:
    """The thing in another colour; ``None`` where that would not stand out, or the thing touches another."""
    changed = replace(scene.things[index], color=color, shade=jittered(color, rng))
    room = room or Room(scene, spec, index)
    return changed if stands_out(changed.shade, scene) and room.fits(changed) else None


def reshaped(scene: Scene, index: int, shape: str, spec: SceneSpec, room: Room | None = None) -> Thing | None:
    """The thing in another shape of as much ink; ``None`` where there is no room for it."""
    thing = scene.things[index]
    radius = round(thing.radius / scale_of(thing.shape) * scale_of(shape), 4)
    changed = replace(thing, shape=shape, radius=radius, angle=0.0 if shape in ROUND else thing.angle)
    return changed if (room or Room(scene, spec, index)).fits(changed) else None


def colors_for(scene: Scene, index: int, rng: Random, spec: SceneSpec) -> dict[str, Thing]:
    """Every other colour that the thing can take, with the thing in it."""
    room = Room(scene, spec, index)
    found = {color: recolored(scene, index, color, rng, spec, room) for color in spec.colors}
    own = scene.things[index].color
    return {color: thing for color, thing in found.items() if thing is not None and color != own}


def shapes_for(scene: Scene, index: int, spec: SceneSpec) -> dict[str, Thing]:
    """Every other shape that the thing can take, with the thing in it."""
    room = Room(scene, spec, index)
    found = {shape: reshaped(scene, index, shape, spec, room) for shape in spec.shapes}
    own = scene.things[index].shape
    return {shape: thing for shape, thing in found.items() if thing is not None and shape != own}


# --- place ------------------------------------------------------------------------------------------------------


def moved(scene: Scene, index: int, rng: Random, spec: SceneSpec) -> Thing | None:
    """The thing at another place, at least :data:`FAR` away."""
    thing, room = scene.things[index], Room(scene, spec, index)
    for _ in range(TRIES):
        changed = room.anywhere(thing, rng)
        if room.apart(thing, changed) >= FAR and room.fits(changed):
            return changed
    return None


def shifted(scene: Scene, index: int, direction: str, rng: Random, spec: SceneSpec) -> Thing | None:
    """The thing moved straight in one of the :data:`DIRECTIONS` by a :data:`STEP`."""
    across, down = DIRECTIONS[direction]
    thing, room = scene.things[index], Room(scene, spec, index)
    for _ in range(TRIES // 5):
        step = rng.uniform(*STEP)
        x, y = round(thing.x + across * step / room.width, 4), round(thing.y + down * step / room.height, 4)
        changed = replace(thing, x=x, y=y)
        if room.fits(changed):
            return changed
    return None


def centred(scene: Scene, index: int, rng: Random, spec: SceneSpec) -> Scene:
    """The scene with a thing put near the middle, or as it was where there is no room."""
    room = Room(scene, spec, index)
    for _ in range(TRIES // 5):
        x, y = (round(rng.uniform(0.45, 0.55), 4) for _ in range(2))
        changed = replace(scene.things[index], x=x, y=y)
        if room.fits(changed):
            return with_thing(scene, changed, index)
    return scene


# --- one thing more ---------------------------------------------------------------------------------------------


def newcomer(scene: Scene, rng: Random, spec: SceneSpec, *, small: bool = False) -> Thing | None:
    """One more thing of the spec that stands out and is named unlike every thing that is there.

    ``small`` asks for a small one where the spec has such, for scenes that are to take several.
    """
    thing = sample_scene(rng.getrandbits(48), alone(spec, small)).things[0]
    if any(alike(thing, other) for other in scene.things) or not stands_out(thing.shade, scene):
        return None
    room = Room(scene, spec)
    for _ in range(TRIES):
        found = room.anywhere(thing, rng)
        if room.fits(found):
            return found
    return None


@lru_cache(maxsize=8)
def alone(spec: SceneSpec, small: bool) -> SceneSpec:
    """The specification of one thing of that kind, on a plain ground for speed."""
    sizes = ("small",) if small and "small" in spec.sizes else spec.sizes
    return replace(spec, min_things=1, max_things=1, backgrounds=("plain",), sizes=sizes)
