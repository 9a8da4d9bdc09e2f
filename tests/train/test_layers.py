"""A language model of which some layers train, as MiniMind-V's instruction tuning has it."""

from __future__ import annotations

import pytest

from kit import LLAMA, grow
from sightling.errors import UserError
from sightling.train.recipe import Trains, parse_recipe
from sightling.train.trained import able_to_learn, model_parts, set_training, trained_tensors

RATES = {"encoder": 0.0, "connector": 1e-3, "language_model": 1e-3}


def test_the_named_layers_train_and_nothing_else_of_the_language_model() -> None:
    model, _ = grow(language_model={**LLAMA, "num_hidden_layers": 4})
    parts, able = model_parts(model), able_to_learn(model)
    set_training(model, parts, RATES, able, "r.yaml: stages.one", Trains(language_model=True, layers=[0, -1]))
    trained = set(trained_tensors(model, parts, RATES))
    layers = {name.split(".")[3] for name in trained if name.startswith("language_model.")}
    assert layers == {"0", "3"} and all(".layers." in name for name in trained if name.startswith("language_model."))
    assert {name for name in trained if name.startswith("connector.")} and len(trained) == 2 * 9 + 4
    set_training(model, parts, RATES, able, "r.yaml: stages.one")
    assert len(trained_tensors(model, parts, RATES)) > len(trained)
    with pytest.raises(UserError, match=r"^r.yaml: stages.one.train.layers names layer 4, but .* are 0 to 3$"):
        set_training(model, parts, RATES, able, "r.yaml: stages.one", Trains(language_model=True, layers=[4]))


def test_layers_of_a_frozen_language_model_are_refused() -> None:
    stage = {"objective": {"type": "answer"}, "data": {"type": "world"}, "learning_rate": 1e-3, "max_steps": 1,
             "train": {"connector": True, "layers": [0]}}  # fmt: skip
    with pytest.raises(UserError, match=r"stages.one.train.layers is about the language model, which is frozen"):
        parse_recipe({"name": "r", "model": {}, "stages": {"one": stage}}, "r.yaml")
    stage["train"] = {"language_model": True, "layers": []}
    with pytest.raises(UserError, match=r"stages.one.train.layers = \[\] is wrong"):
        parse_recipe({"name": "r", "model": {}, "stages": {"one": stage}}, "r.yaml")


def test_the_named_modules_of_a_part_train_and_nothing_else_of_it() -> None:
    model, _ = grow(connector={"type": "qformer", "queries": 2, "width": 32, "depth": 2, "heads": 2})
    parts, able = model_parts(model), able_to_learn(model)
    train = Trains(connector=True, only={"connector": ["language_projection"]})
    set_training(model, parts, {"connector": 1e-3}, able, "r.yaml: stages.one", train)
    trained = trained_tensors(model, parts, {"connector": 1e-3})
    assert set(trained) == {"connector.language_projection.weight", "connector.language_projection.bias"}
    wrong = Trains(connector=True, only={"connector": ["langage_projection"]})
    message = r"stages.one.train.only: the connector has nothing called 'langage_projection'; did you mean 'language_p"
    with pytest.raises(UserError, match=message):
        set_training(model, parts, {"connector": 1e-3}, able, "r.yaml: stages.one", wrong)


def test_only_what_trains_can_train_in_part() -> None:
    stage = {"objective": {"type": "answer"}, "data": {"type": "world"}, "learning_rate": 1e-3, "max_steps": 1,
             "train": {"language_model": True, "only": {"connector": ["x"]}}}  # fmt: skip
    with pytest.raises(UserError, match=r"stages.one.train.only is about the connector, which is frozen; let it train"):
        parse_recipe({"name": "r", "model": {}, "stages": {"one": stage}}, "r.yaml")
