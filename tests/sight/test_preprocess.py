from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from kit import noise
from sightling.data.sample import Picture
from sightling.parts import make
from sightling.sight.encoders import STATISTICS, Encoder, EncoderOptions, tower_config
from sightling.sight.preprocess import to_pixels
from sightling.sight.tiling import TILINGS

SIZES = [(64, 64), (100, 37), (31, 200), (7, 5), (640, 480), (1, 1), (64, 20)]


def tiles(image: Image.Image, fit: str, side: int = 64, **told: object) -> torch.Tensor:
    plan = make(TILINGS, {"type": "single", "fit": fit}, "tiling").plan(*image.size, side)
    return to_pixels(image, plan, **told)  # type: ignore[arg-type]


def normaliser(kind: str, **options: object) -> Encoder:
    config = tower_config({"type": kind, "image_size": 64, "patch_size": 32, "hidden_size": 16, "num_hidden_layers": 1,
                           "num_attention_heads": 1})  # fmt: skip
    return Encoder(config, EncoderOptions.model_validate(options))


@pytest.mark.parametrize("size", SIZES)
def test_stretched_and_normalised_as_transformers_does_for_siglip(size: tuple[int, int]) -> None:
    image = noise(*size, seed=sum(size))
    reference = SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=Image.Resampling.BICUBIC)
    theirs = torch.as_tensor(np.stack(reference(image)["pixel_values"]))
    pixels = tiles(image, "stretch")
    assert pixels.dtype == torch.uint8 and pixels.shape == (1, 3, 64, 64)
    torch.testing.assert_close(normaliser("siglip").normalise(pixels), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (80, 64), (64, 100)])
def test_cropped_and_normalised_as_transformers_does_for_clip(size: tuple[int, int]) -> None:
    # The shorter side has the tower's size already: CLIP scales before it crops, which rounds otherwise.
    image = noise(*size, seed=1)
    reference = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    theirs = torch.as_tensor(np.stack(reference(image)["pixel_values"]))
    torch.testing.assert_close(normaliser("clip").normalise(tiles(image, "crop")), theirs, atol=1e-5, rtol=0)


def test_bilinear_is_as_transformers_does_it() -> None:
    image = noise(100, 37)
    reference = SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=Image.Resampling.BILINEAR)
    theirs = torch.as_tensor(np.stack(reference(image)["pixel_values"]))
    ours = normaliser("siglip").normalise(tiles(image, "stretch", resample="bilinear"))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_what_the_picture_does_not_cover_is_filled() -> None:
    red = Image.new("RGB", (40, 10), (250, 0, 0))
    letterbox = tiles(red, "letterbox", 40)[0].permute(1, 2, 0)
    padded = tiles(red, "pad", 40, fill=(1, 2, 3))[0].permute(1, 2, 0)
    cropped = tiles(red, "crop", 40)[0].permute(1, 2, 0)
    assert (letterbox[15:25] == torch.tensor([250, 0, 0])).all()
    assert (letterbox[:15] == 127).all() and (letterbox[25:] == 127).all()
    assert (padded[:10] == torch.tensor([250, 0, 0])).all() and (padded[10:] == torch.tensor([1, 2, 3])).all()
    assert (cropped == torch.tensor([250, 0, 0])).all()


def test_a_crop_takes_nothing_of_what_lies_beside_it() -> None:
    picture = Image.new("RGB", (30, 10), (0, 0, 0))
    picture.paste((255, 255, 255), (10, 0, 20, 10))
    assert (tiles(picture, "crop", 64) == 255).all()


def test_each_channel_is_normalised_with_its_own_numbers() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for name, statistics in STATISTICS.items():
        ours = normaliser("siglip", normalise=name).normalise(pixels)
        for channel in range(3):
            expected = (torch.arange(256) / 255 - statistics.mean[channel]) / statistics.std[channel]
            torch.testing.assert_close(ours[0, channel].flatten(), expected, atol=1e-6, rtol=1e-6)


def coloured(mode: str) -> tuple[Image.Image, str]:
    """A 12 x 8 picture, left red and right blue as the mode can say it, and the file format to keep it in."""
    rgb = Image.new("RGB", (12, 8), (255, 0, 0))
    rgb.paste((0, 0, 255), (6, 0, 12, 8))
    if mode == "RGBA":
        # Transparent on the left, whatever colour lies there.
        rgba = rgb.convert("RGBA")
        rgba.putalpha(Image.new("L", (12, 8), 255))
        rgba.paste((0, 255, 0, 0), (0, 0, 6, 8))
        return rgba, "PNG"
    if mode == "P":
        return rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=2), "GIF"
    if mode == "CMYK":
        return rgb.convert("CMYK"), "TIFF"
    if mode == "I;16":
        return Image.fromarray(np.tile(np.repeat([0, 65535], 6).astype(np.uint16), (8, 1))), "PNG"
    return rgb.convert(mode), "PNG"


@pytest.mark.parametrize(
    ("mode", "left", "right"),
    [
        ("RGB", (255, 0, 0), (0, 0, 255)),
        ("RGBA", (255, 255, 255), (0, 0, 255)),
        ("P", (255, 0, 0), (0, 0, 255)),
        ("CMYK", (255, 0, 0), (0, 0, 255)),
        ("I;16", (0, 0, 0), (255, 255, 255)),
        ("L", (76, 76, 76), (29, 29, 29)),
    ],
)
def test_any_mode_reaches_the_encoder_in_its_right_colours(
    mode: str, left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    image, file_format = coloured(mode)
    stream = io.BytesIO()
    image.save(stream, file_format)
    for picture in (Picture(data=stream.getvalue()), Picture(image=image)):
        assert picture.size() == (12, 8)
        pixels = tiles(picture.load(), "pad", 12)[0].permute(1, 2, 0)
        assert (pixels[:8, :6] == torch.tensor(left)).all(), picture.name
        assert (pixels[:8, 6:] == torch.tensor(right)).all(), picture.name


def test_a_rotated_photo_is_upright_and_counted_upright() -> None:
    image = Image.new("RGB", (12, 8), (255, 0, 0))
    image.paste((0, 0, 255), (6, 0, 12, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    picture = Picture(data=stream.getvalue())
    assert picture.size() == picture.load().size == (8, 12)
    pixels = tiles(picture.load(), "pad", 12)[0].permute(1, 2, 0)
    assert (pixels[:6, :8] == torch.tensor([255, 0, 0])).all() and (pixels[6:, :8] == torch.tensor([0, 0, 255])).all()
