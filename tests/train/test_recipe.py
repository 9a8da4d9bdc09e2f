from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_recipe, toy_tree, write_recipe

from sightling.errors import UserError
from sightling.train.checked import check_recipe
from sightling.train.overrides import apply_overrides, parse_override
from sightling.train.recipe import TrainStage, load_recipe, packaged, parse_recipe, read_recipe
from sightling.train.runfolder import essence, first_difference, recipe_hash
from sightling.train.yamlfile import dump_yaml, parse_yaml


def two_stages() -> dict[str, Any]:
    return toy_tree(words={"type": "toy_step", "size": 2}, align={"learning_rate": 1e-3}, tune={})


def stage(recipe: Any, name: str) -> TrainStage:
    found = recipe.stages[name]
    assert isinstance(found, TrainStage)
    return found


def error_of(tree: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(UserError) as told:
        parse_recipe(apply_overrides(tree, overrides, "toy.yaml"), "toy.yaml")
    assert "\n" not in str(told.value)
    return str(told.value)


# ---- what a recipe means


def test_resolved_recipe_reads_back_to_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "a.yaml", two_stages()), ["stages.align.optim=muon"])
    (tmp_path / "b.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(tmp_path / "b.yaml")
    assert again.to_dict() == recipe.to_dict()
    assert again.to_yaml() == recipe.to_yaml()
    assert list(again.stages) == ["words", "align", "tune"]


def test_run_wide_keys_are_handed_down_and_stages_may_differ() -> None:
    tree = two_stages()
    tree |= {"seed": 7, "bf16": True, "dataloader_num_workers": 3}
    tree["stages"]["tune"]["seed"] = 8
    recipe = parse_recipe(tree, "toy.yaml")
    assert (stage(recipe, "align").seed, stage(recipe, "tune").seed) == (7, 8)
    assert stage(recipe, "tune").bf16 is True
    assert stage(recipe, "tune").dataloader_num_workers == 3


def test_rates_by_part() -> None:
    told = stage(toy_recipe(one={"train": {"connector": True, "language_model": 1e-4, "encoder": False}}), "one").train
    assert told.rates(0.5) == {"encoder": 0.0, "connector": 0.5, "language_model": 1e-4}


def test_packaged_recipes_are_valid() -> None:
    for name in packaged():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description and "\n" not in recipe.description.strip()


# ---- overrides


def test_overrides_are_read_as_yaml() -> None:
    recipe = parse_recipe(
        apply_overrides(
            two_stages(),
            [
                "stages.align.learning_rate=1e-3",
                "stages.align.train.encoder=frozen",
                "stages.tune.lr_scheduler_kwargs.min_lr_ratio=0.1",
                "stages.words.size=5",
                "report_to=[tensorboard]",
                "model.encoder.type=siglip",
            ],
            "toy.yaml",
        ),
        "toy.yaml",
    )
    assert stage(recipe, "align").learning_rate == 1e-3
    assert stage(recipe, "align").train.encoder == "frozen"
    assert stage(recipe, "tune").lr_scheduler_kwargs.min_lr_ratio == 0.1
    assert recipe.stages["words"].options() == {"type": "toy_step", "size": 5}  # type: ignore[union-attr]
    assert recipe.report_to == ["tensorboard"]
    assert recipe.model == {"encoder": {"type": "siglip"}}


def test_overrides_leave_the_tree_alone() -> None:
    tree = two_stages()
    apply_overrides(tree, ["stages.align.seed=9"], "toy.yaml")
    assert tree == two_stages()


names = st.text(alphabet="abcdefghij_", min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(names, min_size=1, max_size=4), st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_any_override_lands_at_its_key(keys: list[str], value: object) -> None:
    steps, parsed = parse_override(f"{'.'.join(keys)}={dump_yaml(value).strip()}")
    assert (steps, parsed) == (keys, value)
    tree: Any = apply_overrides({}, [f"{'.'.join(['x', *keys])}={dump_yaml(value).strip()}"], "a")
    for key in ["x", *keys]:
        tree = tree[key]
    assert tree == value


@pytest.mark.parametrize("text", ["learning_rate", "=3", "a..b=3", ".a=1", "a=[1"])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(UserError):
        apply_overrides(two_stages(), [text], "toy.yaml")


# ---- what is wrong is told in one sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.align.learning_rat=1", "toy.yaml: stages.align has no key 'learning_rat'; "
         "did you mean 'learning_rate'?"),
        ("stages.algin.seed=1", "toy.yaml has no stage 'algin', which 'stages.algin.seed=1' sets; "
         "did you mean 'align'?"),
        ("sed=1", "toy.yaml: the recipe has no key 'sed'; did you mean 'seed'?"),
        ("stages.align.train.conector=true", "toy.yaml: stages.align.train has no key 'conector'; "
         "did you mean 'connector'?"),
        ("stages.align.max_steps=true", "toy.yaml: stages.align.max_steps = True is wrong: "
         "input should be a valid integer"),
        ("stages.align.train.encoder=-1", "toy.yaml: stages.align.train.encoder = -1 is wrong: "
         "a part is 'frozen', true, trains at a learning rate above 0, or has an adapter ({type: lora, ...})"),
        ("stages.align.bf16=maybe", "toy.yaml: stages.align.bf16 = 'maybe' is wrong: it must be auto, true or false"),
        ("stages.align.num_train_epochs=1", "toy.yaml: stages.align must say max_steps or num_train_epochs, "
         "and it says both"),
        ("stages.align.max_steps=null", "toy.yaml: stages.align must say max_steps or num_train_epochs, "
         "and it says neither"),
        ("stages.align.lr_scheduler_kwargs.decay_rato=1", "toy.yaml: stages.align.lr_scheduler_kwargs has no key "
         "'decay_rato'; did you mean 'decay_ratio'?"),
        ("stages.align.data={}", "toy.yaml: stages.align.data needs a type, such as {type: ...}"),
        ("stages.align.seed.x=1", "toy.yaml: stages.align.seed is 3, not a section, so 'stages.align.seed.x=1' cannot "
         "be set; set stages.align.seed"),
        ("stages={}", "toy.yaml: stages is empty; a recipe needs at least one stage"),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_nearest(override: str, sentence: str) -> None:
    tree = two_stages()
    tree["stages"]["align"]["seed"] = 3
    assert error_of(tree, override) == sentence


def test_a_stage_that_trains_nothing() -> None:
    tree = two_stages()
    tree["stages"]["align"]["train"] = {"encoder": "frozen"}
    assert "freezes every part" in error_of(tree)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (two_stages() | {"stages": {"a b": {}}}, "toy.yaml: stages.a b is no name for a stage"),
        (two_stages() | {"name": "../up"}, "toy.yaml: the recipe.name '../up' is no name"),
        ({"name": "x", "model": {}}, "toy.yaml: the recipe.stages is missing"),
        (two_stages() | {"stages": 3}, "toy.yaml: stages must be a section"),
    ],
)
def test_malformed_trees(tree: dict[str, Any], sentence: str) -> None:
    assert error_of(tree).startswith(sentence)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.align.objective.type=tyo", "toy.yaml: stages.align.objective.type: there is no objective 'tyo'; "
         "did you mean 'toy'?"),
        ("stages.align.objective.hed=1", "toy.yaml: stages.align.objective has no key 'hed'; did you mean 'head'?"),
        ("stages.align.data.type=endles", "toy.yaml: stages.align.data.type: there is no toy data 'endles'; "
         "did you mean 'endless'?"),
        ("stages.words.sise=1", "toy.yaml: stages.words has no key 'sise'; did you mean 'size'?"),
        ("stages.words.type=toy_stp", "toy.yaml: stages.words.type: there is no stage type 'toy_stp'; "
         "did you mean 'toy_step'?"),
    ],
)  # fmt: skip
def test_parts_check_their_own_sections_before_anything_runs(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        check_recipe(parse_recipe(apply_overrides(two_stages(), [override], "toy.yaml"), "toy.yaml"))
    assert str(told.value) == sentence


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no recipe file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "cut.yaml").write_text("name: [a\nb: 3", encoding="utf-8")
    with pytest.raises(UserError, match=r"cut.yaml, line 2 is not valid YAML"):
        read_recipe(tmp_path / "cut.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match="not a text file"):
        read_recipe(tmp_path / "picture.yaml")


# ---- YAML as a person means it


def test_yaml_numbers_and_words() -> None:
    assert parse_yaml("[1e-3, -2E5, 1.5e+3, 3, 0.5, no, off, yes, true, False, null]", "here") == [
        1e-3, -2e5, 1500.0, 3, 0.5, "no", "off", "yes", True, False, None,
    ]  # fmt: skip


def test_a_key_written_twice() -> None:
    with pytest.raises(UserError) as told:
        parse_yaml("a: 1\nb: 2\na: 3\n", "here")
    assert str(told.value) == "here, line 3: the key 'a' is written a second time; the first is on line 1"


# ---- one run, one recipe


def test_what_only_shows_or_keeps_does_not_make_another_run() -> None:
    one, other = two_stages(), two_stages()
    other["stages"]["align"] |= {"save_steps": 5, "logging_steps": 1, "dataloader_num_workers": 2}
    other |= {"description": "else", "evaluate": {"a": 1}, "save_total_limit": 9}
    assert recipe_hash(parse_recipe(one, "a")) == recipe_hash(parse_recipe(other, "b"))


def test_what_decides_the_weights_does() -> None:
    one = parse_recipe(two_stages(), "a")
    for override, difference in [
        ("stages.align.learning_rate=0.5", ("stages.align.learning_rate", "0.001", "0.5")),
        ("model.width=3", ("model.width", "absent", "3")),
        ("stages.words.size=9", ("stages.words.size", "2", "9")),
    ]:
        other = parse_recipe(apply_overrides(two_stages(), [override], "b"), "b")
        assert first_difference(essence(one), essence(other)) == difference
        assert recipe_hash(one) != recipe_hash(other)
    turned = two_stages()
    turned["stages"] = dict(reversed(turned["stages"].items()))
    other = parse_recipe(turned, "b")
    assert first_difference(essence(one), essence(other)) == (
        "stages", "words then align then tune", "tune then align then words",
    )  # fmt: skip
    assert recipe_hash(one) != recipe_hash(other)
