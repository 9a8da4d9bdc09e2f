"""Words before the first picture that look at all pictures: every way to run such a model gives the same numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from kit import LLAMA, SIGLIP, alone, grow, picture, stir, talk
from sightling.data.sample import Sample, Turn, question
from sightling.decode.batch import answer_all
from sightling.decode.generate import generate
from sightling.decode.session import Session
from sightling.errors import UserError
from sightling.model import VisionLanguageModel, VisionLanguageProcessor
from sightling.model.build import check_model
from sightling.model.inputs import Inputs
from sightling.model.language import language_config
from sightling.model.looking import look
from sightling.train.packing import collate_rows, document

TOWER: dict[str, Any] = {
    "type": "mllama", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1,
    "num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 3, "intermediate_layers_indices": [0],
}  # fmt: skip
CROSS: dict[str, Any] = {"type": "cross_attention", "every": 2, "before": "all"}
TEXT: dict[str, Any] = {**LLAMA, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "filled": {"encoder": TOWER, "tiling": {"type": "canvas", "max_tiles": 3}},
    "plain": {"encoder": SIGLIP, "tiling": {"type": "dynamic", "max_tiles": 3}},
}


@cache
def opened(name: str) -> tuple[VisionLanguageModel, VisionLanguageProcessor]:
    model, processor = grow(language_model=TEXT, connector=CROSS, **MODELS[name])
    model.get_input_embeddings().weight.data *= 3
    stir(model.connector, 1, 0.3)
    return model, processor


def samples() -> list[Sample]:
    one, two = picture(1), picture(2, 40, 12)
    return [
        question("what colour is the circle?", one, answer="red"),
        question("is there a blue square?", one, answer="yes"),
        question("what is a circle?", answer="a circle"),
        talk(("look:", one, "red?"), "no", (two, "and here, how many?"), "3", system="be short"),
    ]


@pytest.mark.parametrize("name", MODELS)
def test_words_before_a_picture_look_at_it_and_rows_without_one_do_not(name: str) -> None:
    model, processor = opened(name)
    for sample in samples():
        ids = torch.tensor([processor.encode(sample).input_ids])
        with torch.no_grad():
            apart = (alone(model, processor, sample) - model.language_model(ids).logits[0]).abs().amax(-1)
        assert apart.min() > 1e-3 if any(sample.pictures()) else not apart.any()


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_in_a_packed_row_has_the_logits_it_has_alone(name: str) -> None:
    model, processor = opened(name)
    told = samples()
    encoded = [processor.encode(one) for one in told]
    documents = [document(encoded[:2]), document(encoded[2:3]), document(encoded[3:])]
    batch = collate_rows(documents, [[0, 1], [2]], processor.pad_token_id)
    shown = Inputs.join([processor.inputs(each) for one in (encoded[0], encoded[3]) for each in one.pictures])
    with torch.no_grad():
        hidden = model.packed_states(
            batch["input_ids"], model.get_image_features(**shown.tensors()), position_ids_BT=batch["position_ids"],
            document_ids_BT=batch["document_ids"], branch_ids_BT=batch["branch_ids"],
        )  # fmt: skip
        logits = model.get_output_embeddings()(hidden)
        trunk, first = encoded[0].trunk, len(encoded[0].input_ids)
        for number, row, at in (
            (0, 0, [*range(first)]), (1, 0, [*range(trunk), *range(first, len(documents[0]))]),
            (2, 0, [*range(len(documents[0]), len(documents[0]) + len(documents[1]))]),
            (3, 1, [*range(len(documents[2]))]),
        ):  # fmt: skip
            torch.testing.assert_close(logits[row, at], alone(model, processor, told[number]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_batches_and_chats_say_what_each_sample_alone_says(name: str) -> None:
    model, processor = opened(name)
    expected = []
    for one in samples():
        ids = torch.tensor([processor.encode(Sample(one.turns[:-1]), prompt_only=True).input_ids])
        shown = processor.inputs(*one.pictures()).tensors() if any(one.pictures()) else {}
        new = model.generate(input_ids=ids, **shown, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        expected.append(processor.decode_answer(new.tolist()))
    assert len({*expected}) > 2
    assert answer_all(model, processor, samples(), max_new_tokens=6, batch_size=4) == expected
    session, turns, reused = Session(model, processor, max_new_tokens=5), (), []
    for asked in ((picture(1), "red?"), ("how many?",), (picture(2, 40, 12), "and this?"), ("which is blue?",)):
        for part in asked[:-1]:
            session.add(part)  # type: ignore[arg-type]
        said = "".join(session.ask(str(asked[-1])))
        turns = (*turns, Turn("user", asked))
        assert said == "".join(generate(model, processor, Sample(turns), max_new_tokens=5))
        reused.append(session.trace.reused_tokens > 0)
        turns = (*turns, Turn("assistant", (said,)))
    # When a picture joins, what was said before has not looked at it.
    assert reused == [False, True, False, True]


def test_what_fills_up_is_looked_at_by_words_before_the_first_picture_alone() -> None:
    here = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    real = torch.tensor([True, True, False, True, False, False])
    looking = look(here, torch.zeros(2, 3, 8), last=True, ahead=True, real_U=real)
    assert looking is not None and looking.mask_B1TS is not None
    mask = looking.mask_B1TS[0, 0].int().tolist()
    assert mask[:2] == [[1] * 6] * 2 and mask[2:4] == [[1, 1, 0, 0, 0, 0]] * 2 and mask[4:] == [[0, 0, 0, 1, 0, 0]] * 2
    assert looking.seen_BT1 is not None and looking.seen_BT1[..., 0].tolist() == [[False] * 2 + [True] * 4, [False] * 6]
    assert looking.reached_BT1 is not None and looking.reached_BT1[..., 0].tolist() == [[True] * 6, [False] * 6]


def test_sizes_of_pictures_are_asked_for_where_tiles_look_at_each_other() -> None:
    model, processor = opened("filled")
    inputs = processor.inputs(picture(2, 40, 12))
    with pytest.raises(ValueError, match="image_sizes is missing: the encoder looks at the tiles"):
        model.get_image_features(inputs.pixels)
    with pytest.raises(ValueError, match="1 encoder inputs, but the pictures' sizes make 3"):
        model.get_image_features(inputs.pixels[:1], inputs.sizes)


def test_a_tower_of_tiles_serves_a_connector_in_the_text_as_well() -> None:
    model, processor = grow(encoder=TOWER, tiling={"type": "canvas", "max_tiles": 3}, language_model=TEXT)
    sample = samples()[3]
    assert processor.encode(sample).input_ids.count(processor.image_token_id) == 16 * (2 + 3)
    features = model.get_image_features(**processor.inputs(*sample.pictures()).tensors())
    assert isinstance(features, torch.Tensor) and features.shape == (80, 32)
    said = "".join(generate(model, processor, sample, max_new_tokens=3))
    assert answer_all(model, processor, [sample], max_new_tokens=3) == [said.strip()]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings cannot be set for a mllama_text_model: its head has"),
        ({"cross_attention_layers": [1]}, "cross_attention_layers cannot be set .* the connector says where they"),
    ],
)
def test_what_mllamas_language_model_cannot_be_is_refused(told: dict[str, Any], reason: str) -> None:
    sizes = {"type": "mllama_text_model", "hidden_size": 32, "num_hidden_layers": 2}
    assert language_config(sizes).cross_attention_layers == []
    with pytest.raises(UserError, match=reason):
        language_config({**sizes, **told})
    with pytest.raises(UserError, match=r"model.connector.before = .some. is wrong"):
        check_model({"encoder": SIGLIP, "language_model": LLAMA, "connector": {**CROSS, "before": "some"}})
