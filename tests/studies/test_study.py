from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import WORLD, study_tree

from sightling.errors import UserError
from sightling.studies.plan import check, lay_out, rehearsal, resolve, stage_steps, visual_tokens
from sightling.studies.study import Budget, Claim, Study, list_studies, load_study, packaged_studies, parse_study
from sightling.train.yamlfile import dump_yaml, parse_yaml

DOCUMENT = Path(__file__).parents[2] / "docs" / "studies.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def test_a_study_survives_its_own_file(folder: Path) -> None:
    study = parse_study(study_tree(folder), "toy.yaml")
    path = folder / "again.yaml"
    path.write_text(dump_yaml(study.model_dump(mode="json", exclude_defaults=True)))
    assert load_study(path).model_dump() == study.model_dump()
    assert load_study(path, ["seeds=[3]", "budget={steps: 5}"]).seeds == (3,)


def test_variants_are_resolved_recipes_that_differ_in_what_they_say(folder: Path) -> None:
    study = parse_study(study_tree(folder), "toy.yaml")
    recipes = {name: resolve(study, name, 7) for name in study.variants}
    assert recipes["linear"].model["connector"] == {"type": "linear"}
    assert recipes["shuffled"].model["connector"] == {"type": "pixel_shuffle", "factor": 2}
    for name, recipe in recipes.items():
        assert (recipe.seed, recipe.name, recipe.cpu_processes) == (7, f"toy-{name}", 1)
        assert recipe.to_dict()["stages"]["learn"]["learning_rate"] == 2e-3


def test_trials_run_seed_by_seed_and_stop_at_the_budget(folder: Path) -> None:
    trials = lay_out(parse_study(study_tree(folder), "toy.yaml"))
    assert [trial.name for trial in trials] == ["linear-seed-0", "shuffled-seed-0", "linear-seed-1", "shuffled-seed-1"]
    for trial in trials:
        assert trial.points == {0.5: 2, 1.0: 4}
        assert trial.recipe.to_dict()["stages"]["learn"]["max_steps"] == 4
    assert [trial.visual_tokens for trial in trials] == [16.0, 4.0, 16.0, 4.0]


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 6}, [6, 6]), ({"samples": 20}, [10, 10]), ({"visual_tokens": 320}, [10, 40]), ({}, [2, 2])],
)
def test_a_budget_becomes_steps(folder: Path, budget: dict[str, Any], steps: list[int]) -> None:
    study = parse_study(study_tree(folder, budget=budget, seeds=[0]), "toy.yaml")
    assert [trial.steps for trial in lay_out(study)] == steps


