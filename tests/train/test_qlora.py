"""QLoRA: adapters of matrices that rest in 4 or 8 bits, that they learn, resume bit for bit and end as floats."""

from __future__ import annotations

import copy
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import assert_same, text_of
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import ToyModel, build, parse_recipe, toy_recipe, toy_tree

import kit
from sightling.data.sample import question
from sightling.errors import UserError
from sightling.loading import quiet
from sightling.model import adapters, quantised
from sightling.model.adapters import adapted_layers, adapter_parameters, detach, merge, plain
from sightling.model.quantised import QuantisedLinear, rounded
from sightling.train import preparing
from sightling.train.adapters import attach_adapters
from sightling.train.loop import StageLoop
from sightling.train.planning import plan_recipe
from sightling.train.recipe import Recipe, Trains
from sightling.train.run import run
from sightling.train.stopping import Interrupted
from sightling.train.summary import tensor_bytes
from sightling.train.trained import able_to_learn, model_parts, set_training

NF4: dict[str, Any] = {"type": "lora", "r": 2, "lora_alpha": 4, "learning_rate": 2e-2, "quantize": "nf4"}
WORLD = {"type": "world", "image_size": 16, "languages": ["en"], "families": ["color"], "questions_per_picture": 2,
         "scene": {"max_things": 2}}  # fmt: skip
HELD = [{"quantize": "nf4"}, {"quantize": "nf4", "double_quantize": True}, {"quantize": "fp4"}, {"quantize": "int8"}]


def tree(**told: Any) -> dict[str, Any]:
    """A quantised stage with dropout, held-out loss and a connector in full, between two in full."""
    adapt = {"train": {"connector": True, "language_model": {**NF4, "lora_dropout": 0.1}}, "max_steps": 6,
             "save_steps": 2, "eval_steps": 2, "data": {"type": "finite"}}  # fmt: skip
    return toy_tree(
        whole={"max_steps": 2}, adapt={**adapt, **told}, last={"train": {"language_model": True}, "max_steps": 2}
    )


def grown(folder: Path, told: dict[str, Any], console: Console | None = None, **more: Any) -> dict[str, Tensor]:
    console = console or Console(file=io.StringIO(), width=120)
    run(parse_recipe(told, "toy.yaml"), folder, threads=1, build=build, console=console, **more)
    return load_file(folder / "model" / "toy.safetensors")


def set_up(**options: Any) -> tuple[Any, Any]:
    """A model in evaluation mode with an adapter of its quantised language model that says something, and processor."""
    model, processor = kit.grow()
    train = Trains(language_model={"type": "lora", "r": 2, **options})
    able = able_to_learn(model)
    attach_adapters(model, train, able, "r.yaml: stages.one", 0)
    set_training(model, model_parts(model), train.rates(1e-2), able, "r.yaml: stages.one", train)
    for layer in adapted_layers(model).values():
        kit.stir(layer.lora_B, 1)
    return model.eval(), processor


def logits(model: Any, processor: Any) -> Tensor:
    encoded = processor.encode(question("is there a blue square?", kit.picture()))
    told = processor.inputs(*encoded.pictures).tensors()
    with torch.no_grad():
        return model(input_ids=torch.tensor([encoded.input_ids]), **told).logits


def bits(model: nn.Module) -> dict[str, Tensor]:
    """What is held of all quantised matrices."""
    return {f"{name}.{key}": held.detach().clone() for name, layer in model.named_modules()
            if isinstance(layer, QuantisedLinear) for key, held in layer.named_parameters()}  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    grown(folder, tree(), keep={"adapt": [3]})
    return folder


