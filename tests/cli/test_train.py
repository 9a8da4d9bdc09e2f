"""``sightling train``: parts that do not go together are told in one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightling import cli


@pytest.mark.parametrize(
    ("recipe", "overrides", "told"),
    [
        ("llava-1.5-tiny", ["model.tiling={type: native, merge: 1}", "model.connector={type: merger}"],
         "model.tiling does not fit: connector merger: a grid of 1 x 1 features is not divisible by factor 2; schemes"),
        ("llava-1.5-tiny", ["model.connector={type: pixel_shuffle, factor: 7}"], "native with merge: 7"),
        ("llava-1.5-tiny", ["model.tiling={type: native, min_pixels: 99, max_pixels: 9}"], "min_pixels 99 is more"),
        ("llava-1.5-tiny", ["model.connector={type: resampler, heads: 7}"],
         "llava-1.5-tiny.yaml: model.connector resampler: a language model's width of 128 is not divisible by 7 heads"),
        ("llava-1.5-tiny", ["model.encoder.layer=99"], "model.encoder.layer = 99, but the tower's layers are counted"),
        ("llava-1.5-tiny", ["model.encoder.normalise={mean: [0, 0, 0], std: [0, 1, 1]}"], "normalise.std.0 = 0"),
        ("quickstart", ["model.encoder.keep_cls=true"], "model.encoder.keep_cls is true, but a siglip_vision_model"),
        ("flamingo-tiny", ["model.connector.every=99"], "flamingo-tiny.yaml: model.connector.every is 99, but the"),
        ("qwen3-vl-tiny", ["model.connector={type: cross_attention}"], "linear, mlp, merger, concat and pixel_shuffle"),
        ("qwen3-vl-tiny", ["model.encoder.layer=-1"], "deepstack = 1 needs 2 layers of the encoder, but"),
        ("qwen3-vl-tiny", ["model.encoder.positions=bucketed"],
         "is not for a qwen3_vl_vision; clip, idefics2, idefics3, siglip, smolvlm take it"),
        ("expert-tiny", ["model.encoder={type: siglip, image_size: 16, patch_size: 4, hidden_size: 32}"],
         "model.encoder sees in vain beside a connector of the type 'expert'; use {type: none}"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recipe: str, overrides: list[str], told: str
) -> None:
    output = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        cli.main(["train", recipe, *overrides, "--output", str(output)])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "") and err.startswith(f"error: {recipe}.yaml: ")
    assert told in err and err.count("\n") == 1 and not output.exists()