def test_seconds_become_steps_by_what_a_rehearsal_measured(folder: Path) -> None:
    study = parse_study(study_tree(folder, budget={"seconds": 10}, seeds=[0]), "toy.yaml")
    assert stage_steps(study, resolve(study, "linear", 0)) is None
    assert [trial.steps for trial in lay_out(study, {"linear": 0.5, "shuffled": 0.25})] == [20, 40]
    short = rehearsal(study, "linear").to_dict()["stages"]["learn"]
    assert (short["max_steps"], short["logging_steps"], short["warmup_steps"]) == (12, 1, 0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"recipe": "quickstrat"}, "did you mean 'quickstart'?"),
    ({"variants": {}}, "variants is empty"),
    ({"variants": {"a": {"model.connectr": {"type": "mlp"}}}}, "variant 'a' of .* has no key 'connectr'; did you mean"),
    ({"variants": {"a": {"model.connector": {"type": "mpl"}}}}, "variant 'a' of .* there is no connector 'mpl'"),
    ({"variants": {"a": {"stages.lern.max_steps": 3}}}, "has no stage 'lern'.*did you mean 'learn'"),
    ({"variants": {"a": ["seed=1", "seed"]}}, r"^toy.yaml: the study.variants.a: 'seed' is not of the form key=value"),
    ({"overrides": ["seed"]}, r"^toy.yaml: the study.overrides: 'seed' is not of the form key=value"),
    ({"variants": {"a": 3}}, r"the study.variants.a: overrides are a mapping"),
    ({"variants": {"a/b": {}}}, "variants.a/b is no name"),
    ({"variants": {"a": {}, "b": {"description": "the same in other words"}, "c": {}}}, "'a' and 'c' are the same"),
    ({"seeds": []}, "seeds is empty"),
    ({"seeds": [1, 1]}, "names a seed twice"),
    ({"baseline": "lineer"}, "there is no variant 'lineer'; did you mean 'linear'?"),
    ({"compare": [{"claim": "x", "better": "linaer", "worse": "shuffled"}]}, "claim 1: there is no variant 'linaer'"),
    ({"compare": [{"claim": "x", "better": "linear", "worse": "linear"}]}, "compares 'linear' with itself"),
    ({"compare": [{"claim": "x", "better": "linear", "worse": "shuffled", "at": 0.3}]}, "0.3 .* budget.at has 0.5, 1"),
    ({"compare": [{"claim": "x", "better": "linear", "worse": "shuffled", "evaluation": "hard"}]}, "no evaluation"),
    ({"budget": {"steps": 3, "samples": 3}}, "says steps and samples; keep one"),
    ({"budget": {"at": [0]}}, "0 is no share of a training"),
    ({"budget": {"stesp": 3}}, "budget has no key 'stesp'; did you mean 'steps'"),
    ({"evaluate": {"data": WORLD, "families": ["colour"]}}, "no question family 'colour'; did you mean 'color'"),
    ({"evaluate": {"data": {"type": "wordl"}}}, "there is no data source 'wordl'"),
    ({"evaluate": {"hard": 3}}, "evaluate.hard must be a section"),
    ({"questoin": "?"}, "has no key 'questoin'; did you mean 'question'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_sentence_before_anything_trains(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check(parse_study(study_tree(folder, **{"compare": [], **change}), "toy.yaml"))
    assert "\n" not in str(error.value)


def test_points_need_room(folder: Path) -> None:
    study = parse_study(study_tree(folder, budget={"steps": 2, "at": [0.1, 0.3, 0.6]}), "toy.yaml")
    with pytest.raises(UserError, match="2 steps have no room for 4 points"):
        lay_out(study)


def test_epochs_need_a_budget(folder: Path) -> None:
    overrides = {"stages.learn.max_steps": None, "stages.learn.num_train_epochs": 1.0}
    study = parse_study(study_tree(folder, overrides=overrides, budget={}), "toy.yaml")
    with pytest.raises(UserError, match=r"counts in epochs; say budget\.steps"):
        check(study)


def test_several_evaluations_have_names(folder: Path) -> None:
    study = parse_study(study_tree(folder, evaluate={"easy": {"data": WORLD}, "hard": {"data": WORLD}}), "toy.yaml")
    assert study.evaluations == ["easy", "hard"]
    check(study)


def test_files_and_names_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study 'conectors'; did you mean 'connectors'"):
        load_study("conectors")
    with pytest.raises(UserError, match="there is no study file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1]))
    with pytest.raises(UserError, match="must be a section"):
        load_study(tmp_path / "list.yaml")


@pytest.mark.parametrize("name", sorted(packaged_studies()))
def test_every_packaged_study_is_valid(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert name in dict(list_studies())
    assert study.compare
    for recipe in check(study).values():
        assert visual_tokens(recipe) is not None
    # A budget of seconds becomes steps by what a rehearsal measures.
    measured = dict.fromkeys(study.variants, 0.5)
    assert len(lay_out(study, measured)) == len(study.variants) * len(study.seeds)


def test_the_study_written_out_is_valid_and_every_key_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (written,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    check(parse_study(parse_yaml(written, "docs/studies.md"), "docs/studies.md"))
    for model in (Study, Budget, Claim):
        for key in model.model_fields:
            assert f"`{key}`" in text, f"docs/studies.md does not explain {key} of {model.__name__}"
    for name in packaged_studies():
        assert f"| `{name}` |" in text
