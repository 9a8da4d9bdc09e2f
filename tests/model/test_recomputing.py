"""Checkpointed layers give the numbers of others to the bit, and keep their input alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kit import CLIP, LLAMA, QWEN3, grow, picture, talk
from sightling.model import VisionLanguageModel
from sightling.model.inputs import Inputs
from sightling.model.recomputing import Recompute, checkpoint_layers, recompute, recomputing
from sightling.train.objectives.answer import TENSORS
from sightling.train.packing import collate_rows, document
from sightling.train.summary import ActivationMeter

CROSS = {"type": "cross_attention", "every": 1, "sees": "all"}
OPT = {"type": "opt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48,
       "word_embed_proj_dim": 32, "max_position_embeddings": 512}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"language_model": {**LLAMA, "num_hidden_layers": 4}},
    "qwen3, clip": {"language_model": QWEN3, "encoder": CLIP},
    "gated": {"connector": CROSS, "language_model": {**LLAMA, "tie_word_embeddings": False}},
    "opt": {"language_model": OPT},
}
ALL = ("encoder", "connector", "language_model")


def packed(processor: Any) -> dict[str, Any]:
    """A row of several documents and branches, long enough for tree attention."""
    one, two = picture(1), picture(2)
    groups = [
        [talk((one, "what colour is the circle?"), "red"), talk((one, "how many triangles are there?"), "2")],
        [talk((two, "is there a blue square left of the star?"), "yes")],
        *([talk("a small green heart and two large yellow crosses", "1234567890")] for _ in range(4)),
    ]
    encoded = [[processor.encode(one) for one in group] for group in groups]
    batch = collate_rows([document(group) for group in encoded], [[*range(len(groups))]], processor.pad_token_id)
    shown = Inputs.join([processor.inputs(one), processor.inputs(two)]).tensors()
    return {name: batch[name] for name in TENSORS} | shown


def learnt(model: VisionLanguageModel, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], int]:
    """(loss, gradients by name, bytes kept)."""
    model.zero_grad()
    torch.manual_seed(0)
    with ActivationMeter(model) as meter:
        # A last layer that is trimmed, as it would be while it is not checkpointed, is the same but for rounding.
        loss, _ = model.supervised_loss(**batch, trim=False)
    loss.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return loss.detach(), gradients, meter.size


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("frozen", [(), ("encoder", "language_model")], ids=["all", "connector"])
def test_checkpointed_layers_learn_the_same_to_the_bit(name: str, frozen: tuple[str, ...]) -> None:
    model, processor = grow(**MODELS[name])
    batch = packed(processor)
    model.train()
    for part in frozen:
        model.parts()[part].eval().requires_grad_(False)
    if name == "opt" and frozen:
        # A layer of its kind looks at its own mode for dropout: one that rests must not drop.
        for layer in model.get_decoder().layers:
            layer.dropout = 0.5
    modes = [module.training for module in model.modules()]
    loss, gradients, kept = learnt(model, batch)
    counts = checkpoint_layers(model, ALL)
    assert counts["language_model"] == len(model.get_decoder().layers) and counts["encoder"] == 2
    assert counts["connector"] == (2 if name == "gated" else 0)
    again_loss, again, less = learnt(model, batch)
    assert torch.equal(loss, again_loss) and set(gradients) == set(again) and gradients
    assert all(torch.equal(again[one], gradients[one]) for one in gradients)
    assert less < 0.7 * kept
    assert checkpoint_layers(model, ()) == {}
    assert [module.training for module in model.modules()] == modes
    assert learnt(model, batch)[2] == kept


def test_tree_attention_goes_on_in_checkpointed_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = grow(**MODELS["llama"])
    batch = packed(processor)
    model.train()
    checkpoint_layers(model, ["language_model"])
    monkeypatch.setattr(VisionLanguageModel, "packed_mask", None)
    loss, _ = model.supervised_loss(**batch, trim=False)
    loss.backward()
    assert model.language_model.config._attn_implementation == "sdpa"


def test_only_the_parts_named_are_checkpointed() -> None:
    model, _ = grow(**MODELS["llama"])
    model.train()
    assert checkpoint_layers(model, ["encoder"]) == {"encoder": 2}
    here = [name for name, one in model.named_modules() if getattr(one, "gradient_checkpointing", False) is True]
    assert len(here) == 2 and all(name.startswith("encoder.") for name in here)


def test_what_is_computed_once_more_knows_it() -> None:
    seen: list[bool] = []

    def square(x: Tensor) -> Tensor:
        seen.append(recomputing())
        return x * x

    x = torch.ones(2, requires_grad=True)
    recompute(square, x).sum().backward()
    assert seen == [False, True] and not recomputing()


def test_a_compiled_forward_takes_the_layers_place() -> None:
    seen: list[nn.Module] = []
    model, processor = grow(**MODELS["llama"])
    model.train()

    def compiled(layer: nn.Module) -> Any:
        plain: Any = type(layer).forward.__wrapped__  # type: ignore[attr-defined]

        def call(own: nn.Module, *args: Any, **kwargs: Any) -> Any:
            seen.append(own)
            return plain(own, *args, **kwargs)

        return call

    batch = packed(processor)
    loss, gradients, _ = learnt(model, batch)
    checkpoint_layers(model, ["language_model"], compiled)
    assert all(isinstance(one._gradient_checkpointing_func, Recompute) for one in model.get_decoder().layers)
    again_loss, again, _ = learnt(model, batch)
    assert torch.equal(loss, again_loss) and all(torch.equal(again[one], gradients[one]) for one in gradients)
    assert len(seen) == 2 * len(model.get_decoder().layers)