# ---- what a recipe says


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"quantize": "nf3"}, r"language_model.quantize = 'nf3' is wrong: input should be 'nf4', 'fp4' or 'int8'"),
        ({"quantize": 4}, r"train.language_model.quantize = 4 is wrong"),
        ({"quantise": "nf4"}, r"train.language_model has no key 'quantise'; did you mean 'quantize'\?"),
        ({"quantize": "nf4", "double_quantize": "yes"}, r"language_model.double_quantize = 'yes' is wrong"),
        ({"double_quantize": True}, r"language_model: double_quantize rounds the scales of 4 bits; say quantize: nf4"),
        ({"quantize": "int8", "double_quantize": True}, r"language_model: double_quantize rounds the scales of 4 bits"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        toy_recipe(one={"train": {"language_model": {"type": "lora", **told}}})
    assert "\n" not in str(error.value)


def test_a_recipe_is_read_back_and_says_what_its_matrices_are_held_in() -> None:
    recipe = parse_recipe(tree(), "toy.yaml")
    stage: Any = recipe.stages["adapt"]
    assert stage.train.described(1e-2)["language_model"] == "0.02 (LoRA, r 2, in nf4)"
    assert parse_recipe(recipe.to_dict(), "toy.yaml").to_dict() == recipe.to_dict()


def test_without_the_library_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    message = (r"^toy.yaml: stages.adapt.train.language_model.quantize needs bitsandbytes, which is not installed; "
               r'run: pip install "sightling\[qlora\]"$')  # fmt: skip
    with pytest.raises(UserError, match=message) as error:
        grown(tmp_path / "run", tree())
    assert error.value.exit_code == 2 and not (tmp_path / "run").exists()


def test_a_model_in_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapt\.train\.language_model\.quantize is for parallel: ddp; leave it out"):
        grown(tmp_path / "run", {**tree(), "parallel": "fsdp"})
    assert not (tmp_path / "run").exists()


def test_a_matrix_that_another_layer_shares_is_refused_and_all_stays_as_it_was() -> None:
    model = ToyModel()
    model.language_model.layers[1].up.weight = model.language_model.layers[0].up.weight
    train = Trains(encoder=NF4, language_model=NF4)
    with pytest.raises(UserError, match=r"language_model.quantize: layers\.0\.up shares its weight with another layer"):
        attach_adapters(model, train, able_to_learn(model), "r.yaml: stages.one", 0)
    assert set(model.state_dict()) == set(ToyModel().state_dict()) and not bits(model)
    alone = Trains(language_model={**NF4, "target_modules": ["down"]})
    assert attach_adapters(model, alone, able_to_learn(model), "r.yaml: stages.one", 0)


def test_dora_of_a_row_that_is_rounded_to_zeros_is_refused() -> None:
    """In 4 bits a row that is small beside its neighbours is lost, in 8 it has a scale of its own."""
    for kind in ("int8", "nf4"):
        model = ToyModel()
        with torch.no_grad():
            model.language_model.layers[0].up.weight[1] = 1e-4
        train = Trains(language_model={**NF4, "quantize": kind, "use_dora": True})
        if kind == "int8":
            assert attach_adapters(model, train, able_to_learn(model), "r.yaml: stages.one", 0)
            continue
        message = r"language_model: layers\.0\.up has a row of zeros, which DoRA cannot scale"
        with pytest.raises(UserError, match=message):
            attach_adapters(model, train, able_to_learn(model), "r.yaml: stages.one", 0)


# ---- the layer


@pytest.mark.parametrize("told", HELD)
@pytest.mark.parametrize("shape", [(16, 8), (33, 7), (96, 64)])
def test_it_computes_and_learns_as_the_rounded_layer(told: dict[str, Any], shape: tuple[int, int]) -> None:
    from bitsandbytes import functional

    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    weight, parameter = layer.weight.detach().clone(), layer.weight
    kind, double = told["quantize"], told.get("double_quantize", False)
    held = QuantisedLinear(layer, kind, double)
    if kind != "int8" and shape != (33, 7):
        # Other than whole blocks a row they compile first, for the same numbers.
        theirs = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
        assert torch.equal(held.weight, functional.dequantize_4bit(*theirs).view(shape))
    assert torch.equal(held.weight, rounded(weight, kind, double)) and parameter.numel() == 0
    x = torch.randn(2, 3, shape[1], requires_grad=True)
    for bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            mine, usual = held(x), nn.functional.linear(x, held.weight, layer.bias)
        assert mine.dtype == usual.dtype and torch.equal(mine, usual)
        gradients = [torch.autograd.grad(y.float().pow(2).sum(), x)[0] for y in (mine, usual)]
        torch.testing.assert_close(*gradients, atol=1e-6 if not bf16 else 1e-1, rtol=1e-5 if not bf16 else 2e-2)
    again = held.give_back(held.weight)
    assert again is layer and again.weight is parameter and torch.equal(again.weight, rounded(weight, kind, double))
    assert not rounded(torch.zeros(shape), kind, double).any()


def test_what_is_held_is_a_fraction_and_the_floats_are_freed() -> None:
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256, bias=False))
    size = tensor_bytes(before.parameters())
    for told, most in zip(HELD, (0.15, 0.14, 0.15, 0.27)):
        model = copy.deepcopy(before)
        floats = list(model.parameters())
        quantised.quantise(model, ["0", "1"], told["quantize"], told.get("double_quantize", False))
        assert tensor_bytes(model.parameters()) < most * size
        assert sum(one.untyped_storage().nbytes() for one in floats) == 4 * 512
        assert sum(quantised.weights_of(model).values()) == sum(one.numel() for one in before.parameters())


