from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy import ToyModel, toy_recipe

from sightling.train.muon import Muon, iteration_flops, orthogonal, orthogonalise
from sightling.train.optimizers import Optimizers, build_optimizers, parameter_kinds, short_number
from sightling.train.recipe import TrainStage
from sightling.train.summary import expected_memory


def stage(**told: Any) -> TrainStage:
    found = toy_recipe(one=told).stages["one"]
    assert isinstance(found, TrainStage)
    return found


def optimizers(model: ToyModel, **told: Any) -> Optimizers:
    settings = stage(**told)
    return build_optimizers(settings, model.parts(), settings.train.rates(settings.learning_rate))


def take_step(model: ToyModel, optimizer: Optimizers, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    loss = model(torch.rand(4, 3, generator=generator), torch.arange(4)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


# ---- Muon


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 12), st.integers(0, 12), st.integers(0, 1000))
def test_orthogonalise_brings_singular_values_near_one(count: int, rows: int, more: int, seed: int) -> None:
    wide = torch.randn(count, rows, rows + more, generator=torch.Generator().manual_seed(seed))
    # A random square matrix may be nearly singular; five steps cannot lift what is almost zero.
    wide = wide + 0.5 * torch.eye(rows, rows + more)
    values = torch.linalg.svdvals(orthogonalise(wide).float())
    # The share of each singular value that the iteration's slope can lift from: 1/50 of the norm.
    liftable = torch.linalg.svdvals(wide) / wide.norm(dim=(1, 2), keepdim=True).squeeze(-1) > 0.02
    assert values.max() < 1.3
    assert values[liftable].min() > 0.6


def test_orthogonalise_takes_each_matrix_by_itself() -> None:
    matrices = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalise(matrices), alone, atol=1e-6)
    assert orthogonalise(torch.zeros(1, 3, 4)).abs().max() == 0


@pytest.mark.parametrize("rows, columns", [(16, 64), (24, 48), (1, 7)])
def test_steps_on_the_short_side_give_what_steps_on_all_give(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightling.train.muon.iteration_dtype", lambda device: torch.float32)
    x_KMN = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    # Singular values from 1 down to what float32's products with themselves nearly lose.
    x_KMN[1] *= torch.logspace(0, -4, rows)[:, None]
    short, whole = orthogonalise(x_KMN), orthogonalise(x_KMN, short_side=False)
    assert not torch.equal(short, whole)
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("short_side", [True, False])
@pytest.mark.parametrize("shape", [(16, 64), (48, 24), (8, 12), (9, 9)])
def test_operations_are_counted_as_they_are_done(
    shape: tuple[int, int], short_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightling.train.muon.iteration_dtype", lambda device: torch.float32)
    with FlopCounterMode(display=False) as counter:
        orthogonal([torch.ones(shape)], short_side=short_side)
    assert counter.get_total_flops() == iteration_flops(shape, 5, torch.float32, short_side)


def test_a_stage_says_how_muon_works() -> None:
    for told in (True, False):
        muon = optimizers(ToyModel(), optim="muon", muon_shared=told, muon_short_side=told).inner["muon"]
        assert isinstance(muon, Muon) and muon.shared is told and muon.short_side is told


def test_updates_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 24), (24, 24), (16, 64), (64, 16), (64, 16)]
    ours = [nn.Parameter(0.1 * torch.randn(*shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = {"lr": 1e-2, "weight_decay": 0.1, "momentum": 0.9}
    mine = Muon(ours, **settings)
    torchs = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(5):
        before = [[p.detach().clone() for p in parameters] for parameters in (ours, theirs)]
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        torchs.step()
        for a, b, a_before, b_before in zip(ours, theirs, *before, strict=True):
            change, expected = (a - a_before).detach(), (b - b_before).detach()
            # torch iterates in bfloat16, which carries 8 bits.
            assert (change - expected).norm() / expected.norm() < 0.03
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.state[a]["momentum_buffer"], torchs.state[b]["momentum_buffer"])


def test_many_matrices_go_through_in_several_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def changes(limit: int) -> list[torch.Tensor]:
        monkeypatch.setattr("sightling.train.muon.MAX_ELEMENTS", limit)
        generator = torch.Generator().manual_seed(1)
        parameters = [nn.Parameter(torch.randn(4, 6, generator=generator)) for _ in range(5)]
        for parameter in parameters:
            parameter.grad = torch.randn(4, 6, generator=generator)
        Muon(parameters).step()
        return [parameter.detach() for parameter in parameters]

    for one, other in zip(changes(2**26), changes(48), strict=True):
        torch.testing.assert_close(one, other)


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])


