from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kit import LLAMA, MISTRAL, QWEN2, QWEN3, grow
from sightling.errors import UserError
from sightling.model import VisionLanguageModel
from sightling.model.mask import TRUNK, tree_mask
from sightling.model.modeling import IGNORED
from sightling.model.tree import FAMILIES, NAME, NO_MASK, Layout, attending, lay_out, layout_for, tree_attention

FAMILY = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "mistral": {**MISTRAL, "sliding_window": 500},
    "qwen3_moe": {**LLAMA, "type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 24},
    "qwen2_vl_text": {**LLAMA, "type": "qwen2_vl_text"},
    "qwen2_5_vl_text": {**LLAMA, "type": "qwen2_5_vl_text"},
    "qwen3_vl_text": {**LLAMA, "type": "qwen3_vl_text"},
}  # fmt: skip

Trees = list[list[list[int]]]
"""Rows of documents; a document is the lengths of its trunk and of its branches."""

DOCUMENT = st.lists(st.integers(1, 20), min_size=1, max_size=6)
ROWS = st.lists(st.lists(DOCUMENT, max_size=4), min_size=1, max_size=4).filter(any)

MANY: Trees = [[[18, 9, 11, 40, 6, 12], [18, 7, 8, 9], [5]], [[17, 10, 10, 10, 10, 10, 10], [30]], [[3, 1], [1]]]


def packed(trees: Trees) -> dict[str, Tensor]:
    """document_ids, branch_ids and position_ids of rows, with padding."""
    width = max(sum(map(sum, row)) for row in trees)
    names = {"document_ids": -1, "branch_ids": TRUNK, "position_ids": 0}
    batch = {name: torch.full((len(trees), width), value) for name, value in names.items()}
    for row, documents in enumerate(trees):
        start = 0
        for number, lengths in enumerate(documents):
            for branch, length in enumerate(lengths):
                here = (row, slice(start, start + length))
                begin = lengths[0] if branch else 0
                batch["document_ids"][here], batch["branch_ids"][here] = number, branch
                batch["position_ids"][here] = torch.arange(begin, begin + length)
                start += length
    return batch


def layout_of(batch: dict[str, Tensor]) -> Layout:
    layout = lay_out(batch["document_ids"], batch["branch_ids"])
    assert layout is not None
    return layout