@pytest.mark.parametrize("told", [*HELD, {"quantize": "nf4", "use_dora": True}])
def test_merged_it_says_what_it_said_and_is_a_plain_model(told: dict[str, Any]) -> None:
    model, processor = set_up(**told)
    shapes = {name: tensor.shape for name, tensor in kit.grow()[0].state_dict().items()}
    held = bits(model)
    assert len({name.rsplit(".", 1)[0] for name in held}) == 2 * 7
    unmerged = logits(model, processor)
    with plain(model):
        assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
        torch.testing.assert_close(logits(model, processor), unmerged, atol=1e-4, rtol=1e-4)
    # Not a bit of what rests has changed by all that, and the rounded base is not the one before.
    assert_same(bits(model), held)
    assert torch.equal(logits(model, processor), unmerged)
    merge(model)
    torch.testing.assert_close(logits(model, processor), unmerged, atol=1e-4, rtol=1e-4)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()) and not bits(model)


def test_only_the_adapter_learns_and_what_rests_stays_rounded() -> None:
    model, processor = set_up(quantize="nf4")
    assert adapters.described(model.language_model) == "LoRA, r 2, of 14 matrices in nf4"
    own, before = kit.grow()[0].state_dict(), bits(model)
    learning = adapter_parameters(model)
    assert {id(one) for one in model.parameters() if one.requires_grad} == {id(one) for one in learning}
    encoded = processor.encode(question("how many?", kit.picture()))
    told = processor.inputs(*encoded.pictures).tensors()
    was = [one.detach().clone() for one in learning]
    model(input_ids=torch.tensor([encoded.input_ids]), **told).logits.logsumexp(-1).sum().backward()
    torch.optim.AdamW(learning, lr=1e-2).step()
    assert all(not torch.equal(one, old) for one, old in zip(learning, was))
    assert_same(bits(model), before)
    detach(model)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], own[name])}
    assert len(changed) == 14 and all(torch.equal(after[name], rounded(own[name], "nf4", False)) for name in changed)


# ---- runs


def test_a_run_learns_measures_and_ends_as_a_plain_model(uninterrupted: Path) -> None:
    final = load_file(uninterrupted / "model" / "toy.safetensors")
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in ToyModel().state_dict().items()}
    for path in ("model/toy", "kept/adapt-00000003/toy"):
        found = load_file(uninterrupted / f"{path}.safetensors")
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == shapes
    told = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in told if "eval_loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert all(tensor.isfinite().all() for tensor in final.values() if tensor.is_floating_point())


@pytest.mark.parametrize("at", [1, 4, 6])
def test_stopped_anywhere_it_goes_on_bit_for_bit(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    done, real = 0, StageLoop.update

    def interrupted(self: StageLoop, *args: Any) -> Any:
        nonlocal done
        done += self.name == "adapt"
        if done == at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "update", interrupted)
        with pytest.raises(Interrupted, match="the same command continues"):
            grown(tmp_path, tree())
    checkpoints = sorted((tmp_path / "checkpoints" / "adapt").glob("*/weights.safetensors"))
    assert all(".lora_" in name or name.startswith("connector") for path in checkpoints for name in load_file(path))
    assert_same(grown(tmp_path, tree()), load_file(uninterrupted / "model" / "toy.safetensors"))
    for path in (uninterrupted / "adapters").rglob("*.safetensors"):
        assert_same(load_file(path), load_file(tmp_path / path.relative_to(uninterrupted)))


