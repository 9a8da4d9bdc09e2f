"""Every scheme against transformers: the rule on 10,000 sizes, and the pixels of some pictures."""

from __future__ import annotations

import math
from functools import cache
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
)
from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas as mllama_canvas
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from kit import noise
from sightling.sight.preprocess import lay, scale, to_pixels
from sightling.sight.tiling import Adaptive, Anyres, Canvas, Dynamic, Native, Plan
from sightling.sight.tiling.canvas import canvases

PLAIN = {"do_rescale": False, "do_normalize": False}
PICTURES = [(70, 50), (33, 90), (64, 64), (200, 21), (5, 9), (131, 130)]


@cache
def sizes() -> list[tuple[int, int]]:
    """10,000 of all orders: sides of 1 to 20,000, at most 200 times as long as short, many of simple ratios."""
    random = Random(0)
    found: list[tuple[int, int]] = []
    while len(found) < 10_000:
        width = int(20_001 ** random.random())
        height = int(20_001 ** random.random())
        if random.random() < 0.5:
            height = max(1, width * random.randint(1, 12) // random.randint(1, 12))
        if height <= 20_000 and max(width, height) <= 200 * min(width, height):
            found.append((width, height))
    return found


def whole(rows: int, columns: int) -> int:
    return rows * columns


@pytest.mark.parametrize("most", [6, 12])
def test_dynamic_chooses_internvls_grid(most: int) -> None:
    ours = Dynamic(max_tiles=most)
    for width, height in sizes():
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
        assert ours.plan(width, height, 448).grid == (rows, columns), (width, height)


def test_anyres_chooses_llavas_shape_and_counts_its_tokens() -> None:
    pins = LlavaNextImageProcessorPil().image_grid_pinpoints
    theirs = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=pins), patch_size=14, num_additional_image_tokens=0,
        _get_unpadded_features=lambda *told: LlavaNextProcessor._get_unpadded_features(None, *told),
    )  # fmt: skip
    ours = Anyres()
    for width, height in sizes():
        plan = ours.plan(width, height, 336, 14)
        assert plan.canvas[::-1] == tuple(select_best_resolution((height, width), pins)), (width, height)
        told = LlavaNextProcessor._get_number_of_features(theirs, height, width, 336, 336)
        assert plan.count(whole) == told, (width, height)


def test_anyres_counts_llava_onevisions_tokens() -> None:
    pins = LlavaOnevisionImageProcessorPil().image_grid_pinpoints
    theirs = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=pins), num_image_tokens=729,
        vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    theirs._get_unpadded_features = lambda *told: LlavaOnevisionProcessor._get_unpadded_features(theirs, *told)
    ours = Anyres(shapes=6, limit=9)
    for width, height in sizes()[::3]:
        plan = ours.plan(width, height, 384, 14)
        told = LlavaOnevisionProcessor._get_number_of_features(theirs, height, width, 384, 384)
        assert plan.count(whole) == told, (width, height)


class Finer(MiniCPMV4_6ImageProcessorPil):
    """MiniCPM-V 4.6's slicing with 2.6's rounding: to one patch."""

    def find_best_resize(
        self, image_size: tuple[int, int], scale_resolution: int, patch_size: int, downsample_mode: str,
        allow_upscale: bool = False,
    ) -> tuple[int, int]:  # fmt: skip
        height, width = image_size
        if height * width > scale_resolution**2 or allow_upscale:
            ratio = width / height
            height = int(scale_resolution / math.sqrt(ratio))
            width = int(height * ratio)
        return tuple(max(round(side / patch_size) * patch_size, patch_size) for side in (height, width))


@pytest.mark.parametrize(("merge", "mode"), [(1, "2.6"), (2, "4x"), (4, "16x")])
def test_adaptive_slices_as_minicpm_v_does(merge: int, mode: str) -> None:
    theirs = Finer() if merge == 1 else MiniCPMV4_6ImageProcessorPil()
    ours = Adaptive(scale=448, merge=merge)
    for width, height in sizes():
        plan = ours.plan(width, height, 980, 14)
        size, grid = (height, width), theirs.get_sliced_grid((height, width), 9, 448)
        overview = theirs.find_best_resize(size, 448, 14, mode, allow_upscale=grid is None)
        assert plan[0].canvas[::-1] == overview, (width, height)
        assert plan.grid == tuple(grid or (1, 1)) and len(plan) == (1 + grid[0] * grid[1] if grid else 1)
        if grid:
            refined = theirs.get_refine_size(size, grid, 448, 14, mode, allow_upscale=True)
            assert plan.canvas[::-1] == refined, (width, height)


@pytest.mark.parametrize(("patch", "least", "most"), [(14, 3136, 1003520), (16, 65536, 16777216), (14, 200704, 200704)])
def test_native_sizes_are_qwens_wherever_those_keep_their_own_limit(patch: int, least: int, most: int) -> None:
    ours, same = Native(min_pixels=least, max_pixels=most), 0
    for width, height in sizes():
        told = smart_resize(height, width, 2 * patch, least, most)
        if told[0] * told[1] <= most:
            assert ours.plan(width, height, 224, patch).canvas[::-1] == told, (width, height)
            same += 1
    assert same == len(sizes()) if least < most else same > 1000


