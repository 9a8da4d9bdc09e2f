from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import kit
from sightling import cli
from sightling.data.sample import Picture, question
from sightling.errors import UserError
from sightling.loading import load, load_processor
from sightling.model.inspection import Piece, inspect_model, inspect_recipe, shown
from sightling.model.inspection_text import lines, piece_line
from sightling.sight.drawing import LINES, draw_plan, save_png
from sightling.sight.tiling import Adaptive, Anyres, Dynamic, Native, Overlapping, Placement, Single, Tiling
from videos import video

MLP, SQUARES, MERGER = {"type": "mlp"}, {"type": "pixel_shuffle"}, {"type": "merger"}
RESAMPLER = {"type": "resampler", "heads": 1}


def outcome(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(part) for part in argv])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def section(image_size: int = 16, patch_size: int = 4, **told: Any) -> dict[str, Any]:
    return kit.section(**{"encoder": {**kit.SIGLIP, "image_size": image_size, "patch_size": patch_size}, **told})


def blank(width: int, height: int) -> Picture:
    return Picture(image=Image.new("RGB", (width, height), (255, 255, 255)))


def recipe(folder: Path, **told: Any) -> Path:
    """A recipe file whose one stage trains the tokenizer."""
    path = folder / "small.yaml"
    words = {"type": "tokenizer", "vocab_size": 512, "data": {"type": "world"}}
    path.write_text(yaml.safe_dump({"name": "small", "model": section(**told), "stages": {"words": words}}))
    return path


def told_again(printed: str, processor: Any) -> list[int]:
    """The prompt's ids, from nothing but its printed lines."""
    ids: list[int] = []
    for line in printed.split("prompt, text in quotes:\n")[1].split("\n\n")[0].splitlines():
        assert line.startswith("  ")
        if line[2] == '"':
            ids += processor.plain(json.loads(line[2:]))
        else:
            name, _, times = line[2:].partition(" x ")
            ids += [processor.tokenizer.convert_tokens_to_ids(name)] * int(times or 1)
    return ids


