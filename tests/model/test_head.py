"""The loss in chunks is the loss of all logits at once, and keeps none of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from kit import grow, talk
from sightling.model import head as head_module
from sightling.model.head import AT_ONCE, ChunkedLoss, chunk_length, summed_loss
from sightling.train.objectives.answer import TENSORS
from sightling.train.packing import collate_rows, document

POSITIONS, WIDTH, VOCABULARY = 37, 8, 53


def drawn(*, bias: bool = False, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    return head, torch.randn(POSITIONS, WIDTH), torch.randint(0, VOCABULARY, (POSITIONS,))


def told(
    head: nn.Module, hidden: Tensor, target: Tensor, chunk: int | None, *, scale: float = 1.0, bf16: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(loss, hits, gradients by name) in chunks."""
    head.zero_grad()
    hidden = hidden.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, hits = summed_loss(head, hidden, target, VOCABULARY, chunk)
        (loss * scale).backward()
    assert hidden.grad is not None
    own = {name: one.grad.clone() for name, one in head.named_parameters() if one.grad is not None}
    return loss.detach(), hits, {"hidden": hidden.grad, **own}


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, None])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1 / 300])
def test_chunks_have_the_loss_and_the_gradients_of_all_at_once(chunk: int | None, bias: bool, scale: float) -> None:
    parts = drawn(bias=bias)
    loss, hits, gradients = told(*parts, 0, scale=scale)
    chunked_loss, chunked_hits, chunked = told(*parts, chunk, scale=scale)
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-6, atol=0)
    assert torch.equal(hits, chunked_hits) and hits > 0
    torch.testing.assert_close(chunked, gradients, rtol=1e-5, atol=1e-6)


def test_a_head_that_rests_gets_no_gradient_and_hidden_states_that_rest_none_either() -> None:
    head, hidden, target = drawn(bias=True)
    _, _, gradients = told(head, hidden, target, 0)
    head.requires_grad_(False)
    _, _, frozen = told(head, hidden, target, 5)
    assert set(frozen) == {"hidden"}
    torch.testing.assert_close(frozen["hidden"], gradients["hidden"], rtol=1e-5, atol=1e-6)
    head.requires_grad_(True)
    head.zero_grad()
    summed_loss(head, hidden, target, VOCABULARY, 5)[0].backward()
    torch.testing.assert_close(head.weight.grad, gradients["weight"], rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_all_at_once() -> None:
    parts = drawn(bias=True)
    _, _, exact = told(*parts, 0)
    loss, _, dense = told(*parts, 0, bf16=True)
    chunked_loss, _, chunked = told(*parts, 5, bf16=True)
    # Products of fewer rows may round a logit to its neighbour.
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-4, atol=0)
    for name, true in exact.items():
        assert chunked[name].dtype == torch.float32
        assert float((chunked[name] - true).norm()) <= 1.2 * float((dense[name] - true).norm()), name


class Scaled(nn.Module):
    """A head that is more than a matrix."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) * self.scale


def adapted(inner: nn.Linear) -> nn.Module:
    found = LoraLinear(inner, "default", LoraConfig(r=2), r=2, lora_alpha=4)
    nn.init.normal_(found.lora_B["default"].weight)
    return found


def hooked(inner: nn.Linear) -> nn.Module:
    inner.register_forward_hook(lambda module, args, output: output * 2)
    return inner


@pytest.mark.parametrize("make", [Scaled, adapted, hooked])
def test_other_heads_are_computed_once_more(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden, target = drawn()
    other = make(head)
    monkeypatch.setattr(ChunkedLoss, "apply", None)
    loss, hits, gradients = told(other, hidden, target, 0)
    chunked_loss, chunked_hits, chunked = told(other, hidden, target, 5)
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-6, atol=0)
    assert torch.equal(hits, chunked_hits) and set(chunked) == set(gradients)
    torch.testing.assert_close(chunked, gradients, rtol=1e-5, atol=1e-6)


def test_no_logits_are_kept_for_the_way_back() -> None:
    head, hidden, target = drawn()
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = summed_loss(head, hidden.requires_grad_(), target, VOCABULARY, 5)
    assert sorted(kept) == [(POSITIONS, WIDTH), (VOCABULARY, WIDTH)]
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_without_gradients_chunks_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden, target = drawn()
    loss, hits = summed_loss(head, hidden, target, VOCABULARY, 0)
    monkeypatch.setattr(head_module, "recompute", None)
    monkeypatch.setattr(ChunkedLoss, "apply", None)
    with torch.no_grad():
        chunked_loss, chunked_hits = summed_loss(head, hidden, target, VOCABULARY, 5)
    torch.testing.assert_close(chunked_loss, loss.detach(), rtol=1e-6, atol=0)
    assert torch.equal(hits, chunked_hits)


def test_a_chunk_is_as_long_as_told_or_as_memory_suggests() -> None:
    assert chunk_length(10, 1000, 0) == 10 and chunk_length(10, 1000, 3) == 3 and chunk_length(10, 1000, 30) == 10
    assert chunk_length(2**20, 1024, None) == AT_ONCE // 1024
    assert chunk_length(2**20, 2**30, None) == 1 and chunk_length(100, 1024, None) == 100 and chunk_length(0, 9, 4) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_learns_the_same_in_chunks(tied: bool) -> None:
    language = {"type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "tie_word_embeddings": tied}
    model, processor = grow(language_model=language)
    samples = [talk("what colour is the circle?", "red"), talk("how many triangles are there?", "2")]
    batch = collate_rows([document([processor.encode(one)]) for one in samples], [[0, 1]], processor.pad_token_id)

    def learnt(chunk: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        loss, _ = model.supervised_loss(**{name: batch[name] for name in TENSORS}, logits_chunk=chunk)
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loss, gradients = learnt(None)
    chunked_loss, chunked = learnt(2)
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-6, atol=0)
    assert set(chunked) == set(gradients)
    torch.testing.assert_close(chunked, gradients, rtol=1e-4, atol=1e-5)
