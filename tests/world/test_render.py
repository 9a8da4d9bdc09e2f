from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightling.errors import UserError
from sightling.world import lexicon
from sightling.world.colors import middle, nearest_color
from sightling.world.outlines import OUTLINES, scale_of
from sightling.world.render import boxes, masks, picture_shape, render
from sightling.world.scene import Background, Scene, Thing
from sightling.world.scenes import SceneSpec, sample_scene

WHITE = Background("plain", (255, 255, 255), (255, 255, 255), 0)
SHAPES = sorted(OUTLINES)


def thing(shape: str = "circle", color: str = "red", x: float = 0.5, y: float = 0.5, radius: float = 0.2,
          angle: float = 0.0, texture: str = "plain", glyph: str = "") -> Thing:  # fmt: skip
    return Thing(shape, color, "large", texture, x, y, radius, angle, middle(color), glyph)


def alone(one: Thing, aspect: float = 1.0) -> Scene:
    return Scene((one,), WHITE, aspect)


def assert_box_fits(one: Thing, size: int, aspect: float = 1.0) -> None:
    scene = alone(one, aspect)
    # Every pixel that is touched, for the last pixels of a sharp tip are covered by less than half.
    rows, columns = np.nonzero((np.asarray(render(scene, size)) < 255).any(axis=2))
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(drawn, boxes(scene, size)[0])).max() <= 1.0


# --- boxes and masks ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [-12.0, 0.0, 7.0])
def test_boxes_are_those_of_the_drawn_outline(shape: str, angle: float) -> None:
    assert_box_fits(thing(shape, x=0.431, y=0.613, angle=angle), 1024)


@pytest.mark.parametrize("glyph", lexicon.GLYPHS)
def test_boxes_of_letters_are_those_of_their_ink(glyph: str) -> None:
    assert_box_fits(thing("letter", x=0.431, y=0.613, angle=-9.0, glyph=glyph), 512)


