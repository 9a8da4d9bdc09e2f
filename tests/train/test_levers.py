"""What trades memory or speed changes nothing that is learnt, and says what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from growing import assert_same, weights_after
from levered import learnt, recipe
from torch import Tensor

from sightling.errors import UserError
from sightling.train import compiling
from sightling.train.checked import check_recipe
from sightling.train.planning import plan_recipe
from sightling.train.recipe import Recipe

Learnt = tuple[dict[str, Tensor], str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The folder of a run that pulls no lever, and its weights."""
    folder = tmp_path_factory.mktemp("levers")
    return folder, learnt(folder / "plain")[0]


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert set(one) == set(two)
    for name, tensor in one.items():
        # Two updates of AdamW turn rounding of small gradients into a small part of a step.
        assert float((tensor - two[name]).abs().max()) < 2e-4, name


def test_checkpointed_layers_learn_the_same_to_the_bit(plain: tuple[Path, dict[str, Tensor]]) -> None:
    folder, weights = plain
    again, said = learnt(folder / "checkpointed", gradient_checkpointing=True)
    assert_same(again, weights)
    assert "computed once more on the way back, 2 of the encoder, 2 of the language model" in said


def test_compiled_layers_learn_the_same_with_few_graphs(
    plain: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights = plain
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    again, said = learnt(folder / "compiled", torch_compile=True)
    close(again, weights)
    assert "torch.compile: 2 layers of the language model" in said
    count = int(said.split(" graphs were compiled")[0].split()[-1])
    assert 0 < count <= 12
    both, _ = learnt(folder / "both", torch_compile=True, gradient_checkpointing=["language_model"])
    close(both, weights)


def test_chunks_of_logits_learn_the_same(plain: tuple[Path, dict[str, Tensor]]) -> None:
    folder, weights = plain
    close(learnt(folder / "chunks", objective={"type": "answer", "max_length": 128, "logits_chunk": 3})[0], weights)


def test_adamw_learns_the_same_without_its_fused_kernel(tmp_path: Path) -> None:
    # Before a batch norm a bias has no gradient but rounding, of which AdamW makes whole steps.
    train = {"connector": True, "language_model": True}
    fused = weights_after(tmp_path / "fused", one={"train": train})
    loops = weights_after(tmp_path / "loops", one={"train": train, "optim_fused": False})
    for name, tensor in fused.items():
        torch.testing.assert_close(tensor, loops[name], rtol=1e-4, atol=1e-5)


def planned(small: Recipe) -> Any:
    (stage,) = plan_recipe(small, probe_seconds=0).stages
    return stage


@pytest.mark.parametrize("bf16", [False, True])
def test_a_plan_counts_less_that_is_kept_and_more_that_is_computed(tmp_path: Path, bf16: bool) -> None:
    whole = {"type": "answer", "max_length": 128, "trim": False}
    usual, checkpointed = (
        planned(recipe(tmp_path / "words", gradient_checkpointing=told, bf16=bf16, objective=whole))
        for told in (False, True)
    )
    assert checkpointed.memory.activations < 0.7 * usual.memory.activations and checkpointed.peak < usual.peak
    assert 1.1 * usual.flops < checkpointed.flops < 1.34 * usual.flops
    assert checkpointed.memory.weights == usual.memory.weights
    trimmed = planned(recipe(tmp_path / "words", bf16=bf16))
    assert trimmed.flops < usual.flops and trimmed.memory.activations < usual.memory.activations


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"gradient_checkpointing": ["head"]}, "gradient_checkpointing = ['head'] is wrong: it must be true, false or"),
        ({"gradient_checkpointing": ["encoder"], "train": {"connector": True}}, "names the encoder, which is frozen"),
        ({"torch_compile": "yes"}, "torch_compile"),
        ({"objective": {"type": "answer", "logits_chunk": -1}}, "logits_chunk"),
    ],
)
def test_wrong_levers_are_told(tmp_path: Path, told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        check_recipe(recipe(tmp_path / "words", **told))
    assert sentence in str(error.value)


def test_a_model_without_layers_and_a_part_without_them_are_refused(tmp_path: Path) -> None:
    for key, told in (("gradient_checkpointing", "no layers that could"), ("torch_compile", "no list of them")):
        with pytest.raises(UserError, match=f"stages.one.{key}.*{told}"):
            weights_after(tmp_path / key, one={key: True})
    with pytest.raises(UserError, match="gradient_checkpointing: the connector has no layers that could"):
        learnt(tmp_path / "run", gradient_checkpointing=["connector"])


def test_a_missing_compiler_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UserError, match=r"^here\.torch_compile needs a C\+\+ compiler, and there is none here; "):
        compiling.check_compiler(torch.device("cpu"), "here")
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^here\.torch_compile needs the package triton on cuda"):
        compiling.check_compiler(torch.device("cuda"), "here")
