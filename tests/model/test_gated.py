"""Gated layers beside Mllama's and beside Flamingo's formula; which token looks at which picture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.mllama.configuration_mllama import MllamaTextConfig
from transformers.models.mllama.modeling_mllama import MllamaForCausalLM, _prepare_cross_attention_mask
from transformers.models.mllama.processing_mllama import get_cross_attention_token_mask

from kit import stir
from sightling.errors import UserError
from sightling.model.gated import NAME, GatedLayers
from sightling.model.looking import Looking, look
from sightling.sight.connectors.cross_attention import CrossAttentionOptions

IMAGE, VISUAL, WIDTH = 7, 5, 32
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CROSS = (1, 4)
"""Mllama's cross-attention layers among six; ours stand before the text layers 1 and 3."""

ROWS = [
    [IMAGE, 11, 12, IMAGE, 13, 14, 15, 16],
    [21, 22, IMAGE, 23, 24, 25, 26, 27],
    [31, 32, 33, 34, 35, 36, 37, 38],
]


def grown(kind: type, **told: Any) -> Any:
    config = kind(**{**SIZES, "num_hidden_layers": 4, **told})
    return stir(AutoModelForCausalLM.from_config(config), 0).eval()


def gated_for(language: Any, **told: Any) -> GatedLayers:
    options = CrossAttentionOptions(**{"layers": (1, 3), **told})
    layers = stir(GatedLayers(options, language.config), 1, 0.4).eval()
    layers.attach(language)
    return layers


def run(language: Any, ids_BT: Tensor, looking: Looking | None, **told: Any) -> Tensor:
    with torch.no_grad():
        embeddings = language.get_input_embeddings()(ids_BT)
        named = {} if looking is None else {NAME: looking}
        return language.lm_head(
            language.get_decoder()(inputs_embeds=embeddings, **named, **told).last_hidden_state
        )


def visual(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, VISUAL, WIDTH, generator=torch.Generator().manual_seed(seed))


def mllama() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = MllamaTextConfig(
        **SIZES, num_hidden_layers=6, cross_attention_layers=[*CROSS], rope_parameters=rope, rms_norm_eps=1e-6
    )
    return stir(MllamaForCausalLM(config), 0).eval()


def from_mllama(theirs: Any, sees: str) -> tuple[Any, GatedLayers]:
    """Our language model and gated layers with Mllama's weights, key by key."""
    language = grown(LlamaConfig, rms_norm_eps=1e-6)
    gated = gated_for(language, sees=sees)
    state = theirs.state_dict()
    text = [number for number in range(6) if number not in CROSS]
    ours = {}
    for key in language.state_dict():
        steps = key.split(".")
        if steps[1] == "layers":
            steps[2] = str(text[int(steps[2])])
        ours[key] = state[".".join(steps)][:60]
    language.load_state_dict(ours)
    for number, place in enumerate(CROSS):
        gated.layers[number].load_state_dict(
            {key.split(".", 3)[3]: tensor for key, tensor in state.items() if key.startswith(f"model.layers.{place}.")}
        )
    return language, gated


def mllama_mask(sees: str) -> Tensor:
    """Mllama's mask (rows, tokens, pictures, 1 tile) as its processor makes it; ``all`` has no end of a picture."""
    mask = torch.zeros(len(ROWS), len(ROWS[0]), 2, 1)
    for row, ids in enumerate(ROWS):
        for picture, (start, end) in enumerate(get_cross_attention_token_mask(ids, IMAGE)):
            mask[row, start : len(ids) if sees == "all" or end == -1 else end, picture] = 1
    return mask


@pytest.mark.parametrize("sees", ["last", "all"])
def test_logits_are_mllamas(sees: str) -> None:
    theirs = mllama()
    language, _ = from_mllama(theirs, sees)
    pictures = visual(3)
    given = torch.zeros(3, 2, VISUAL, WIDTH)
    given[0], given[1, 0] = pictures[:2], pictures[2]
    mask, rows = _prepare_cross_attention_mask(mllama_mask(sees), VISUAL, torch.float32)
    # Llama 3.2's own code lets nothing of attention into a token that sees no picture; transformers leaves it in.
    for place in CROSS:
        theirs.model.layers[place].cross_attn.register_forward_hook(
            lambda module, args, out: (out[0] * rows[:, 0], out[1])
        )
    ids = torch.tensor(ROWS)
    with torch.no_grad():
        expected = theirs(
            input_ids=ids, cross_attention_states=given.flatten(1, 2), cross_attention_mask=mask,
            full_text_row_masked_out_mask=rows, use_cache=False,
        ).logits  # fmt: skip
    looking = look(ids == IMAGE, pictures, last=sees == "last")
    found = run(language, ids, looking, use_cache=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found[0] - run(language, ids, None)[0]).abs().max() > 0.1
    # A row without a picture is the language model's alone.
    torch.testing.assert_close(found[2], run(language, ids, None)[2], atol=0, rtol=0)