@given(st.sampled_from(SHAPES), st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.floats(0.1, 0.25), st.integers(-12, 12),
       st.sampled_from([0.5, 0.8, 1.0, 1.7]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_boxes_hold_anywhere_at_any_aspect(
    shape: str, x: float, y: float, radius: float, angle: int, aspect: float
) -> None:
    assert_box_fits(thing(shape, x=x, y=y, radius=radius, angle=float(angle)), 500, aspect)


def test_boxes_grow_with_the_picture() -> None:
    scene = sample_scene(4, SceneSpec(min_things=4, letters=0.2))
    assert np.allclose(np.array(boxes(scene, 64)) * 8, boxes(scene, 512))


def test_a_box_ends_where_the_picture_ends() -> None:
    assert boxes(alone(thing("square", x=0.05, y=0.98)), 100)[0] == pytest.approx((0, 78, 25, 100))


@pytest.mark.parametrize("shape", SHAPES)
def test_all_shapes_have_the_ink_of_a_disc(shape: str) -> None:
    radius = 0.2
    mask = masks(alone(thing(shape, radius=radius * scale_of(shape))), 512)[0]
    assert mask.sum() == pytest.approx(np.pi * (radius * 512) ** 2, rel=0.02)


def test_later_things_hide_earlier_ones() -> None:
    below, above = thing("square", "red", x=0.45), thing("circle", "blue", x=0.55)
    both = masks(Scene((below, above), WHITE), 128)
    single = [masks(alone(one), 128)[0] for one in (below, above)]
    assert (both[1] == single[1]).all()
    assert (both[0] == (single[0] & ~single[1])).all()
    assert (single[0] & single[1]).any()


def test_masks_say_what_is_seen() -> None:
    for seed in range(10):
        scene = sample_scene(seed, SceneSpec(min_things=3, textured=0.0, letters=0.2))
        pixels = np.asarray(render(scene, 200)).astype(int)
        shown = masks(scene, 200)
        assert shown.sum(axis=0).max() <= 1
        for one, mask in zip(scene.things, shown):
            # All but the edge's mixed pixels have the very shade.
            same = (np.abs(pixels[mask] - one.shade).max(axis=1) <= 2).mean()
            assert same > 0.75


def test_masks_of_a_scene_without_things_are_empty() -> None:
    assert masks(Scene((), WHITE), 32).shape == (0, 32, 32)


# --- pictures ---


@pytest.mark.parametrize(("aspect", "size", "expected"), [(1.0, 16, (16, 16)), (2.0, 64, (128, 64)),
                                                          (0.5, 64, (64, 128)), (1.0, 2048, (2048, 2048))])  # fmt: skip
def test_the_size_is_that_of_the_shorter_side(aspect: float, size: int, expected: tuple[int, int]) -> None:
    picture = render(alone(thing("heart", texture="striped"), aspect), size)
    assert picture.mode == "RGB" and picture.size == expected


@pytest.mark.parametrize("size", [0, 15, 2049, -3])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError, match="between 16 and 2048"):
        render(alone(thing()), size)


def test_equal_scenes_give_equal_bytes() -> None:
    spec = SceneSpec(letters=0.2, textured=0.5, max_aspect=2.0)
    first = [render(sample_scene(seed, spec)).tobytes() for seed in range(20)]
    assert first == [render(sample_scene(seed, spec)).tobytes() for seed in reversed(range(20))][::-1]
    assert len(set(first)) == 20


def test_edges_are_smooth() -> None:
    pixels = np.asarray(render(alone(thing("circle", "black")), 64)).astype(int)[..., 0]
    steps = np.unique(pixels)
    assert len(steps) > 8 and steps[0] == middle("black")[0] and steps[-1] == 255


@pytest.mark.parametrize("shape", SHAPES)
def test_a_small_picture_is_the_large_one_made_small(shape: str) -> None:
    scene = alone(thing(shape, "blue", x=0.47, y=0.52, radius=0.25, angle=5.0))
    small = np.asarray(render(scene, 64)).astype(float)
    large = np.asarray(render(scene, 512).reduce(8)).astype(float)
    assert np.abs(small - large).mean() < 0.4
    assert np.abs(small - large).max() < 40


@pytest.mark.parametrize("kind", sorted(lexicon.BACKGROUNDS))
@pytest.mark.parametrize("seed", range(5))
def test_backgrounds_lie_between_their_two_colors(kind: str, seed: int) -> None:
    first, second = (200, 180, 160), (170, 190, 150)
    for size, aspect in ((16, 1.0), (64, 1.5), (300, 0.7)):
        scene = Scene((), Background(kind, first, second, seed), aspect)
        picture = render(scene, size)
        assert picture.size == picture_shape(scene, size)
        pixels = np.asarray(picture).reshape(-1, 3)
        low, high = np.minimum(first, second) - 1, np.maximum(first, second) + 1
        assert (pixels >= low).all() and (pixels <= high).all()
        assert (pixels.max(axis=0) > pixels.min(axis=0)).any() == (kind != "plain")


@pytest.mark.parametrize("texture", sorted(lexicon.TEXTURES))
@pytest.mark.parametrize("color", sorted(lexicon.COLORS))
def test_a_textured_thing_keeps_its_color(texture: str, color: str) -> None:
    one = thing("square", color, texture=texture)
    pixels = np.asarray(render(alone(one), 256)).reshape(256, 256, 3)[masks(alone(one), 256)[0]]
    own = (np.abs(pixels.astype(int) - one.shade).max(axis=1) <= 3).mean()
    assert own > 0.95 if texture == "plain" else 0.5 < own < 0.9
    # And seen from afar, where the texture blurs, the name is still the nearest.
    red, green, blue = (round(value) for value in pixels.mean(axis=0).tolist())
    assert nearest_color((red, green, blue)) == color


def test_textures_differ() -> None:
    pictures = {render(alone(thing("square", texture=texture)), 64).tobytes() for texture in lexicon.TEXTURES}
    assert len(pictures) == len(lexicon.TEXTURES)


def test_turning_goes_counter_clockwise() -> None:
    arrow = thing("arrow", "black", angle=12.0)
    rows, columns = np.nonzero(masks(alone(arrow), 256)[0])
    assert rows[columns == columns.max()].mean() < 127
    letter = thing("letter", "black", angle=12.0, glyph="T")
    left, _, right, bottom = boxes(alone(letter), 256)[0]
    foot = np.nonzero(masks(alone(letter), 256)[0])[1][np.nonzero(masks(alone(letter), 256)[0])[0] > bottom - 6]
    assert foot.mean() > 128 and left < 128 < right


def test_every_letter_is_told_from_every_other() -> None:
    def ink(glyph: str, angle: float) -> np.ndarray:
        return np.asarray(render(alone(thing("letter", "black", glyph=glyph, angle=angle)), 64).convert("L")) < 128

    upright = {glyph: ink(glyph, 0.0) for glyph in lexicon.GLYPHS}
    for glyph in lexicon.GLYPHS:
        turned = ink(glyph, 4.0)
        assert turned.any()
        assert min(upright, key=lambda other: (upright[other] ^ turned).sum()) == glyph


def test_the_picture_is_the_callers_to_change() -> None:
    scene = sample_scene(1, SceneSpec(backgrounds=("plain",)))
    first = render(scene)
    kept = first.tobytes()
    first.paste((0, 0, 0), (0, 0, 64, 64))
    again = render(scene)
    assert again.tobytes() == kept and isinstance(again, Image.Image)
