"""How true a caption is: which things it names rightly, which it makes up, which it leaves out.

Counting named things that are not in the picture is the measure of Rohrbach et al., "Object Hallucination in Image
Captioning" (CHAIR), EMNLP 2018; here the truth is exact, so attributes count too.
"""

from __future__ import annotations

from dataclasses import dataclass

from sightling.world.facts import facts_of
from sightling.world.mentions import Description
from sightling.world.parse import parse
from sightling.world.scene import Scene
from sightling.world.spec import MOST_THINGS


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """Counts of things; add the counts of many captions before dividing.

    Attributes:
        named: things that the caption names ("two red circles" are two).
        right: of these, things that are in the scene as they are called.
        absent: of these, things that are not; ``named - right``.
        missed: things of the scene that are not rightly named.
    """

    named: int
    right: int
    absent: int
    missed: int


def score_caption(text: str, scene: Scene, language: str) -> CaptionScore:
    """Compare a caption with the truth by the best matching of what it names to the scene's things.

    A thing is rightly named when it agrees with all that its mention states: a small red circle called "a red circle"
    is right, called "a large red circle" it is not, and then it is both absent and missed. No thing is matched twice.
    "Things" of which nothing is said, and denials ("no red circle"), name nothing. A mention names at most
    ``MOST_THINGS`` things, or as many as the scene has, so that one "9999 circles" does not drown a thousand captions.

    Raises:
        ValueError: an unknown language.
    """
    return score_description(parse(text, language), scene)


def score_description(said: Description, scene: Scene) -> CaptionScore:
    """As :func:`score_caption`, of a text that was read already."""
    facts = facts_of(scene)
    named = 0
    owner: dict[int, int] = {}  # thing -> which naming it is matched to
    fitting: list[list[int]] = []
    for mention in said.mentions:
        if not mention.stated():
            continue
        fits = [index for index, fact in enumerate(facts) if mention.fits(fact)]
        count = min(mention.count, max(MOST_THINGS, len(facts)))
        named += count
        fitting.extend([fits] * count)

    def place(naming: int, tried: set[int]) -> bool:
        """Find a thing for a naming, moving others aside where that helps (Kuhn's augmenting paths)."""
        for thing in fitting[naming]:
            if thing not in tried:
                tried.add(thing)
                if thing not in owner or place(owner[thing], tried):
                    owner[thing] = naming
                    return True
        return False

    right = sum(place(naming, set()) for naming in range(len(fitting)))
    return CaptionScore(named, right, named - right, len(facts) - right)
