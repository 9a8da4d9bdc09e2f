"""A last layer whose feed-forward runs where something is learnt, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kit import LLAMA, MISTRAL, QWEN2, QWEN3, grow, talk
from sightling.model.modeling import IGNORED
from sightling.model.recomputing import checkpoint_layers
from sightling.model.trimming import last_feed_forward, trimmed
from sightling.train.objectives.answer import TENSORS
from sightling.train.packing import collate_rows, document

QUESTION = "what colour is the circle? is there a blue square left of the star? how many triangles are there?"


def made(language: dict[str, Any], *, answers: tuple[str, ...] = ("red", "2")) -> tuple[Any, dict[str, Tensor]]:
    """A model of random weights, and two short answers to long questions."""
    model, processor = grow(seed=1, language_model=language)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    encoded = [processor.encode(talk(QUESTION, answer)) for answer in answers]
    batch = collate_rows([document([one]) for one in encoded], [[0, 1], [1]], processor.pad_token_id)
    return model, {name: batch[name] for name in TENSORS}


def learnt(model: Any, batch: dict[str, Tensor], trim: bool) -> tuple[Tensor, dict[str, Tensor], list[int]]:
    """The loss, gradients, and how many positions each pass through the last feed-forward had."""
    model.zero_grad()
    counts: list[int] = []
    last = model.get_decoder().layers[-1].mlp.gate_proj
    hook = last.register_forward_hook(lambda module, given, out: counts.append(given[0].shape[:-1].numel()))
    loss, _ = model.supervised_loss(**batch, trim=trim)
    loss.backward()
    hook.remove()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, counts


@pytest.mark.parametrize("language", [LLAMA, QWEN2, QWEN3, MISTRAL], ids=lambda section: section["type"])
def test_it_learns_the_same_from_supervised_positions_alone(language: dict[str, Any]) -> None:
    model, batch = made(language)
    loss, gradients, counts = learnt(model, batch, False)
    trimmed_loss, found, fewer = learnt(model, batch, True)
    assert counts == [batch["labels"].numel()] and fewer == [int((batch["labels"] != IGNORED).sum())]
    torch.testing.assert_close(trimmed_loss, loss, rtol=1e-6, atol=1e-6)
    assert set(found) == set(gradients)
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-6)
    assert gradients["language_model.model.layers.1.mlp.down_proj.weight"].abs().max() > 1e-3


def test_where_most_positions_are_supervised_nothing_is_picked_out() -> None:
    model, batch = made(LLAMA)
    batch["labels"] = batch["input_ids"]
    assert learnt(model, batch, True)[2] == [batch["labels"].numel()]


def test_layers_that_are_checkpointed_are_left_whole() -> None:
    model, batch = made(LLAMA)
    plain = learnt(model, batch, True)[1]
    model.train()
    checkpoint_layers(model, ["language_model"])
    _, found, counts = learnt(model, batch, True)
    assert counts == [batch["labels"].numel()] * 2
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)


def test_afterwards_the_layer_is_as_it_was_and_others_are_not_touched() -> None:
    model, _ = grow(language_model=LLAMA)
    decoder = model.get_decoder()
    marked = torch.zeros(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(2, 3\), marked were \(1, 4\)"), trimmed(decoder, marked):
        decoder.layers[-1].mlp(torch.randn(2, 3, 32))
    assert "forward" not in vars(decoder.layers[-1].mlp)
    assert last_feed_forward(nn.Linear(2, 2)) is None
    sparse = {"type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    experts, _ = grow(language_model={**LLAMA, **sparse})
    assert last_feed_forward(experts.get_decoder()) is None
