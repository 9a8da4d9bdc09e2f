from __future__ import annotations

import pytest
import torch
from torch import nn

from kit import grow, picture, talk
from sightling.decode.ask import ask
from sightling.decode.decoder import decoder_for
from sightling.decode.generate import generate
from sightling.decode.weights import refusal
from sightling.errors import UserError


def test_weights_that_changed_are_laid_out_anew() -> None:
    model, processor = grow(seed=2)
    projection = model.language_model.model.layers[1].mlp.down_proj

    def said() -> tuple[str, str]:
        return tuple(  # type: ignore[return-value]
            "".join(generate(model, processor, talk((picture(1), "red?")), max_new_tokens=12, decoder=way))
            for way in ("own", "transformers")
        )

    told = [said()]
    with torch.no_grad():
        projection.weight.mul_(-3)
    told.append(said())
    # Behind the back of torch's count of versions.
    projection.weight.data.mul_(-2)
    told.append(said())
    projection.weight = nn.Parameter(projection.weight.detach().flip(0))
    told.append(said())
    assert all(own == theirs for own, theirs in told) and len(set(told)) == len(told)


def test_weights_that_did_not_are_used_again() -> None:
    model, processor = grow(seed=2)
    first = decoder_for(model)
    ask(model, processor, picture(1), "red?", max_new_tokens=2)
    assert decoder_for(model) is first


def test_what_is_put_around_a_layer_is_not_left_out() -> None:
    model, _ = grow(seed=2)
    layer = model.language_model.model.layers[0]
    assert refusal(model) == ""
    handle = layer.register_forward_hook(lambda *args: None)
    assert refusal(model) == "something is hooked to its layers.0"
    with pytest.raises(UserError, match="cannot decode this model: something is hooked to its layers"):
        decoder_for(model, "own")
    handle.remove()

    class Adapted(nn.Linear):
        pass

    layer.self_attn.q_proj = Adapted(32, 32, bias=False)
    assert refusal(model) == "its layers.0.self_attn.q_proj is a Adapted"
    assert decoder_for(model).way == "transformers"


def test_an_unknown_way_is_told() -> None:
    model, processor = grow(seed=2)
    with pytest.raises(UserError, match="decoder = 'owm' is unknown; did you mean 'own'"):
        ask(model, processor, picture(1), "red?", decoder="owm")
