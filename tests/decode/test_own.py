"""The own decoder: token for token what transformers' ``generate`` says, for every language model that it runs."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from typing import Any

import pytest
import torch

from kit import LLAMA, MISTRAL, QWEN2, QWEN3, grow, picture, talk
from sightling.data.sample import Sample
from sightling.decode.batch import answer_all
from sightling.decode.decoder import decoder_for
from sightling.decode.generate import Trace, generate
from sightling.decode.own import OwnDecoder
from sightling.model import VisionLanguageModel, VisionLanguageProcessor

SHORT = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
OPT = {"type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
       "ffn_dim": 48, "max_position_embeddings": 512}  # fmt: skip
EXPERTS = {**LLAMA, "type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
           "decoder_sparse_step": 2}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("own", {"language_model": LLAMA}),
    "llama with biases": ("own", {"language_model": {**LLAMA, "attention_bias": True, "mlp_bias": True}}),
    "llama of one key-value head": ("own", {"language_model": {**LLAMA, "num_key_value_heads": 1}}),
    "llama by yarn": ("own", {"language_model": {**LLAMA, "rope_parameters": SHORT}}),
    "mistral": ("own", {"language_model": {**MISTRAL, "sliding_window": None}}),
    "mistral of a window": ("own", {"language_model": {**MISTRAL, "sliding_window": 7}}),
    "qwen2": ("own", {"language_model": QWEN2}),
    "qwen2 of windows": ("own", {"language_model": {**QWEN2, "use_sliding_window": True, "sliding_window": 9,
                                                    "max_window_layers": 1}}),
    "qwen3": ("own", {"language_model": QWEN3}),
    "qwen3 of experts": ("own", {"language_model": EXPERTS}),
    "opt": ("a opt is decoded by transformers", {"language_model": OPT}),
    "llama by dynamic angles": ("of type 'dynamic'", {"language_model": {**LLAMA, "rope_parameters": LONG}}),
    "gated": ("gated cross-attention", {"connector": {"type": "cross_attention", "every": 2}}),
}  # fmt: skip
"""The way each is decoded, or why not the own one."""

A, B = picture(1), picture(2)
SAMPLES = [
    talk((A, "what colour is the circle?")),
    talk((A, B, "which of the two? 1234567890 1234567890")),
    talk("is there a blue square left of the star?"),
    talk((B, "red?"), "no", ("and ", A, "?")),
]


@cache
def pair(kind: str) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    return grow(**KINDS[kind][1])


def by_transformers(kind: str, sample: Sample, new: int) -> list[int]:
    model, processor = pair(kind)
    encoded = processor.encode(sample, prompt_only=True)
    shown = processor.inputs(*encoded.pictures).tensors() if encoded.pictures else {}
    ids = torch.tensor([encoded.input_ids])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **shown, max_new_tokens=new,
                           do_sample=False)[0, ids.shape[1] :].tolist()  # fmt: skip
    return found[: found.index(processor.stop_token_id)] if processor.stop_token_id in found else found


@pytest.mark.parametrize("kind", KINDS)
def test_token_for_token_as_transformers_generate(kind: str) -> None:
    model, processor = pair(kind)
    told = [by_transformers(kind, sample, 9) for sample in SAMPLES]
    assert len({tuple(ids) for ids in told}) > 1
    for sample, ids in zip(SAMPLES, told, strict=True):
        trace = Trace()
        "".join(generate(model, processor, sample, max_new_tokens=9, trace=trace))
        assert trace.ids == ids
        own = KINDS[kind][0] == "own"
        assert (trace.decoder, KINDS[kind][0] in trace.reason) == (("own", False) if own else ("transformers", True))
    words = [processor.decode_answer(ids) for ids in told]
    assert answer_all(model, processor, SAMPLES, max_new_tokens=9) == words
    assert answer_all(model, processor, SAMPLES, max_new_tokens=9, batch_size=2, decoder="transformers") == words


@pytest.mark.parametrize("kind", [kind for kind, (way, _) in KINDS.items() if way == "own"])
@pytest.mark.parametrize("copied", [True, False])
def test_logits_of_rows_that_come_and_go(kind: str, copied: bool) -> None:
    """Whatever happens to a batch between two tokens, each row has the logits that it has alone."""
    model, _ = pair(kind)
    decoder = OwnDecoder(model, copied)
    texts = [list(range(50, 61)), [70, 71, 72], list(range(80, 86))]

    def check(hidden: torch.Tensor) -> None:
        for logits, text in zip(decoder.logits(hidden), texts, strict=True):
            alone = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, alone, atol=2e-4, rtol=1e-4)

    with torch.inference_mode():
        rows = decoder.start(3)
        check(decoder.feed(rows, texts))
        order = rows.drop([0])
        texts = [texts[place] for place in order]
        further = [[90, 91], [92]]
        texts = [[*text, *more] for text, more in zip(texts, further)]
        check(decoder.feed(rows, further))
        late = decoder.start(1)
        decoder.feed(late, [[100, 101, 102, 103]])
        rows.join(late)
        texts = [[*text, 99] for text in (*texts, [100, 101, 102, 103])]
        check(decoder.feed(rows, [[99]] * 3))
        rows.repeat([2, 0, 0, 1])
        texts = [[*texts[place], 60 + place] for place in (2, 0, 0, 1)]
        check(decoder.feed(rows, [[60 + place] for place in (2, 0, 0, 1)]))
        # More than the room that was made at first.
        more = [[50 + (number * step) % 200 for number in range(70)] for step in (1, 3, 5, 7)]
        texts = [[*text, *new] for text, new in zip(texts, more)]
        check(decoder.feed(rows, more))


def test_half_precision_is_near() -> None:
    model, _ = grow(seed=3, language_model=QWEN3)
    ids = list(range(50, 70))
    exact = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    model.bfloat16()
    for copied in (True, False):
        decoder = OwnDecoder(model, copied)
        with torch.inference_mode():
            rows = decoder.start(1)
            decoder.feed(rows, [ids[:-1]])
            logits = decoder.logits(decoder.feed(rows, [ids[-1:]]))[0].float()
        assert torch.nn.functional.cosine_similarity(logits, exact, dim=0) > 0.999


def test_a_model_that_is_gone_takes_what_was_laid_out_with_it() -> None:
    model, _ = grow(seed=5)
    decoder = weakref.ref(decoder_for(model, "own"))
    assert decoder_for(model) is decoder()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and decoder() is None
