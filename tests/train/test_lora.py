"""Stages that train adapters: what trains, what is printed, that they resume bit for bit and end as plain models."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import assert_same, text_of, weights_after
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from toy import ToyModel, build, parse_recipe, toy_recipe, toy_tree

import kit
import sightling
from sightling.errors import UserError
from sightling.loading import quiet
from sightling.train.adapters import attach_adapters, merge_adapters
from sightling.train.loop import StageLoop
from sightling.train.optimizers import parameter_kinds
from sightling.train.recipe import Trains
from sightling.train.run import run
from sightling.train.stopping import Interrupted
from sightling.train.trained import able_to_learn, model_parts, set_training, trained_tensors

LORA = {"type": "lora", "r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "learning_rate": 2e-2}
DORA = {**LORA, "use_dora": True}


def tree() -> dict[str, Any]:
    """Adapters with dropout, beside a connector in full, after and before stages in full."""
    return toy_tree(
        whole={"max_steps": 4},
        adapt={"train": {"connector": True, "language_model": {**LORA, "target_modules": ["up", "down"]}},
               "max_steps": 8, "save_steps": 3},
        more={"train": {"encoder": {**LORA, "target_modules": ["0"]}, "language_model": DORA}, "max_steps": 6,
              "optim": "muon"},
        last={"train": {"language_model": True}, "max_steps": 2},
    )  # fmt: skip


def console_() -> Console:
    return Console(file=io.StringIO(), width=120)


def grown(folder: Path, told: dict[str, Any], console: Console | None = None, **more: Any) -> dict[str, torch.Tensor]:
    run(parse_recipe(told, "toy.yaml"), folder, threads=1, build=build, console=console or console_(), **more)
    return load_file(folder / "model" / "toy.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    grown(folder, tree(), keep={"adapt": [5]})
    return folder


# ---- what a recipe says


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"type": "lora", "rank": 4}, r"stages.one.train.language_model has no key 'rank'; "),
        ({"type": "lora", "r": 0}, r"stages.one.train.language_model.r = 0 is wrong: "),
        ({"type": "loar"}, r"stages.one.train.language_model.type = 'loar' is wrong: input should be 'lora'"),
        ({"type": "lora", "target_modules": "(q"}, r"language_model.target_modules = '\(q' is wrong: as a text it is a "
                                                   r"regular expression, and this is none"),
        ({"type": "lora", "target_modules": []}, r"target_modules = \[\] is wrong: it must name linear layers"),
        ({"type": "lora", "lora_dropout": 1}, r"language_model.lora_dropout = 1 is wrong"),
        ("lora", r"stages.one.train.language_model = 'lora' is wrong: a part is 'frozen', true, trains at a learning "
                 r"rate above 0, or has an adapter"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_adapter_is_one_sentence(told: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        toy_recipe(one={"train": {"language_model": told}})
    assert "\n" not in str(error.value)


def test_a_recipe_with_adapters_is_read_back_as_it_was_written() -> None:
    recipe = parse_recipe(tree(), "toy.yaml")
    stage: Any = recipe.stages["more"]
    assert stage.train.rates(1e-2) == {"encoder": 2e-2, "connector": 0.0, "language_model": 2e-2}
    assert stage.train.described(1e-2) == {"encoder": "0.02 (LoRA, r 2)", "language_model": "0.02 (DoRA, r 2)"}
    own: Any = toy_recipe(one={"train": {"language_model": {"type": "lora"}}}).stages["one"]
    assert own.train.rates(3e-3)["language_model"] == 3e-3
    again = parse_recipe(recipe.to_dict(), "toy.yaml")
    assert again.to_dict() == recipe.to_dict()


# ---- what trains


def set_up(told: dict[str, Any], **kinds: Any) -> tuple[Any, Any, Trains, dict[str, float], set[Any], list[Any]]:
    model, processor = kit.grow(**kinds)
    train, able = Trains(**told), able_to_learn(model)
    rates = train.rates(1e-3)
    attached = attach_adapters(model, train, able, "r.yaml: stages.one", 0)
    set_training(model, model_parts(model), rates, able, "r.yaml: stages.one", train)
    return model, processor, train, rates, able, attached


def test_only_the_adapter_and_what_stands_beside_it_train() -> None:
    model, _, _, rates, _, _ = set_up({"connector": True, "language_model": {"type": "lora", "r": 2}})
    trained = set(trained_tensors(model, model_parts(model), rates))
    adapter = {name for name in trained if ".lora_" in name}
    assert len(adapter) == 2 * 2 * 7 and all(name.startswith("language_model.model.layers.") for name in adapter)
    assert trained - adapter == {f"connector.{name}" for name, _ in model.connector.named_parameters()}


def test_what_rests_is_in_evaluation_mode_and_the_adapter_is_not() -> None:
    model, *_ = set_up({"encoder": {"type": "lora", "lora_dropout": 0.5}, "connector": True})
    training = {name for name, module in model.encoder.named_modules() if module.training}
    assert training and all(".lora_" in f".{name}" or "base_layer" in name or hasattr(
        model.encoder.get_submodule(name), "lora_A") for name in training)  # fmt: skip
    assert not model.language_model.training and model.connector.training


def test_layers_and_only_hold_for_adapters() -> None:
    told = {"language_model": {"type": "lora", "target_modules": ["q_proj", "v_proj"]}, "layers": [-1]}
    model, _, train, rates, able, _ = set_up(told)
    trained = trained_tensors(model, model_parts(model), rates)
    assert len(trained) == 2 * 2 and all(".layers.1.self_attn." in name for name in trained)
    changed = merge_adapters(model, train, rates, able, "r.yaml: stages.one")
    assert set(changed) == {f"language_model.model.layers.1.self_attn.{name}_proj.weight" for name in "qv"}
    inside = {"language_model": ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn"]}
    model, *_ = set_up({"language_model": {"type": "lora"}, "only": inside})
    of = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(of) == 1 + 4
    with pytest.raises(UserError, match=r"train\.only: the language_model has nothing called 'model\.layers\.7'"):
        set_up({"language_model": {"type": "lora"}, "only": {"language_model": ["model.layers.7"]}})


def test_a_stage_that_is_refused_leaves_the_model_as_it_was() -> None:
    model, _ = kit.grow()
    train = Trains(encoder={"type": "lora"}, language_model={"type": "lora", "target_modules": ["c_attn"]})
    with pytest.raises(UserError, match=r"^r.yaml: stages.one.train.language_model.target_modules: .* 'c_attn'"):
        attach_adapters(model, train, able_to_learn(model), "r.yaml: stages.one", 0)
    assert set(model.state_dict()) == set(kit.grow()[0].state_dict())


def test_dora_of_a_matrix_with_a_row_of_zeros_is_refused() -> None:
    """A fresh model's last matrices are zero, and PEFT would divide by the size of their rows."""
    model, _ = kit.grow()
    with torch.no_grad():
        model.language_model.model.layers[1].mlp.down_proj.weight[3] = 0
    train = Trains(language_model={"type": "lora", "use_dora": True})
    message = r"language_model: model\.layers\.1\.mlp\.down_proj has a row of zeros, which DoRA cannot scale; train it"
    with pytest.raises(UserError, match=message):
        attach_adapters(model, train, able_to_learn(model), "r.yaml: stages.one", 0)
    plain_ = Trains(language_model={"type": "lora"})
    assert attach_adapters(model, plain_, able_to_learn(model), "r.yaml: stages.one", 0)


