"""Every scheme against numbers that its original makes; ``golden.json`` names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightling.sight.tiling import Adaptive, Anyres, Dynamic, Plan

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def vectors(name: str) -> list[Any]:
    return [pytest.param(one, id="x".join(map(str, one["wh"]))) for one in GOLDEN[name]]


def swapped(pair: Any) -> tuple[int, int]:
    """(columns, rows) as (rows, columns)."""
    return pair[1], pair[0]


def always(count: int) -> Callable[[int, int], int]:
    return lambda rows, columns: count


def whole(rows: int, columns: int) -> int:
    return rows * columns


def test_all_72_are_there() -> None:
    counts = {name: len(found) for name, found in GOLDEN.items() if name != "source"}
    assert counts == {"internvl": 20, "minicpmv26": 26, "llava_next": 16, "onevision": 10}


@pytest.mark.parametrize("most", [12, 6])
@pytest.mark.parametrize("vector", vectors("internvl"))
def test_internvl(vector: dict[str, Any], most: int) -> None:
    told = vector[f"max{most}"]
    plan = Dynamic(max_tiles=most).plan(*vector["wh"], 448, 14)
    assert plan.grid == swapped(told["grid"]) and plan.canvas == tuple(told["resized"])
    assert len(plan) == told["tiles"] and plan.overview == len(plan) - 1
    assert set(plan.patches) == {(32, 32)}
    # 2 x 2 features become one token; the two tags around a picture are the chat template's.
    assert plan.count(lambda rows, columns: rows * columns // 4) == told["ctx"] == told["with_tags"] - 2


@pytest.mark.parametrize("vector", vectors("llava_next"))
def test_llava_next(vector: dict[str, Any]) -> None:
    plan = Anyres().plan(*vector["wh"], 336, 14)
    assert plan.canvas == tuple(vector["best"]) and plan.grid == swapped(vector["grid"])
    assert len(plan) == vector["tiles"] and plan.overview == 0
    rows, columns = plan.field((24, 24))  # type: ignore[attr-defined]
    assert (rows, columns) == tuple(vector["unpadded"])
    assert (rows * columns, rows) == (vector["feat"], vector["newline"])
    assert plan.count(whole) == vector["total"]


@pytest.mark.parametrize("vector", vectors("onevision"))
def test_llava_onevision(vector: dict[str, Any]) -> None:
    # 384 pixels hold 27 patches of 14; the last 6 pixels are not looked at.
    plan = Anyres(shapes=6, limit=9).plan(*vector["wh"], 384, 14)
    assert plan.canvas == tuple(vector["best"]) and len(plan) == vector["tiles"]
    assert plan.field((27, 27)) == tuple(vector["after"])  # type: ignore[attr-defined]
    assert plan.count(whole) == vector["total"]


def minicpm(width: int, height: int) -> Plan:
    # The tower's own side is 980 pixels; slices are made at 448.
    return Adaptive(scale=448).plan(width, height, 980, 14)


@pytest.mark.parametrize("vector", vectors("minicpmv26"))
def test_minicpm_v(vector: dict[str, Any]) -> None:
    plan = minicpm(*vector["wh"])
    assert len(plan) == vector["n"] + 1 and plan.overview == 0
    assert plan[0].canvas == tuple(vector["source"])
    assert list(map(list, plan.patches)) == vector["tgt"]
    assert max(rows * columns for rows, columns in plan.patches) == vector["L"]
    if vector["grid"] is not None:
        assert plan.grid == swapped(vector["grid"])
        assert {cell.canvas for cell in plan.cells} == {tuple(vector["slice"])}
    # <image_id>, one digit and </image_id> before each picture are the chat template's.
    assert plan.count(always(64)) + 3 == vector["tokens"]


def test_minicpm_v_cuts_a_phone_screenshot_as_its_authors_work_it_out() -> None:
    plan = minicpm(2340, 1080)
    assert plan.grid == (2, 4) and plan.canvas == (1848, 868)
    assert plan.patches == ((22, 47), *[(31, 33)] * 8)
    assert len(plan) * 64 == 576 and plan.count(always(64)) + 3 == 598
    assert plan.between == (
        ("<image>",), ("</image>", "<slice>"), *[("</slice>", "<slice>")] * 3, ("</slice>", "\n", "<slice>"),
        *[("</slice>", "<slice>")] * 3, ("</slice>",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "columns"),
    [
        # 2300 x 1080 has 651 / 14 = 46.5 patches, which is rounded to even.
        (2299, 1080, 47), (2300, 1080, 46), (2301, 1080, 46), (2302, 1080, 47),
        (1916, 900, 47), (1917, 900, 46), (1918, 900, 47),
        (2555, 1200, 47), (2556, 1200, 46), (2557, 1200, 47),
        (3066, 1440, 47), (3067, 1440, 46), (3068, 1440, 46), (3069, 1440, 47),
    ],
)  # fmt: skip
def test_minicpm_v_rounds_halves_to_even(width: int, height: int, columns: int) -> None:
    assert minicpm(width, height).patches == ((22, columns), *[(31, 33)] * 8)


@pytest.mark.parametrize(
    ("size", "grid", "overview", "slices"),
    [
        ((2560, 1200), (2, 4), (22, 47), (31, 33)), ((2400, 1125), (2, 4), (22, 47), (31, 33)),
        ((1920, 900), (2, 4), (22, 47), (31, 33)), ((1920, 886), (2, 4), (22, 47), (31, 33)),
        ((1623, 742), (2, 4), (22, 47), (31, 33)), ((2400, 1080), (2, 4), (21, 48), (30, 34)),
        ((2220, 1080), (2, 4), (22, 46), (32, 32)), ((1600, 750), (2, 3), (22, 47), (27, 38)),
        ((1280, 600), (1, 3), (22, 47), (38, 27)),
    ],
)  # fmt: skip
def test_minicpm_v_near_the_worked_example(
    size: tuple[int, int], grid: tuple[int, int], overview: tuple[int, int], slices: tuple[int, int]
) -> None:
    plan = minicpm(*size)
    assert plan.grid == grid and plan.patches == (overview, *[slices] * (grid[0] * grid[1]))


def test_internvl_takes_the_larger_of_equal_shapes_from_half_its_pixels_on() -> None:
    grids = {side: Dynamic().plan(side, side, 448, 14).grid for side in (633, 634, 950, 951)}
    assert grids == {633: (1, 1), 634: (2, 2), 950: (2, 2), 951: (3, 3)}