def test_logits_are_mllamas_as_it_stands_where_every_token_sees_a_picture() -> None:
    theirs = mllama()
    language, _ = from_mllama(theirs, "last")
    ids = torch.tensor([[IMAGE, IMAGE, 11, 12, IMAGE, 13]])
    mask = torch.zeros(1, 6, 3, 1)
    for picture, (start, end) in enumerate(get_cross_attention_token_mask(ids[0].tolist(), IMAGE)):
        mask[0, start:end, picture] = 1
    assert mask[0, :, :, 0].sum(1).tolist() == [1, 2, 2, 2, 1, 1]
    bias, rows = _prepare_cross_attention_mask(mask, VISUAL, torch.float32)
    with torch.no_grad():
        expected = theirs(
            input_ids=ids, cross_attention_states=visual(3).reshape(1, -1, WIDTH), cross_attention_mask=bias,
            full_text_row_masked_out_mask=rows, use_cache=False,
        ).logits  # fmt: skip
    found = run(language, ids, look(ids == IMAGE, visual(3), last=True), use_cache=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_flamingo_layer_is_flamingos_formula() -> None:
    language = grown(Qwen2Config)
    gated = gated_for(language, form="flamingo", layers=(0,), heads=2, head_dim=6, intermediate_size=20)
    layer = gated.layers[0]
    media = visual(1)[0]
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(5))

    def norm(one: Tensor, module: Any) -> Tensor:
        return F.layer_norm(one, (WIDTH,), module.weight, module.bias)

    attention = layer.cross_attn
    q = (norm(x, layer.input_layernorm) @ attention.q_proj.weight.T).view(4, 2, 6)
    k, v = ((media @ one.weight.T).view(VISUAL, 2, 6) for one in (attention.k_proj, attention.v_proj))
    weights = torch.einsum("thw,shw->hts", q, k).div(6**0.5).softmax(-1)
    y = x + layer.cross_attn_attn_gate.tanh() * (
        torch.einsum("hts,shw->thw", weights, v).reshape(4, 12) @ attention.o_proj.weight.T
    )
    fed = (norm(y, layer.post_attention_layernorm) @ layer.mlp.up_proj.weight.T).relu().square()
    y = y + layer.cross_attn_mlp_gate.tanh() * (fed @ layer.mlp.down_proj.weight.T)
    looking = look(torch.tensor([[True, False, False, False]]), media[None], last=True)
    torch.testing.assert_close(layer(x[None], looking)[0], y, atol=1e-5, rtol=1e-5)
    assert (y - x).abs().max() > 0.5


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("form", ["mllama", "flamingo"])
def test_a_model_begins_as_its_language_model_alone(kind: type, form: str) -> None:
    language = grown(kind)
    ids = torch.tensor(ROWS)
    before, keys = run(language, ids, None), [*language.state_dict()]
    options = CrossAttentionOptions(form=form, every=2)
    gated = GatedLayers(options, language.config)
    gated.attach(language)
    assert [*language.state_dict()] == keys and gated.places == (1, 3)
    looking = look(ids == IMAGE, visual(3), last=True)
    assert torch.equal(run(language, ids, looking), before)
    assert looking is not None and len(looking.fresh) == 2
    stir(gated, 1, 0.4)
    found = run(language, ids, look(ids == IMAGE, visual(3), last=True))
    assert (found - before)[:2].abs().amax(-1)[0].min() > 1e-3
    # Before its picture, and in a row without one, nothing at all is added.
    assert torch.equal(found[1, :2], before[1, :2]) and torch.equal(found[2], before[2])


def test_a_copy_looks_with_its_own_layers() -> None:
    language = grown(LlamaConfig)
    whole = torch.nn.ModuleList([language, gated_for(language)])
    ids = torch.tensor(ROWS[:1])
    copied = copy.deepcopy(whole)
    for parameter in whole[1].parameters():
        parameter.data.zero_()
    alone = run(language, ids, None)
    assert torch.equal(run(whole[0], ids, look(ids == IMAGE, visual(2), last=True)), alone)
    assert not torch.allclose(run(copied[0], ids, look(ids == IMAGE, visual(2), last=True)), alone, atol=1e-2)


