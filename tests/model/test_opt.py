"""OPT, BLIP-2's language model: learned places and no gates, unlike the others."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTForCausalLM

from kit import alone, grow, picture, talk
from sightling.errors import UserError
from sightling.model.language import language_config
from sightling.train.packing import collate_rows, document

OPT = {"type": "opt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
       "max_position_embeddings": 256}  # fmt: skip


def test_what_follows_from_other_sizes_may_be_left_out() -> None:
    config = language_config({"type": "opt", "hidden_size": 128, "num_hidden_layers": 1})
    assert (config.num_attention_heads, config.ffn_dim, config.word_embed_proj_dim) == (2, 512, 128)
    with pytest.raises(UserError, match=r"model.language_model has no key 'intermediate_size'"):
        language_config({"type": "opt", "hidden_size": 128, "intermediate_size": 512})


def test_packed_rows_give_what_samples_give_alone() -> None:
    model, processor = grow(language_model=OPT)
    assert isinstance(model.language_model, OPTForCausalLM)
    samples = [talk((picture(0), "what colour is the circle?"), "red"), talk((picture(1), "how many?"), "2 of it")]
    encoded = [processor.encode(sample) for sample in samples]
    batch = collate_rows([document([one]).without_pictures() for one in encoded], [[0, 1]], processor.pad_token_id)
    shown = processor.inputs(*(part for one in encoded for part in one.pictures)).tensors()
    with torch.no_grad():
        hidden_BTD = model.packed_states(
            batch["input_ids"], model.get_image_features(**shown), position_ids_BT=batch["position_ids"],
            document_ids_BT=batch["document_ids"], branch_ids_BT=batch["branch_ids"],
        )  # fmt: skip
        packed_TV = model.get_output_embeddings()(hidden_BTD)[0]
        expected_TV = torch.cat([alone(model, processor, sample) for sample in samples])
    torch.testing.assert_close(packed_TV[: len(expected_TV)], expected_TV, rtol=1e-4, atol=1e-4)


def test_text_alone_is_transformers_own_at_once_and_with_a_cache() -> None:
    model, _ = grow(language_model=OPT)
    theirs = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    theirs.load_state_dict(model.language_model.state_dict())
    ids_BT = torch.arange(100, 110)[None]
    with torch.no_grad():
        expected_BTV = theirs(input_ids=ids_BT).logits
        torch.testing.assert_close(model(input_ids=ids_BT).logits, expected_BTV)
        first = model(input_ids=ids_BT[:, :6], use_cache=True)
        rest = model(input_ids=ids_BT[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(rest.logits, expected_BTV[:, 6:], rtol=1e-4, atol=1e-4)
