from __future__ import annotations

import io
import random
import threading
from pathlib import Path

import numpy as np
import pytest
from makers import encoded, huge_png, picture
from PIL import Image

from sightling.data.pictures import MAX_PIXELS, open_picture, picture_size
from sightling.data.sample import Picture, Sample, Turn, question
from sightling.errors import UserError


def quarters() -> Image.Image:
    """Four colours, so that every turn of the picture differs."""
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:4, :8], pixels[:4, 8:], pixels[4:, :8], pixels[4:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_size_says_so(kind: str, orientation: int) -> None:
    # What a camera stores for a picture that should look like quarters(), by the EXIF standard.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(quarters()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, kind, exif=exif, **lossless)
    shown = open_picture(io.BytesIO(buffer.getvalue()), "it")
    assert np.array_equal(np.asarray(shown), np.asarray(quarters()))
    assert picture_size(io.BytesIO(buffer.getvalue()), "it") == (16, 8)
    # The same handed over in memory, and what was turned is not turned again.
    for held in (Picture(image=Image.open(io.BytesIO(buffer.getvalue()))), Picture(image=shown)):
        assert held.size() == (16, 8)
        assert np.array_equal(np.asarray(held.load()), np.asarray(quarters()))


def test_the_size_of_a_png_is_read_without_its_pixels() -> None:
    whole = encoded((40, 30), kind="PNG")
    # The pixels are cut away; the header is still there.
    assert picture_size(io.BytesIO(whole[: whole.index(b"IDAT") + 8]), "it") == (40, 30)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_transparency_lies_over_white(mode: str, color: object, expected: tuple[int, int, int]) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (3, 3), color).save(buffer, "PNG")
    assert open_picture(io.BytesIO(buffer.getvalue()), "it").getpixel((1, 1)) == expected
    assert Picture(image=Image.new(mode, (3, 3), color)).load().getpixel((1, 1)) == expected


@pytest.mark.parametrize(
    ("mode", "kind", "value", "told", "expected"),
    [
        ("CMYK", "JPEG", (0, 255, 255, 0), {"quality": 100}, (254, 0, 0)),
        ("CMYK", "TIFF", (0, 255, 255, 0), {}, (255, 0, 0)),
        ("P", "PNG", 0, {}, (9, 8, 7)),
        ("P", "PNG", 0, {"transparency": 0}, (255, 255, 255)),
        ("P", "PNG", 0, {"transparency": bytes([0, 255])}, (255, 255, 255)),
        ("P", "GIF", 0, {"transparency": 0}, (255, 255, 255)),
        ("L", "PNG", 70, {"transparency": 70}, (255, 255, 255)),
        ("1", "PNG", 0, {"transparency": 0}, (255, 255, 255)),
        ("1", "TIFF", 0, {}, (0, 0, 0)),
        ("I;16", "PNG", 257 * 70, {"transparency": 257 * 70}, (255, 255, 255)),
        ("I;16", "PNG", 257 * 70, {"transparency": 5}, (70, 70, 70)),
        ("YCbCr", "JPEG", (70, 128, 128), {}, (70, 70, 70)),
        ("LAB", "TIFF", (255, 128, 128), {}, None),
    ],
)
def test_every_kind_of_pixel_is_shown_as_a_viewer_shows_it_or_refused(
    mode: str, kind: str, value: object, told: dict[str, object], expected: tuple[int, int, int] | None
) -> None:
    image, buffer = Image.new(mode, (9, 8), value), io.BytesIO()
    if mode == "P":
        image.putpalette([9, 8, 7, 1, 2, 3])
    image.save(buffer, kind, **told)
    try:
        shown = open_picture(io.BytesIO(buffer.getvalue()), "it")
    except UserError as error:
        assert expected is None and "\n" not in str(error)
        return
    assert shown.mode == "RGB" and shown.size == (9, 8)
    if expected is not None:
        assert max(abs(one - other) for one, other in zip(shown.getpixel((4, 4)), expected)) <= 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_the_picture(kind: str) -> None:
    frames, buffer = [Image.new("RGB", (16, 16), (0, 0, 90 * number)) for number in range(3)], io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert max(open_picture(io.BytesIO(buffer.getvalue()), "it").getpixel((8, 8))) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_planned_upright(orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (90, 30)).save(buffer, "JPEG", exif=exif)
    shown = Picture(data=buffer.getvalue())
    assert shown.size() == shown.load().size == ((30, 90) if orientation > 4 else (90, 30))


def test_a_transparent_colour_of_rgb_lies_over_white() -> None:
    data = encoded((2, 2), (9, 8, 7), "PNG", transparency=(9, 8, 7))
    assert open_picture(io.BytesIO(data), "it").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint16, "PNG"), (np.int32, "TIFF"), (np.float32, "TIFF")])