@pytest.mark.parametrize("form", ["mllama", "flamingo"])
def test_gradients_are_the_same_when_layers_are_checkpointed(form: str) -> None:
    language = grown(LlamaConfig)
    whole = torch.nn.ModuleList([language, gated_for(language, form=form)]).train()
    ids = torch.tensor(ROWS)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            language.gradient_checkpointing_enable()
            for layer in whole[1].layers:
                layer.gradient_checkpointing = True
                layer._gradient_checkpointing_func = language.get_decoder().layers[0]._gradient_checkpointing_func
        whole.zero_grad()
        pictures = visual(3).requires_grad_()
        embeddings = language.get_input_embeddings()(ids)
        looking = look(ids == IMAGE, pictures, last=True)
        output = language.get_decoder()(inputs_embeds=embeddings, use_cache=False, **{NAME: looking})
        output.last_hidden_state.square().sum().backward()
        found.append([pictures.grad.clone(), *(one.grad.clone() for one in whole[1].parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert one.abs().max() > 1e-6


def seen(looking: Looking | None) -> Tensor:
    """How many visual tokens each token looks at."""
    assert looking is not None
    assert looking.mask_B1TS is not None
    counts = (looking.mask_B1TS[:, 0] & (looking.owner_BS >= 0)[:, None]).sum(-1)
    return counts if looking.seen_BT1 is None else counts * looking.seen_BT1[..., 0]


def test_branches_and_documents_of_a_row_look_at_their_own_pictures() -> None:
    #       document 0: trunk with a picture, branches 1 and 2; document 1: two pictures; padding.
    here = torch.tensor([[0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0]]).bool()
    documents = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1]])
    branches = torch.tensor([[0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 3, 4, 0, 1, 2, 3, 0]])
    told = {"documents": (documents, branches), "position_ids_BT": positions}
    tokens = [*torch.zeros(111, 2).split([1, 10, 100])]
    every = seen(look(here, tokens, last=False, **told))
    assert every.tolist() == [[0, 1, 1, 1, 1, 1, 10, 10, 110, 110, 0]]
    latest = seen(look(here, tokens, last=True, **told))
    assert latest.tolist() == [[0, 1, 1, 1, 1, 1, 10, 10, 100, 100, 0]]


def test_the_last_picture_is_that_of_a_tokens_own_path() -> None:
    # A tree: the trunk's picture at 0, then a branch (1, 2) with a picture of its own that touches it, another (3, 4).
    here = torch.tensor([[1, 1, 0, 0, 0, 1, 0]]).bool()
    branches = torch.tensor([[0, 1, 1, 2, 2, 2, 2]])
    positions = torch.tensor([[0, 1, 2, 1, 2, 3, 4]])
    documents = torch.zeros_like(branches)
    told = {"position_ids_BT": positions}
    tokens = [*torch.zeros(111, 2).split([1, 10, 100])]
    found = seen(look(here, tokens, last=True, documents=(documents, branches), **told))
    assert found.tolist() == [[1, 11, 11, 1, 1, 100, 100]]
    parents = [-1, 0, 1, 0, 3, 4, 5]
    mask = torch.full((1, 1, 7, 7), torch.finfo(torch.float32).min)
    for token in range(7):
        node = token
        while node >= 0:
            mask[0, 0, token, node], node = 0, parents[node]
    assert torch.equal(seen(look(here, tokens, last=True, attention_mask=mask, **told)), found)
    assert torch.equal(seen(look(here, tokens, last=True, attention_mask=mask == 0, **told)), found)


@pytest.mark.parametrize(
    "features, told, message",
    [
        (None, {}, "2 image placeholders in the text, but no picture was given"),
        (visual(3), {}, "2 image placeholders in the text, but 3 pictures"),
        (visual(1)[0], {}, "2 image placeholders in the text, but the 5 tokens of one picture"),
        ([*visual(1)], {}, "2 image placeholders in the text, but 1 pictures"),
        (visual(2), {"attention_mask": {"sliding_attention": None}}, "do not say which pictures are seen"),
    ],
)
def test_what_does_not_fit_together_is_refused(features: Any, told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look(torch.tensor(ROWS[:1]) == IMAGE, features, last=True, **told)


def test_text_alone_is_not_looked_at() -> None:
    assert look(torch.zeros(2, 5, dtype=torch.bool), None, last=True) is None
    with pytest.raises(ValueError, match="0 image placeholders in the text, but"):
        look(torch.zeros(1, 5, dtype=torch.bool), visual(1), last=True)


@pytest.mark.parametrize(
    "told, message",
    [
        ({"layers": (0, 4)}, "connector.layers names 4, but the language model's layers are counted from 0 to 3"),
        ({"every": 5}, "connector.every is 5, but the language model has only 4 layers"),
        ({"every": 1, "heads": 4, "kv_heads": 3}, "4 heads are not divisible by 3 kv_heads"),
    ],
)
def test_options_that_do_not_fit_the_language_model_are_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GatedLayers(CrossAttentionOptions(**told), grown(LlamaConfig).config)


def test_a_language_model_that_keeps_the_pictures_from_its_layers_is_found_out() -> None:
    looking = look(torch.tensor(ROWS) == IMAGE, visual(3), last=True)
    assert looking is not None
    with pytest.raises(RuntimeError, match="0 of 2 gated layers looked"):
        looking.close(None, 2)