def test_the_factors_of_an_adapter_are_no_matter_for_muon() -> None:
    model, *_ = set_up({"language_model": {"type": "lora", "use_dora": True}, "connector": True})
    kinds = parameter_kinds(model.language_model)
    assert len(kinds) == 3 * 14 and not any(kind.muon for kind in kinds.values())
    assert sum(kind.decay for kind in kinds.values()) == 2 * 14


# ---- runs


def test_the_table_says_what_is_adapted(tmp_path: Path, console: Console) -> None:
    grown(tmp_path, toy_tree(one={"train": {"connector": True, "language_model": LORA}}), console)
    lines = [" ".join(line.split()) for line in text_of(console).splitlines()]
    rows = [line for line in lines if "language_model" in line or "LoRA" in line]
    # Two blocks of 8 x 16 and back, and a head of 8 x 5: (8 + 16) x 2 x 4 + (8 + 5) x 2.
    whole = sum(parameter.numel() for parameter in ToyModel().language_model.parameters())
    assert any("language_model" in row and str(whole) in row and "frozen" in row for row in rows), rows
    assert any("LoRA, r 2, of 5 matrices" in row and "218" in row and "0.02" in row for row in rows), rows


def test_a_run_ends_as_a_plain_model_and_keeps_its_adapters(uninterrupted: Path) -> None:
    final = load_file(uninterrupted / "model" / "toy.safetensors")
    assert {name: tensor.shape for name, tensor in final.items()} == {
        name: tensor.shape for name, tensor in ToyModel().state_dict().items()
    }
    kept = load_file(uninterrupted / "kept" / "adapt-00000005" / "toy.safetensors")
    assert set(kept) == set(final)
    stage = load_file(uninterrupted / "stages" / "adapt" / "weights.safetensors")
    assert set(stage) == {"connector.weight", "connector.bias"} | {
        f"language_model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in ("up", "down")
    }
    folders = sorted(str(path.parent.relative_to(uninterrupted / "adapters"))
                     for path in (uninterrupted / "adapters").rglob("adapter_config.json"))  # fmt: skip
    assert folders == ["adapt/language_model", "more/encoder", "more/language_model"]
    assert not list((uninterrupted / "checkpoints").iterdir())


