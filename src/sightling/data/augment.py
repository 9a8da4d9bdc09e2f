"""Random changes of a picture that keep its answer: what a few pictures teach, from many sides.

Everything is drawn from the generator given, so an item's picture is the same in every worker and
after every resume. Transparent pictures are laid on a random ground when ``background`` says so.
"""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageEnhance
from pydantic import Field, field_validator

from sightling.data.pictures import WHITE
from sightling.data.sample import Picture
from sightling.errors import UserError
from sightling.parts import Part


class Augment(Part):
    """How a picture may be changed, each time it is seen.

    Attributes:
        flip: chance of a mirror image (only where left and right do not matter to the answers).
        rotate: turned by up to this many degrees either way.
        scale: [smallest, largest] size of the picture's content relative to the frame.
        shift: moved by up to this fraction of the side.
        brightness, contrast, saturation: changed by up to this fraction.
        hue: turned by up to this fraction of the colour circle.
        background: transparent pictures are laid on a random colour; otherwise on white.
    """

    flip: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=180)
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = Field(default=0.0, ge=0, le=0.5)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    background: bool = False

    @field_validator("scale")
    @classmethod
    def _scale(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 4:
            raise ValueError("scale is [smallest, largest], both between 0.1 and 4")
        return value

    def __call__(self, picture: Picture, rng: Random) -> Picture:
        """A changed copy, decoded; the original is untouched. What others say of the picture stays as it is.

        Raises:
            UserError: boxes that others told would no longer be where the things are.
        """
        moves = self.flip or self.rotate or self.shift or self.scale != (1.0, 1.0)
        if moves and picture.notes is not None and picture.notes.boxes:
            raise UserError("augment moves things, but the boxes in the pictures' notes would stay; leave them out")
        ground = (rng.randrange(256), rng.randrange(256), rng.randrange(256)) if self.background else WHITE
        image = self._moved(picture.load(ground), ground, rng)
        return Picture(image=self._colored(image, rng), notes=picture.notes)

    def _moved(self, image: Image.Image, ground: tuple[int, int, int], rng: Random) -> Image.Image:
        width, height = image.size
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        scale = rng.uniform(*self.scale)
        mirror = -1.0 if rng.random() < self.flip else 1.0
        shift_x, shift_y = (rng.uniform(-self.shift, self.shift) * side for side in (width, height))
        if (angle, scale, mirror, shift_x, shift_y) == (0.0, 1.0, 1.0, 0.0, 0.0):
            return image
        # Pillow wants the way back: from a place in the new picture to one in the old.
        cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
        a, b = mirror * cosine, mirror * sine
        d, e = -sine, cosine
        middle_x, middle_y = width / 2, height / 2
        c = middle_x - a * (middle_x + shift_x) - b * (middle_y + shift_y)
        f = middle_y - d * (middle_x + shift_x) - e * (middle_y + shift_y)
        back = (a, b, c, d, e, f)
        return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=ground)

    def _colored(self, image: Image.Image, rng: Random) -> Image.Image:
        for strength, change in (
            (self.brightness, ImageEnhance.Brightness),
            (self.contrast, ImageEnhance.Contrast),
            (self.saturation, ImageEnhance.Color),
        ):
            if strength:
                image = change(image).enhance(rng.uniform(1 - strength, 1 + strength))
        if self.hue:
            hue, saturation, value = image.convert("HSV").split()
            turn = round(rng.uniform(-self.hue, self.hue) * 255)
            hue = hue.point([(level + turn) % 256 for level in range(256)])
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image