@pytest.mark.parametrize("told", [{}, {"bf16": True}])
def test_a_stage_leaves_the_rounded_base_and_its_adapter(tmp_path: Path, told: dict[str, Any]) -> None:
    lora = {**NF4, "target_modules": ["up"], "double_quantize": True}
    final = grown(tmp_path, toy_tree(one={"train": {"language_model": lora}, **told}))
    before = build({}, 1, Path())[0].state_dict()
    adapter = load_file(tmp_path / "adapters" / "one" / "language_model" / "adapter_model.safetensors")
    for layer in (0, 1):
        name = f"language_model.layers.{layer}.up"
        high, low = (adapter[f"base_model.model.{name}.lora_{one}.weight"] for one in "BA")
        base = rounded(before[f"{name}.weight"], "nf4", True)
        assert (high @ low).abs().max() > 0 and not torch.equal(base, before[f"{name}.weight"])
        torch.testing.assert_close(final[f"{name}.weight"], base + 2.0 * (high @ low))
    rest = {key for key in final if not key.endswith("up.weight")}
    assert all(torch.equal(final[key], before[key]) for key in rest if "running" not in key and "num_" not in key)


def test_the_table_says_what_is_held_how(tmp_path: Path, console: Console) -> None:
    grown(tmp_path, toy_tree(one={"train": {"connector": True, "language_model": NF4}}), console)
    lines = [" ".join(line.split()) for line in text_of(console).splitlines()]
    whole = sum(parameter.numel() for parameter in ToyModel().language_model.parameters())
    assert any("language_model" in row and str(whole) in row and "frozen" in row for row in lines), lines
    assert any("LoRA, r 2, of 5 matrices in nf4" in row and "218" in row and "0.02" in row for row in lines), lines


def test_a_real_run_s_adapter_is_of_the_rounded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained, what stands in ``model/``, and the adapter around the rounded base say the same."""
    import sightling
    import sightling.train.run as running

    real, trained = running.merge_adapters, []

    def merged(model: Any, *args: Any) -> Any:
        trained.append(logits(model.eval(), kit.plain()[1]))
        return real(model, *args)

    monkeypatch.setattr(running, "merge_adapters", merged)
    run(real_recipe(), tmp_path, threads=1, build=lambda *told: kit.grow(), console=Console(file=io.StringIO()))
    model, processor = sightling.load(tmp_path, device="cpu")
    torch.testing.assert_close(logits(model, processor), trained[0], atol=1e-4, rtol=1e-4)
    base, _ = set_up(quantize="nf4")
    detach(base)
    with quiet():
        around = PeftModel.from_pretrained(base, tmp_path / "adapters" / "one" / "language_model").eval()
    torch.testing.assert_close(logits(around, processor), trained[0], atol=1e-4, rtol=1e-4)


def real_recipe(**more: Any) -> Recipe:
    stage = {
        "objective": {"type": "answer", "max_length": 128}, "data": WORLD,
        "learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 1, "gradient_checkpointing": True,
        "train": {"language_model": {"type": "lora", "r": 2, "quantize": "nf4"}}, **more,
    }  # fmt: skip
    return parse_recipe(
        {"name": "r", "bf16": False, "report_to": "none", "model": kit.section(), "stages": {"one": stage}}, "r.yaml"
    )


def test_a_plan_counts_bits_and_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the real model, without making one; the next stage finds floats again."""
    monkeypatch.setattr(preparing, "MICRO_BATCHES", 1)
    kit.tokenizer().save_pretrained(tmp_path / "words")
    section = {**kit.section(), "tokenizer": {"pretrained": str(tmp_path / "words")}}
    adapter = {"type": "lora", "r": 2, "quantize": "nf4", "double_quantize": True}
    told = real_recipe(train={"language_model": adapter}).to_dict()
    stage = told["stages"]["one"]
    stages = {"one": stage, "two": {**stage, "train": {"language_model": True}}}
    recipe = parse_recipe({**told, "model": section, "stages": stages}, "r.yaml")
    plans = plan_recipe(recipe, probe_seconds=0).stages
    model, _ = set_up(quantize="nf4", double_quantize=True)
    of = [*model.language_model.parameters(), *model.language_model.buffers()]
    parts = [next(part for part in plan.parts if part.name == "language_model") for plan in plans]
    assert parts[0].weights == tensor_bytes(of)
    floats = sum(layer.out_features * layer.in_features for layer in model.modules()
                 if isinstance(layer, QuantisedLinear))  # fmt: skip
    # These matrices are so small that what is held once for each of them counts.
    assert parts[1].weights - parts[0].weights > 0.5 * 4 * floats
    learning = sum(one.numel() for one in adapter_parameters(model))
    assert parts[0].trained == learning and parts[0].parameters == parts[1].parameters + learning
    assert plans[0].flops < plans[1].flops and plans[0].memory.weights < plans[1].memory.weights