def test_merged_is_what_the_adapter_said(tmp_path: Path) -> None:
    """The stage's weights are those before it and the adapter that is kept, to float32's rounding."""
    told = toy_tree(one={"train": {"language_model": {**LORA, "target_modules": ["up"]}}})
    final, before = grown(tmp_path, told), ToyModelState()
    adapter = load_file(tmp_path / "adapters" / "one" / "language_model" / "adapter_model.safetensors")
    for layer in (0, 1):
        name = f"language_model.layers.{layer}.up"
        high, low = (adapter[f"base_model.model.{name}.lora_{one}.weight"] for one in "BA")
        change = 2.0 * (high @ low)
        assert change.abs().max() > 0
        torch.testing.assert_close(final[f"{name}.weight"], before[f"{name}.weight"] + change)
    rest = {key for key in final if not key.endswith("up.weight")}
    assert all(torch.equal(final[key], before[key]) for key in rest if "running" not in key and "num_" not in key)


def ToyModelState() -> dict[str, torch.Tensor]:
    """What the toy recipes begin with."""
    return build({}, 1, Path())[0].state_dict()


@pytest.mark.parametrize("at", [1, 6, 8, 13])
def test_stopped_anywhere_it_goes_on_bit_for_bit(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Ctrl-C arrives while update ``at`` of the two adapted stages is under way."""
    done = 0
    real = StageLoop.update

    def interrupted(self: StageLoop, *args: Any) -> Any:
        nonlocal done
        done += self.name in ("adapt", "more")
        if done == at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "update", interrupted)
        with pytest.raises(Interrupted, match="the same command continues"):
            grown(tmp_path, tree())
    assert_same(grown(tmp_path, tree()), load_file(uninterrupted / "model" / "toy.safetensors"))
    for path in (uninterrupted / "adapters").rglob("*.safetensors"):
        assert_same(load_file(path), load_file(tmp_path / path.relative_to(uninterrupted)))


@pytest.mark.parametrize("place", ["write_adapters", "merge_adapters", "save_checkpoint"])
def test_crashed_while_an_adapter_was_put_away(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import sightling.train.run as running

    real, crashed = getattr(running, place), False

    def crash(*args: Any, **told: Any) -> Any:
        nonlocal crashed
        if place != "save_checkpoint" or args[0].name == "adapt":
            crashed = True
            raise ZeroDivisionError("power cut")
        return real(*args, **told)

    with monkeypatch.context() as patch:
        patch.setattr(running, place, crash)
        with pytest.raises(ZeroDivisionError):
            grown(tmp_path, tree())
    assert crashed
    assert_same(grown(tmp_path, tree()), load_file(uninterrupted / "model" / "toy.safetensors"))


def test_a_lost_model_is_made_again_from_the_stages(tmp_path: Path) -> None:
    import shutil

    stages: dict[str, Any] = {"one": {"train": {"language_model": DORA, "connector": True}}, "two": {}}
    first = weights_after(tmp_path, **stages)
    shutil.rmtree(tmp_path / "model")
    assert_same(first, weights_after(tmp_path, **stages))


def test_an_adapter_decides_the_weights_so_another_one_is_another_run(tmp_path: Path) -> None:
    weights_after(tmp_path, one={"train": {"language_model": LORA}})
    with pytest.raises(UserError, match=r"holds another run: stages.one.train.language_model.r is 2 there and 3 here"):
        weights_after(tmp_path, one={"train": {"language_model": {**LORA, "r": 3}}})


def test_a_real_model_grows_by_adapters_and_loads(tmp_path: Path) -> None:
    stage = {
        "objective": {"type": "answer"}, "data": {"type": "world", "image_size": 16, "questions_per_picture": 2},
        "learning_rate": 1e-3, "max_steps": 2, "per_device_train_batch_size": 1,
        "train": {"connector": True, "encoder": {"type": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]},
                  "language_model": {"type": "lora", "r": 2, "use_dora": True}},
    }  # fmt: skip
    told = {"name": "r", "bf16": False, "report_to": "none", "model": kit.section(), "stages": {"one": stage}}

    def made(*args: Any) -> Any:
        return kit.grow()

    run(parse_recipe(told, "r.yaml"), tmp_path, threads=1, build=made, console=console_())
    model, _ = sightling.load(tmp_path, device="cpu")
    before = kit.grow()[0].state_dict()
    after = model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in changed} == {"encoder", "connector", "language_model"}
    assert not any("lm_head" in name or "embed" in name or "norm" in name for name in changed)
    assert len([name for name in changed if name.startswith("encoder.")]) == 2 * 2
    for part in ("encoder", "language_model"):
        config = json.loads((tmp_path / "adapters" / "one" / part / "adapter_config.json").read_text())
        assert config["use_dora"] is (part == "language_model")
        with quiet():
            PeftModel.from_pretrained(kit.grow()[0], tmp_path / "adapters" / "one" / part)
