"""How transformers' image processors of one square say what they do, read and written.

Source of the names: transformers' ``preprocessor_config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightling.errors import UserError
from sightling.interop.base import expect
from sightling.model import VisionLanguageProcessor
from sightling.parts import validate
from sightling.sight.encoders import STATISTICS, Statistics
from sightling.sight.preprocess import RESAMPLE

FILE = "preprocessor_config.json"

FACTOR = 1 / 255


def normalise_of(told: Mapping[str, Any], where: str) -> str | dict[str, Any]:
    """The statistics that pixels are normalised with: a known name, or means and deviations.

    Raises:
        UserError: pixels are not brought to 0 to 1 and normalised by channel.
    """
    expect(told, where, do_rescale=True, do_normalize=True)
    if abs(told.get("rescale_factor", FACTOR) - FACTOR) > 1e-9:
        raise UserError(f"{where}: rescale_factor = {told['rescale_factor']} cannot be followed; 1/255 would be right")
    given = validate(Statistics, {"mean": told.get("image_mean"), "std": told.get("image_std")}, where)
    named = [name for name, statistics in STATISTICS.items() if statistics == given]
    return named[0] if named else given.model_dump(mode="json")


def resample_of(told: Mapping[str, Any], where: str, usual: str = "bicubic") -> str:
    """The resampling by our name.

    Raises:
        UserError: one that is not known here.
    """
    number = told.get("resample", int(RESAMPLE[usual]))
    for name, known in RESAMPLE.items():
        if int(known) == number:
            return name
    raise UserError(f"{where}: resample = {number} cannot be followed; {[int(one) for one in RESAMPLE.values()]} can")


def statistics_of(normalise: Any) -> dict[str, list[float]]:
    """``image_mean`` and ``image_std`` of our ``encoder.normalise``, a name or the numbers."""
    given = STATISTICS[normalise] if isinstance(normalise, str) else Statistics.model_validate(normalise)
    return {"image_mean": list(given.mean), "image_std": list(given.std)}


def square_of(told: Mapping[str, Any], side: int, where: str) -> dict[str, Any]:
    """The tiling that an image processor of one square amounts to.

    Args:
        told: ``preprocessor_config.json``.
        side: of the tower's input in pixels.
        where: how messages name it.

    Raises:
        UserError: pictures are not resized, or to something else than the tower's square.
    """
    expect(told, where, do_resize=True, do_pad=(False, None), do_convert_rgb=(True, None))
    size, crop = told.get("size"), told.get("crop_size")
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = {"height": side, "width": side}
    if told.get("do_center_crop"):
        if size == {"shortest_edge": side} and crop == square:
            return {"type": "single", "fit": "shortest"}
    elif size == square:
        return {"type": "single", "fit": "stretch"}
    raise UserError(
        f"{where}: size = {size!r} and crop_size = {crop!r} do not make the tower's square of {side} pixels"
    )


def written(processor: VisionLanguageProcessor, normalise: Any) -> dict[str, Any]:
    """What every image processor says: resampling and statistics."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": int(RESAMPLE[processor.image_processor.resample]),
        "rescale_factor": FACTOR,
        **statistics_of(normalise),
    }


def square_written(processor: VisionLanguageProcessor, layout: str) -> dict[str, Any]:
    """How a tiling of one square is told.

    Raises:
        UserError: another tiling, or a fit that has no name there.
    """
    images = processor.image_processor
    fit = images.tiling.get("fit", "stretch") if images.tiling["type"] == "single" else None
    square = {"height": images.image_size, "width": images.image_size}
    if fit == "stretch":
        return {"size": square, "do_center_crop": False, "crop_size": square}
    if fit == "shortest":
        return {"size": {"shortest_edge": images.image_size}, "do_center_crop": True, "crop_size": square}
    raise UserError(
        f"the layout {layout!r} cannot hold tiling = {images.tiling!r}; it takes single, with the fit stretch or "
        "shortest"
    )
