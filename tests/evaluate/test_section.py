from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sightling.data.files import FilesOptions
from sightling.data.world import WorldOptions
from sightling.errors import UserError
from sightling.evaluate.section import Place, find_model, make_plan, trained_on
from sightling.train.recipe import parse_recipe

SPLIT = {"fraction": 0.1, "part": "kept"}


def stage(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "objective": {"type": "answer"}, "data": data, "train": {"encoder": True}, "learning_rate": 0.1, "max_steps": 1,
    }  # fmt: skip


def model_folder(path: Path, recipe: dict[str, Any] | None = None) -> Place:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    if recipe is not None:
        (path / "recipe.yaml").write_text(yaml.safe_dump({"name": "mine", "model": {}, **recipe}, sort_keys=False))
    return find_model(path)


def test_a_run_folder_and_its_model_folder_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    model_folder(run / "model")
    (run / "run.json").write_text("{}")
    assert find_model(run) == find_model(run / "model") == Place(run / "model", run)
    assert find_model(run).output == run / "evaluation"
    monkeypatch.chdir(run)
    assert find_model(Path("model")).run is not None
    monkeypatch.chdir(run / "model")
    assert find_model(Path()).run == run.resolve()


def test_where_there_is_no_model_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model folder"):
        find_model(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither a model folder \(with config.json\) nor a run folder"):
        find_model(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="has no model yet"):
        find_model(tmp_path)


def test_the_saved_recipe_says_what_to_evaluate_on(tmp_path: Path) -> None:
    section = {"data": {"type": "world", "image_size": 48}, "scenes": 20, "families": ["color"], "seed": 7}
    place = model_folder(tmp_path, {"stages": {"a": stage({"type": "world"})}, "evaluate": section})
    plan = make_plan(place, None, {"scenes": 5})
    assert isinstance(plan.source, WorldOptions)
    assert (plan.source.image_size, plan.section.scenes, plan.section.seed) == (48, 5, 7)
    assert plan.section.families == {"color": 1}


def test_without_a_section_scenes_are_as_in_the_last_stage_of_the_world(tmp_path: Path) -> None:
    mixed = {"type": "mixture", "sources": {"w": {"type": "world", "image_size": 32, "weight": 2}}}
    stages = {"a": stage({"type": "world", "image_size": 16}), "b": stage(mixed)}
    plan = make_plan(model_folder(tmp_path, {"stages": stages}), None)
    assert isinstance(plan.source, WorldOptions)
    assert plan.source.image_size == 32
    assert "stage b" in plan.said


def test_data_by_name_path_and_section(tmp_path: Path) -> None:
    place = model_folder(tmp_path / "m")
    (tmp_path / "some.json").write_text("[]")
    by_path = make_plan(place, str(tmp_path / "some.json"))
    assert isinstance(by_path.source, FilesOptions)
    written = make_plan(place, "{type: world, image_size: 40}").source
    assert isinstance(written, WorldOptions)
    assert written.image_size == 40
    assert isinstance(make_plan(place, "world").source, WorldOptions)
    assert make_plan(place, "quickstart").said.endswith("recipe quickstart")


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        (None, None, "no recipe is saved beside"),
        (None, "quickstat", "did you mean 'quickstart'"),
        (None, "{type: wrld}", "did you mean 'world'"),
        (None, "{type: world, image_sise: 3}", "did you mean 'image_size'"),
        ({"evaluate": {"famlies": []}}, None, "did you mean 'families'"),
        ({"evaluate": {"families": {"color": 0}}}, None, "expected at least 1"),
        ({}, None, "has no evaluate.data and no stage that learns from the small world"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, recipe: dict[str, Any] | None, data: str | None, message: str
) -> None:
    if recipe is not None:
        recipe = {"stages": {"t": {"type": "tokenizer"}}, **recipe}
    with pytest.raises(UserError, match=message) as told:
        make_plan(model_folder(tmp_path, recipe), data)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("trained", "asked", "overlap"),
    [
        ({"hold_out": SPLIT}, {"hold_out": {**SPLIT, "part": "held"}}, False),
        ({"hold_out": SPLIT}, {"hold_out": SPLIT}, True),
        ({"hold_out": SPLIT}, {"hold_out": {**SPLIT, "part": "held", "seed": 1}}, True),
        ({}, {"hold_out": SPLIT}, True),
        ({"options": {"pictures": ["noto"]}}, {"options": {"pictures": ["twemoji"]}}, False),
        ({"path": "other"}, {}, False),
    ],
)
def test_training_on_what_is_evaluated_is_noticed(
    trained: dict[str, Any], asked: dict[str, Any], overlap: bool
) -> None:
    recipe = parse_recipe(
        {"name": "r", "model": {}, "stages": {"a": stage({"type": "files", "path": "d", **trained})}}, "r.yaml"
    )
    assert trained_on(recipe, FilesOptions(path="d", **asked) if "path" not in asked else FilesOptions(**asked)) == (
        ["a"] if overlap else []
    )