# ---- which parameter is updated how


def test_kinds_of_parameters() -> None:
    model = ToyModel()
    names = {parameter: name for name, parameter in model.language_model.named_parameters()}
    kinds = {names[parameter]: kind for parameter, kind in parameter_kinds(model.language_model).items()}
    assert {name for name, kind in kinds.items() if kind.muon} == {
        f"layers.{layer}.{matrix}.weight" for layer in (0, 1) for matrix in ("up", "down")
    }
    assert {name for name, kind in kinds.items() if not kind.decay} == {"embedding.weight"} | {
        f"layers.{layer}.{vector}" for layer in (0, 1) for vector in ("norm.weight", "norm.bias", "up.bias")
    }
    assert set(kinds) == set(names.values())


def test_a_head_that_shares_the_embedding_is_an_embedding() -> None:
    model = ToyModel()
    model.language_model.head.weight = model.language_model.embedding.weight
    kind = parameter_kinds(model.language_model)[model.language_model.head.weight]
    assert not kind.muon and not kind.decay


def test_towers_of_transformers() -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=16, **sizes))
    kinds = parameter_kinds(llama)
    assert sum(kind.muon for kind in kinds.values()) == 2 * 7
    assert not kinds[llama.get_input_embeddings().weight].muon
    assert not kinds[llama.get_output_embeddings().weight].muon
    tower = SiglipVisionModel(SiglipVisionConfig(image_size=16, patch_size=8, vision_use_head=False, **sizes))
    matrices = {name for name, p in tower.named_parameters() if parameter_kinds(tower)[p].muon}
    assert len(matrices) == 2 * 6 and all(".layers." in name for name in matrices)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_groups_carry_part_rate_and_decay(optim: str) -> None:
    model = ToyModel()
    train = {"connector": True, "language_model": 5e-4}
    model.encoder.requires_grad_(False)
    built = optimizers(model, optim=optim, train=train, learning_rate=1e-3, weight_decay=0.1)
    of_part = {"connector": 1e-3, "language_model": 5e-4}
    trained = set()
    for group in built.param_groups:
        assert group["lr"] == group["initial_lr"] == of_part[group["part"]]
        for parameter in group["params"]:
            assert parameter not in trained
            trained.add(parameter)
            assert group["weight_decay"] == (0.1 if parameter_kinds(model)[parameter].decay else 0.0)
    assert trained == {*model.connector.parameters(), *model.language_model.parameters()}
    built.scale(0.5)
    assert all(group["lr"] == 0.5 * of_part[group["part"]] for group in built.param_groups)
    assert built.described("connector") == "AdamW"
    assert built.described("language_model") == ("Muon 512 + AdamW 144" if optim == "muon" else "AdamW")


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizers(stage(), ToyModel().parts(), {"encoder": 0.0})


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_state_goes_around_and_its_size_is_known(optim: str) -> None:
    torch.manual_seed(0)
    model = ToyModel()
    built = optimizers(model, optim=optim)
    for seed in range(3):
        take_step(model, built, seed)
    state = built.state_dict()
    sizes = [t.numel() * t.element_size() for inner in state.values() for entry in inner["state"].values()
             for t in entry.values()]  # fmt: skip
    assert sum(sizes) == built.state_bytes() == expected_memory(model, built).optimizer
    twin = copy.deepcopy(model)
    other = optimizers(twin, optim=optim)
    other.load_state_dict(copy.deepcopy(state))
    for seed in range(3, 6):
        take_step(model, built, seed)
        take_step(twin, other, seed)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_of_other_optimizers_is_refused() -> None:
    with pytest.raises(ValueError, match="muon"):
        optimizers(ToyModel(), optim="muon").load_state_dict(optimizers(ToyModel()).state_dict())


def test_short_numbers() -> None:
    assert [short_number(n) for n in (950, 12_300, 4_500_000, 1_200_000_000)] == ["950", "12.3k", "4.5M", "1.2B"]