@pytest.mark.parametrize(("most", "side"), [(4, 560), (4, 448), (6, 28), (16, 336)])
def test_a_canvas_is_mllamas(most: int, side: int) -> None:
    assert [*canvases(most)] == get_all_supported_aspect_ratios(most)
    ours = Canvas(max_tiles=most)
    for width, height in sizes():
        plan = ours.plan(width, height, side)
        told = mllama_canvas(height, width, most, side)
        assert plan.canvas[::-1] == told, (width, height)
        shown = get_image_size_fit_to_canvas(height, width, *told, side)
        assert plan[0].scaled[::-1] == shown, (width, height)


# ---- pixels


def ours_of(image: Image.Image, plan: Plan) -> list[Tensor]:
    """Tiles as pixels_CHW, of whatever size each is."""
    laid = [lay(scale(image, tile, "bicubic"), tile, plan.fill) for tile in plan]
    return [torch.from_numpy(np.asarray(tile).copy()).permute(2, 0, 1) for tile in laid]


@pytest.mark.parametrize("size", PICTURES)
def test_dynamic_cuts_internvls_pixels(size: tuple[int, int]) -> None:
    image = noise(*size, seed=1)
    theirs = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=12, **PLAIN)
    told = torch.as_tensor(np.stack(theirs(image)["pixel_values"]))
    assert torch.equal(to_pixels(image, Dynamic().plan(*size, 28, 14)), told)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("unpad", [True, False])
def test_anyres_cuts_llavas_pixels(size: tuple[int, int], unpad: bool) -> None:
    image, side = noise(*size, seed=2), 28
    pins = [[rows * side, columns * side] for rows, columns in Anyres().shapes]  # type: ignore[union-attr]
    theirs = LlavaNextImageProcessorPil(
        size={"height": side, "width": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pins,
        **PLAIN,
    )  # fmt: skip
    told = torch.as_tensor(theirs(image)["pixel_values"][0])
    assert torch.equal(to_pixels(image, Anyres(unpad=unpad).plan(*size, side, 14)), told)


@pytest.mark.parametrize("size", PICTURES)
def test_a_budget_of_one_tile_fills_a_square_as_llava_onevision_does(size: tuple[int, int]) -> None:
    image, side = noise(*size, seed=5), 28
    theirs = LlavaOnevisionImageProcessorPil(size={"height": side, "width": side}, do_rescale=False, do_normalize=False)
    told = torch.as_tensor(theirs([[image, image]])["pixel_values"][1])
    ground = tuple(int(level * 255) for level in theirs.image_mean)
    plan = Anyres(shapes=6, limit=9, ground=ground).plan(*size, side, 14, 1)
    assert torch.equal(to_pixels(image, plan), told)
    # One learned token ends the only row, as in their models; without unpad there is none.
    assert plan.count(whole) == 5 and Anyres(unpad=False).plan(*size, side, 14, 1).count(whole) == 4


@pytest.mark.parametrize("size", [(700, 500), (330, 900), (64, 64), (1000, 105)])
@pytest.mark.parametrize("merge", [1, 4])
def test_adaptive_cuts_minicpm_vs_pixels(size: tuple[int, int], merge: int) -> None:
    image = noise(*size, seed=3)
    theirs = Finer(**PLAIN) if merge == 1 else MiniCPMV4_6ImageProcessorPil(**PLAIN)
    told = theirs(image)
    plan = Adaptive(merge=merge).plan(*size, 448, 14)
    assert np.array_equal(told["target_sizes"], plan.patches)
    # There, one tile after another: each as a row of patches, 14 pixels high.
    rows = [tile.unflatten(2, (-1, 14)).unflatten(1, (-1, 14)).permute(0, 2, 1, 3, 4) for tile in ours_of(image, plan)]
    assert torch.equal(torch.cat([row.flatten(2) for row in rows], dim=2), torch.as_tensor(told["pixel_values"][0]))


@pytest.mark.parametrize("size", [*PICTURES, (25, 20), (400, 3), (28, 100)])
def test_a_canvas_is_cut_to_mllamas_pixels(size: tuple[int, int]) -> None:
    image = noise(*size, seed=6)
    theirs = MllamaImageProcessorPil(size={"height": 28, "width": 28}, **PLAIN)(image)
    plan = Canvas().plan(*size, 28, 14)
    told = torch.as_tensor(theirs["pixel_values"][0][0])
    assert theirs["num_tiles"] == [[len(plan)]] and not told[len(plan) :].any()
    assert torch.equal(to_pixels(image, plan, resample="bilinear").float(), told[: len(plan)].float())
    assert theirs["aspect_ratio_ids"][0][0] == 1 + canvases(4).index(plan.grid)


@pytest.mark.parametrize("size", PICTURES)
def test_native_scales_to_qwens_pixels(size: tuple[int, int]) -> None:
    image = noise(*size, seed=4)
    theirs = Qwen2VLImageProcessorPil(**PLAIN)(image)
    (tile,) = ours_of(image, plan := Native().plan(*size, 224, 14))
    assert theirs["image_grid_thw"][0].tolist() == [1, *plan.patches[0]]
    # There, 2 x 2 patches lie beside each other, and each stands twice for two moments.
    blocks = tile.unflatten(2, (-1, 2, 14)).unflatten(1, (-1, 2, 14)).permute(1, 4, 2, 5, 0, 3, 6)
    told = torch.as_tensor(theirs["pixel_values"]).view(-1, 3, 2, 14, 14)
    assert torch.equal(told[:, :, 0], told[:, :, 1])
    assert torch.equal(blocks.flatten(0, 3).float(), told[:, :, 0].float())