# ---- the numbers


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([(2, 2), (4, 2), (3, 1)]), st.integers(0, 99))
def test_outputs_and_gradients_are_those_of_the_dense_mask(trees: Trees, heads: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    batch = packed(trees)
    (rows, length), (H, G) = batch["document_ids"].shape, heads
    mask = tree_mask(batch["document_ids"], batch["branch_ids"], torch.float32)
    q = torch.randn(rows, H, length, 8, requires_grad=True)
    k, v = (torch.randn(rows, G, length, 8, requires_grad=True) for _ in "kv")
    wide_k, wide_v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    real = (batch["document_ids"] >= 0)[:, :, None, None]
    dense = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask, scale=0.7).transpose(1, 2) * real
    compact, nothing = tree_attention(torch.nn.Identity(), q, k, v, NO_MASK, scaling=0.7, tree=layout_of(batch))
    assert nothing is None and compact.dtype == torch.float32
    torch.testing.assert_close(compact, dense, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(dense)
    for ours, theirs in zip(
        torch.autograd.grad(compact, (q, k, v), grad), torch.autograd.grad(dense, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_autocast_computes_in_bfloat16_about_as_exactly_as_the_dense_form() -> None:
    torch.manual_seed(0)
    batch = packed(MANY)
    rows, length = batch["document_ids"].shape
    mask = tree_mask(batch["document_ids"], batch["branch_ids"], torch.float32)
    real = (batch["document_ids"] >= 0)[:, :, None, None]
    q, k, v = (torch.randn(rows, 2, length, 32, requires_grad=True) for _ in "qkv")
    grad = torch.randn(rows, length, 2, 32) * real

    def told(compact: bool) -> list[Tensor]:
        if compact:
            out = tree_attention(torch.nn.Identity(), q, k, v, NO_MASK, tree=layout_of(batch))[0]
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        return [out.detach() * real, *torch.autograd.grad(out, (q, k, v), grad.to(out.dtype))]

    exact = told(False)
    with torch.autocast("cpu", torch.bfloat16):
        dense, compact = told(False), told(True)
    assert compact[0].dtype == dense[0].dtype == torch.bfloat16 and compact[1].dtype == torch.float32
    for true, theirs, ours in zip(exact, dense, compact, strict=True):
        assert float((ours - true).norm()) < 2 * float((theirs - true).norm())


@pytest.mark.parametrize("family", FAMILY)
def test_every_family_has_the_loss_and_the_gradients_of_the_dense_mask(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = grow(language_model=FAMILY[family])
    assert model.language_model.config.model_type == family and set(FAMILY) == FAMILIES
    batch = packed(MANY)
    torch.manual_seed(0)
    batch["input_ids"] = torch.randint(20, 200, batch["document_ids"].shape)
    batch["labels"] = batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.5, IGNORED)
    batch["labels"].masked_fill_(batch["document_ids"] < 0, IGNORED)

    def told() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        loss, _ = model.supervised_loss(**batch)
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    with monkeypatch.context() as patch:
        patch.setattr(VisionLanguageModel, "packed_mask", None)
        loss, gradients = told()
    again, same = told()
    assert torch.equal(loss, again) and all(torch.equal(gradients[name], same[name]) for name in gradients)
    monkeypatch.setattr(VisionLanguageModel, "packed_layout", lambda *_: None)
    dense_loss, dense = told()
    torch.testing.assert_close(loss, dense_loss, rtol=1e-5, atol=0)
    assert set(gradients) == set(dense) and len(dense) > 10
    largest = max(float(gradient.abs().max()) for gradient in dense.values())
    for name, gradient in dense.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5 * largest, rtol=1e-4, msg=name)


# ---- the choice


def chosen(batch: dict[str, Tensor], *, training: bool = False, **config: Any) -> bool:
    """Whether a model with these settings takes the compact form."""
    model, _ = grow(language_model={**LLAMA, **config})
    model.train(training)
    return model.packed_layout(batch["document_ids"], batch["branch_ids"], batch["position_ids"]) is not None


def test_the_compact_form_is_for_rows_of_which_few_scores_are_needed() -> None:
    many, one = packed(MANY), packed([[[60]], [[58]]])
    assert chosen(many) and not chosen(one)
    assert layout_of(one).scores >= 2 * 60 * 60
    needed = sum(sum(n * (n + 1) // 2 for n in d) + d[0] * sum(d[1:]) for row in MANY for d in row)
    assert needed < layout_of(many).scores < many["document_ids"].numel() * many["document_ids"].shape[1] / 2


def test_windows_dropout_checkpoints_and_other_attention_take_the_dense_mask() -> None:
    batch = packed(MANY)
    longest = int(batch["position_ids"].max())
    assert not chosen(batch, type="mistral", sliding_window=longest)
    assert chosen(batch, type="mistral", sliding_window=longest + 1)
    assert not chosen(batch, training=True, attention_dropout=0.1)
    assert chosen(batch, attention_dropout=0.1) and chosen(batch, training=True)
    model, _ = grow()
    language_model, told = model.language_model, (batch["document_ids"], batch["branch_ids"])
    assert layout_for(language_model, *told) is not None
    assert layout_for(language_model, *(ids.to("meta") for ids in told)) is None
    model.activation_checkpointing_enable()
    assert layout_for(language_model, *told) is None
    model.activation_checkpointing_disable()
    language_model.config._attn_implementation = "eager"
    assert layout_for(language_model, *told) is None
    language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="takes no mask"):
        model.packed_layout(*told, batch["position_ids"])


@pytest.mark.parametrize(
    ("documents", "branches"),
    [([0, 0, 0, 0], [0, 1, 2, 1]), ([0, 0, 0, 0], [0, 1, 0, 0]), ([0, 1, 1, 0], [0, 0, 0, 0]), ([-1, -1], [0, 0])],
    ids=["a branch in two pieces", "a trunk in two pieces", "a document in two pieces", "padding alone"],
)
def test_rows_that_are_no_trees_have_no_layout(documents: list[int], branches: list[int]) -> None:
    assert lay_out(torch.tensor([documents]), torch.tensor([branches])) is None


def test_documents_of_branches_alone_share_nothing() -> None:
    ids, branches = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[1, 1, 2, 1]])
    layout = lay_out(ids, branches)
    assert layout is not None
    q = torch.randn(1, 1, 4, 8)
    dense = F.scaled_dot_product_attention(q, q, q, attn_mask=tree_mask(ids, branches, torch.float32))
    compact = tree_attention(torch.nn.Identity(), q, q, q, NO_MASK, tree=layout)[0]
    torch.testing.assert_close(compact, dense.transpose(1, 2))


# ---- the wiring


def test_the_configuration_is_as_before_also_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = grow()
    config, batch = model.language_model.config, packed(MANY)
    names: list[str] = []

    def failing(*_: Any, **passed: Any) -> None:
        names.append(config._attn_implementation)
        assert isinstance(passed["tree"], Layout) and passed["attention_mask"] is NO_MASK
        raise KeyError("on the way")

    monkeypatch.setattr(model, "decode", failing)
    ids = torch.zeros_like(batch["document_ids"])
    with pytest.raises(KeyError, match="on the way"):
        model.supervised_loss(ids, ids, **batch)
    assert names == [NAME] and config._attn_implementation == "sdpa"


def test_a_layer_that_runs_again_without_the_layout_is_loud() -> None:
    model, _ = grow()
    batch = packed(MANY)
    ids = torch.zeros_like(batch["document_ids"])
    layout = layout_of(batch)
    with pytest.raises(RuntimeError, match="size"):
        model.decode(ids, image_features_NQD=None, attention_mask=NO_MASK, use_cache=False, tree=layout)
    with attending(model.language_model.config):
        model.decode(ids, image_features_NQD=None, attention_mask=NO_MASK, use_cache=False, tree=layout)


def test_what_it_does_not_compute_is_refused() -> None:
    batch = packed(MANY)
    layout, module = layout_of(batch), torch.nn.Identity()
    rows, length = batch["document_ids"].shape
    q = torch.zeros(rows, 1, length, 8)
    assert ALL_ATTENTION_FUNCTIONS[NAME] is tree_attention
    for wrong in ({"tree": None}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match="takes a layout, and neither a mask nor dropout"):
            tree_attention(module, q, q, q, NO_MASK, **{"tree": layout, **wrong})
    with pytest.raises(ValueError, match="neither a mask"):
        tree_attention(module, q, q, q, q, tree=layout)
    told = f"^{rows} rows of 4 queries and {length} keys, but a layout of {rows * length}$"
    with pytest.raises(ValueError, match=told):
        tree_attention(module, q[:, :, :4], q, q, NO_MASK, tree=layout)