@pytest.mark.parametrize(
    ("encoder", "connector", "tiling", "size", "counts", "beside"),
    [
        ((336, 14), MLP, {"type": "single"}, (1600, 700), [576], {}),
        ((448, 14), SQUARES, {"type": "dynamic"}, (1600, 700), [256] * 11, {}),
        ((448, 14), SQUARES, {"type": "overlapping"}, (500, 1500), [256] * 5, {}),
        ((336, 14), MLP, {"type": "anyres"}, (672, 672), [576] * 5, {"learned ends of rows": 48}),
        ((336, 14), MLP, {"type": "anyres", "unpad": False}, (500, 1500), [576] * 4, {}),
        # 1280 x 720 on 4 x 2 tiles of 27 x 27 tokens: bars leave 54 of 54 rows, 96 of 108 columns.
        ((384, 14), MLP, {"type": "anyres", "shapes": 6, "limit": 9}, (1280, 720),
         [729] + [27 * 21, 27 * 27, 27 * 27, 27 * 21] * 2, {"learned ends of rows": 54}),
        ((448, 14), RESAMPLER, {"type": "adaptive"}, (1600, 700), [64] * 7, {"marks around the tiles": 15}),
        ((448, 14), MERGER, {"type": "native"}, (500, 1500), [972], {}),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)  # fmt: skip
def test_golden_counts_of_every_scheme(
    encoder: tuple[int, int], connector: dict[str, Any], tiling: dict[str, Any], size: tuple[int, int],
    counts: list[int], beside: dict[str, int],
) -> None:  # fmt: skip
    found = inspect_recipe(section(*encoder, connector=connector, tiling=tiling), blank(*size), "what?")
    assert [tile.tokens for tile in found.tiles] == counts
    assert found.beside == beside
    assert found.total == sum(counts) + sum(beside.values())
    assert found.scheme["type"] == tiling["type"]


def test_a_field_that_is_shrunk_is_told() -> None:
    tiling = {"type": "anyres", "shapes": 6, "limit": 2}
    found = inspect_recipe(section(384, 14, connector=MLP, tiling=tiling), blank(500, 1500), "what?")
    # The picture leaves 108 x 36 of the field's tokens; two tiles of 27 x 27 allow 66 x 22.
    assert found.beside == {"taken away where the field is shrunk": 66 * 22 - 108 * 36, "learned ends of rows": 66}
    assert [tile.tokens for tile in found.tiles] == [729] + [27 * 18] * 8
    assert found.total == 729 + 66 * 22 + 66
    assert any(line.split()[-1] == "-2,436" for line in lines(found) if "taken away" in line)


def test_what_a_tile_shows() -> None:
    whole = (0, 0, 100, 50)
    assert shown(Placement(whole, (200, 100), (-150, 0), (50, 50))) == ((75, 0, 100, 25), (50, 50))
    assert shown(Placement(whole, (40, 20), (0, 10), (40, 40))) == ((0, 0, 100, 50), (40, 20))
    assert shown(Placement((25, 0, 75, 50), (16, 16), (0, 0), (16, 16))) == ((25, 0, 75, 50), (16, 16))
    assert shown(Placement(whole, (40, 20), (0, -20), (40, 40))) == (None, (0, 0))


SCHEMES: list[Tiling] = [
    Single(fit="crop"), Single(fit="letterbox"), Dynamic(), Overlapping(), Anyres(), Adaptive(), Native()
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
@pytest.mark.parametrize("size", [(1600, 700), (70, 300), (1, 180)], ids=str)
def test_the_lines_are_drawn_where_the_plan_says(scheme: Tiling, size: tuple[int, int]) -> None:
    plan = scheme.plan(*size, 64, 8)
    image = Image.new("RGB", size, (255, 255, 255))
    drawn = draw_plan(image, plan, [7] * len(plan), "title", ["a note"])
    pixels = drawn.image.load()
    assert pixels is not None and len(drawn.borders) == len(plan.cells)
    x, y = drawn.origin
    for window, border in zip(plan.windows, drawn.borders, strict=True):
        expected = [x + window[0] * drawn.scale, y + window[1] * drawn.scale]
        expected += [x + window[2] * drawn.scale - 1, y + window[3] * drawn.scale - 1]
        assert border == pytest.approx(expected, abs=0.51)
        # Numbers stand in the upper left corner, the other windows' lines may lie over those of this one.
        left, top, right, bottom = border
        across, down = (left + 2 * right) // 3, (top + 2 * bottom) // 3
        for place in ((left, down), (right, down), (across, bottom), (right, bottom)):
            assert pixels[place] in LINES, (place, pixels[place])


def test_a_square_that_a_picture_is_filled_up_to_is_drawn() -> None:
    plan = Anyres(ground=(9, 99, 9)).plan(90, 30, 64, 8, 1)
    drawn = draw_plan(Image.new("RGB", (90, 30), (255, 255, 255)), plan, [65], "title", [])
    x, y = drawn.origin
    middle = x + round(32 * drawn.scale)
    places = [drawn.image.getpixel((middle, y + round(row * drawn.scale))) for row in (16, 32, 48)]
    assert places == [(9, 99, 9), (255, 255, 255), (9, 99, 9)]
    assert shown(plan[0]) == ((0, -30, 90, 60), (64, 64))


def test_a_drawing_of_another_plan_is_refused() -> None:
    plan = Dynamic().plan(90, 30, 16)
    with pytest.raises(ValueError, match="not of"):
        draw_plan(Image.new("RGB", (30, 90)), plan, [1] * len(plan), "", [])
    with pytest.raises(ValueError, match="1 counts of tokens for 13 tiles"):
        draw_plan(Image.new("RGB", (90, 30)), plan, [1], "", [])


def test_a_model_and_a_picture(
    capsys: pytest.CaptureFixture[str], saved_model: Path, png: Path, tmp_path: Path
) -> None:
    processor = load_processor(saved_model)
    tricky = '<|image_pad|> x 256\n"图"<|im_end|> \\n'
    target = tmp_path / "new" / "drawn.png"
    code, out, err = outcome(capsys, "inspect", saved_model, png, "--question", tricky, "--output", target)
    assert (code, err) == (0, "")
    encoded = processor.encode(question(tricky, Picture(path=png)), prompt_only=True)
    assert told_again(out, processor) == list(encoded.input_ids)
    assert "  <|image_pad|> x 4\n" in out
    assert f"{len(encoded.input_ids) - 4} text tokens + 4 visual tokens = {len(encoded.input_ids)}" in out
    assert Image.open(target).size > (400, 400) and [one.name for one in target.parent.iterdir()] == ["drawn.png"]


def test_the_processor_alone_is_the_model_s(saved_model: Path) -> None:
    whole, alone = load(saved_model)[1], load_processor(saved_model)
    assert alone.to_dict() == whole.to_dict()
    assert alone.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def test_json_holds_the_same(
    capsys: pytest.CaptureFixture[str], saved_model: Path, png: Path, tmp_path: Path
) -> None:
    code, out, err = outcome(capsys, "inspect", saved_model, png, "--json", "--output", tmp_path / "folder")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["drawing"] == str(tmp_path / "folder" / "red.single.png") and Path(told["drawing"]).is_file()
    assert told["tiles"] == [
        {"number": 1, "place": "all", "crop": [0, 0, 48, 40], "scaled": [32, 32], "canvas": [32, 32],
         "patches": [4, 4], "tokens": 4}
    ]  # fmt: skip
    pads = [piece for piece in told["prompt"] if piece.get("token") == "<|image_pad|>"]
    assert [piece["times"] for piece in pads] == [4] == [told["visual_tokens"]]
    assert told["prompt_tokens"] == told["text_tokens"] + 4
    assert sum(piece.get("times", 0) or len(piece["ids"]) for piece in told["prompt"]) == told["prompt_tokens"]


def test_a_recipe_before_its_tokenizer(capsys: pytest.CaptureFixture[str], png: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiling={"type": "native"}, connector=MERGER)
    code, out, err = outcome(capsys, "inspect", "--recipe", path, png, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "no prompt: the tokenizer does not exist yet" in out and (tmp_path / "red.native.png").is_file()
    path = recipe(tmp_path, tiling={"type": "dynamic"})
    code, out, err = outcome(capsys, "inspect", "--recipe", path, png, "--output", tmp_path, "--json")
    told = json.loads(out)
    assert (code, err, told["prompt"]) == (0, "", None)
    assert told["no_prompt"] == "the tokenizer does not exist yet: the stage 'words' trains it"


def test_a_recipe_with_a_tokenizer_gives_its_model_s_prompt(tmp_path: Path) -> None:
    tiling = {"type": "dynamic", "max_tiles": 4}
    kit.tokenizer().save_pretrained(tmp_path / "words")
    told = section(tiling=tiling, tokenizer={"pretrained": str(tmp_path / "words")})
    _, processor = kit.grow(**told)
    picture = kit.picture(width=30, height=70)
    found = inspect_recipe(told, picture, "how many?")
    assert found.prompt is not None
    ids = [token for piece in found.prompt for token in piece.ids]
    assert ids == list(processor.encode(question("how many?", picture), prompt_only=True).input_ids)
    assert told_again("\n".join(lines(found)), processor) == ids
    gone = inspect_recipe({**told, "tokenizer": {"pretrained": str(tmp_path / "later")}}, picture, "how many?")
    assert gone.prompt is None and str(tmp_path / "later") in gone.no_prompt and gone.total == found.total


def test_text_that_its_tokens_do_not_spell_is_told_by_them() -> None:
    assert piece_line(Piece("[UNK] x", (3, 9), False, spelt=False)) == '"[UNK] x" = tokens [3, 9]'
    assert piece_line(Piece("x", (9,), False)) == '"x"'


def test_bad_input_is_one_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], saved_model: Path, png: Path, tmp_path: Path
) -> None:
    corrupt, empty, output = tmp_path / "cut.png", tmp_path / "empty", tmp_path / "out"
    corrupt.write_bytes(png.read_bytes()[:60])
    empty.mkdir()
    wrong = recipe(empty, tiling={"type": "nativ"})
    for argv, told in (
        ((saved_model, tmp_path / "none.png"), "does not exist"),
        ((saved_model, corrupt), "is corrupt"),
        ((empty, png), "holds no model"),
        ((tmp_path / "none", png), "there is no folder"),
        ((png,), "give a model and a picture"),
        ((saved_model, png, "--recipe", "quickstart"), "2 names were given"),
        (("--recipe", "quickstrat", png), "did you mean 'quickstart'"),
        (("--recipe", wrong, png), "model.tiling"),
        ((saved_model, png, "--question", " "), "the question is empty"),
    ):
        code, out, err = outcome(capsys, "inspect", *argv, "--output", output)
        assert (code, out, err.count("\n")) == (2, "", 1) and told in err, (argv, err)
    assert not output.exists()
    before = png.read_bytes()
    for target, told in ((png, "would overwrite the picture"), (wrong, "does not end in .png")):
        code, _, err = outcome(capsys, "inspect", saved_model, png, "--output", target)
        assert code == 2 and told in err
    assert png.read_bytes() == before
    with pytest.raises(UserError, match="cannot be written"):
        save_png(Image.new("RGB", (2, 2)), wrong / "drawn.png")


def test_the_total_is_the_plan_s(saved_model: Path, png: Path) -> None:
    processor = load_processor(saved_model)
    found = inspect_model(processor, Picture(path=png), "red?")
    assert found.total == processor.image_processor.count(48, 40) == 4
    assert found.prompt is not None and sum(len(piece.ids) for piece in found.prompt) == found.text_tokens + 4


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (20_000, 100), (1, 1)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "pad", "crop", "shortest"])
def test_a_very_long_picture_is_drawn_whatever_is_cut_off(size: tuple[int, int], fit: str) -> None:
    image = Image.new("RGB", size, (200, 10, 10))
    plan = Single.model_validate({"fit": fit}).plan(*size, 64, 8)
    assert draw_plan(image, plan, [64], "title", []).image.width > 200


def test_a_video_is_told_to_be_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    video(clip, [(0, 0, 255)] * 2)
    code, out, err = outcome(capsys, "inspect", "--recipe", "quickstart", clip)
    assert (code, out) == (2, "") and err.startswith(f"error: {clip} is a video; inspect draws one picture")