def test_wide_greys_become_8_bits(dtype: type, kind: str) -> None:
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    seen = np.asarray(open_picture(io.BytesIO(buffer.getvalue()), "it"))[..., 0]
    assert np.abs(seen - values / 257).max() <= 0.5


def test_floating_point_without_numbers_is_read() -> None:
    values = np.array([[np.nan, 1.0], [3.0, np.inf]], dtype=np.float32)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    seen = np.asarray(open_picture(io.BytesIO(buffer.getvalue()), "it"))[..., 0]
    assert seen.tolist() == [[0, 0], [255, 255]]


def test_60000_by_60000_declared_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = huge_png(tmp_path / "huge.png")
    for look in (open_picture, picture_size):
        with pytest.raises(UserError, match=r"huge\.png declares 60000 x 60000 pixels; the limit is 100,000,000"):
            look(path, str(path))
    # A picture just under the limit passes the header check; Pillow's own, lower, limit is not in the way.
    assert picture_size(huge_png(tmp_path / "big.png", 10_000, 10_000), "it") == (10_000, 10_000)
    assert (Image.MAX_IMAGE_PIXELS or 0) < MAX_PIXELS


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am a text\n")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.jpg").write_bytes(encoded((200, 200))[:900])
    (tmp_path / "folder.png").mkdir()
    expected = {
        "missing.png": "does not exist",
        "text.png": "is not a picture in a known format",
        "empty.png": "is not a picture in a known format",
        "half.jpg": "is corrupt: ",
        "folder.png": "is a folder, not a file",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=f"picture {tmp_path / name} {message}"):
            Picture(path=tmp_path / name).load()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP"])
def test_a_damaged_picture_is_a_user_error_or_a_picture_of_the_size_told(kind: str) -> None:
    rng = random.Random(0)
    whole = encoded((20, 10), kind=kind)
    for number in range(60):
        damaged = bytearray(whole)
        if number % 2:
            damaged = damaged[: rng.randrange(len(damaged))]
        for _ in range(rng.choice([0, 1, 4])):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            size = open_picture(io.BytesIO(bytes(damaged)), "it").size
        except UserError:
            continue
        assert picture_size(io.BytesIO(bytes(damaged)), "it") == size


def test_pillows_own_limit_is_put_back_with_many_threads(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = picture(tmp_path / "a.png")
    threads = [threading.Thread(target=lambda: [picture_size(path, "it") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


# ---- Picture, Turn, Sample


def test_a_picture_has_exactly_one_origin() -> None:
    with pytest.raises(ValueError, match="exactly one of path, data, image; 0 were given"):
        Picture()
    with pytest.raises(ValueError, match="2 were given"):
        Picture(data=b"", image=quarters())


def test_path_bytes_and_memory_give_the_same_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (6, 5))
    ways = [Picture(path=path), Picture(data=path.read_bytes()), Picture(image=Image.open(path))]
    assert {way.load().tobytes() for way in ways} == {ways[0].load().tobytes()}
    assert {way.size() for way in ways} == {(6, 5)}
    assert ways[0].key() == ways[1].key()


def test_a_box_is_cropped_and_belongs_to_the_key() -> None:
    whole = Picture(image=quarters())
    box = Picture(image=quarters(), box=(8, 0, 16, 4))
    assert box.size() == box.load().size == (8, 4)
    assert box.load().getpixel((0, 0)) == (0, 255, 0)
    assert whole.key() != box.key()
    assert whole.key() == Picture(image=quarters()).key()


@pytest.mark.parametrize("box", [(0, 0, 17, 8), (-1, 0, 4, 4), (4, 4, 4, 8), (0, 5, 4, 3)])
def test_a_box_outside_the_picture_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="does not lie within picture <image in memory> of 16 x 8"):
        Picture(image=quarters(), box=box).load()


def test_pictures_that_only_their_palettes_tell_apart_have_keys_of_their_own() -> None:
    one, two = (Image.new("P", (4, 4)) for _ in range(2))
    one.putpalette([255, 0, 0])
    two.putpalette([0, 0, 255])
    assert one.tobytes() == two.tobytes()
    assert Picture(image=one).key() != Picture(image=two).key() == Picture(image=two.convert("RGB")).key()


def test_the_key_of_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Picture(path=tmp_path / "a.png").key()


def test_pictures_are_compared_by_identity() -> None:
    image = quarters()
    assert Picture(image=image) != Picture(image=image)


def test_question_and_answer() -> None:
    shown = Picture(image=quarters())
    sample = question("which?", shown, answer="red", family="color")
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]
    assert list(sample.pictures()) == [shown]
    assert (sample.turns[0].text, sample.answer, sample.meta) == ("which?", "red", {"family": "color"})
    assert question("which?").answer == ""
    assert Sample((Turn("user", ("a", shown, "b")),)).turns[0].text == "ab"
