"""Whole models whose pictures stand beside the text: each way to run them gives the numbers of every other."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sightling
from kit import LLAMA, MISTRAL, QWEN2, QWEN3, SIGLIP, alone, grow, noise, picture, section, stir, talk, tokenizer
from sightling.data.sample import Sample, Turn, question
from sightling.decode.batch import answer_all
from sightling.decode.generate import generate
from sightling.decode.session import Session
from sightling.errors import UserError
from sightling.evaluate.facts import part_facts
from sightling.evaluate.likelihood import score_choices
from sightling.model import VisionLanguageModel, VisionLanguageProcessor
from sightling.model.build import build_model, check_model
from sightling.model.inputs import Inputs
from sightling.model.inspection import inspect_model
from sightling.train.objectives.answer import TENSORS
from sightling.train.packing import collate_rows, document

CROSS: dict[str, Any] = {"type": "cross_attention", "every": 2}
PERCEIVER = {"version": "flamingo", "queries": 3, "depth": 1, "heads": 2, "head_dim": 8}
FLAMINGO: dict[str, Any] = {**CROSS, "form": "flamingo", "heads": 2, "head_dim": 8, "perceiver": PERCEIVER}
EVERYWHERE = {**FLAMINGO, "every": 1, "sees": "all", "activation": "gelu"}
NATIVE = {"type": "native", "min_pixels": 64, "max_pixels": 1024}

# A head of its own: with the embeddings' weights a model of no training repeats one token.
APART = {"tie_word_embeddings": False}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"connector": CROSS, "language_model": {**LLAMA, **APART}},
    "llama, all": {"connector": {**CROSS, "sees": "all"}, "language_model": {**LLAMA, **APART}},
    "qwen2, flamingo": {"connector": FLAMINGO, "language_model": {**QWEN2, **APART}},
    "qwen3, all": {"connector": EVERYWHERE, "language_model": {**QWEN3, **APART}},
    "mistral": {"connector": {"type": "cross_attention", "layers": [0]}, "language_model": {**MISTRAL, **APART}},
    "tiles": {"connector": {**CROSS, "sees": "all"}, "tiling": {"type": "dynamic", "max_tiles": 3}},
    "any size": {"connector": {**CROSS, "sees": "all"}, "tiling": NATIVE},
}

Pair = tuple[VisionLanguageModel, VisionLanguageProcessor]


@cache
def opened(name: str) -> Pair:
    """A model of many weights, whose pictures matter; nobody changes it."""
    model, processor = grow(**MODELS[name])
    # Words must matter beside the pictures, or every question would have one answer.
    model.get_input_embeddings().weight.data *= 3
    stir(model.connector, 1, 0.25)
    return model, processor


def samples() -> list[Sample]:
    one, two, three = picture(1), picture(2, 30, 12), picture(3, 40, 40)
    return [
        question("what colour is the circle?", one, answer="red"),
        question("is there a blue square?", one, answer="yes"),
        question("what is a circle?", answer="a circle"),
        question("which of the two is red?", one, two, answer="2"),
        talk((three, "red?"), "no", (two, "and here, how many?"), "3", "why?", "yellow crosses", system="be short"),
        question("how many?", three, answer="two large yellow crosses"),
    ]


def prompts() -> list[Sample]:
    return [Sample(one.turns[:-1]) for one in samples()]


def rows(processor: VisionLanguageProcessor, chosen: list[Sample], side: str = "left") -> dict[str, Any]:
    """Prompts as padded rows, for transformers' ``generate``."""
    encoded = [processor.encode(one, prompt_only=True) for one in chosen]
    width = max(len(one.input_ids) for one in encoded)
    ids = torch.full((len(encoded), width), processor.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(encoded):
        place = slice(width - len(one.input_ids), width) if side == "left" else slice(0, len(one.input_ids))
        ids[row, place], mask[row, place] = torch.tensor(one.input_ids), 1
    shown = [processor.inputs(each) for one in encoded for each in one.pictures]
    return {"input_ids": ids, "attention_mask": mask, **(Inputs.join(shown).tensors() if shown else {})}


@pytest.mark.parametrize("name", MODELS)
def test_pictures_take_one_token_each_and_change_what_follows(name: str) -> None:
    model, processor = opened(name)
    for sample in samples():
        encoded = processor.encode(sample)
        assert encoded.input_ids.count(processor.image_token_id) == len(encoded.pictures)
        with torch.no_grad():
            found, text = alone(model, processor, sample), model.language_model(torch.tensor([encoded.input_ids]))
        first = encoded.input_ids.index(processor.image_token_id) if encoded.pictures else len(found)
        torch.testing.assert_close(found[:first], text.logits[0, :first], atol=0, rtol=0)
        assert not encoded.pictures or (found - text.logits[0])[first:].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name", ["llama", "qwen2, flamingo"])
def test_a_new_model_is_its_language_model_alone(name: str, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    model, processor = build_model(section(**MODELS[name]), 0, tmp_path)
    stir(model.language_model.eval(), 3)
    for sample in samples():
        ids = torch.tensor([processor.encode(sample).input_ids])
        with torch.no_grad():
            assert torch.equal(alone(model, processor, sample), model.language_model(ids, use_cache=False).logits[0])


@pytest.mark.parametrize("name", MODELS)
def test_with_the_cache_as_without(name: str) -> None:
    model, processor = opened(name)
    told = rows(processor, prompts())
    options: dict[str, Any] = {"max_new_tokens": 7, "min_new_tokens": 7, "output_logits": True,
                               "return_dict_in_generate": True}  # fmt: skip
    for beams in (1, 3):
        with_cache, without = (
            model.generate(**told, **options, do_sample=False, num_beams=beams, use_cache=use) for use in (True, False)
        )
        assert with_cache.sequences.tolist() == without.sequences.tolist()
        if beams == 1:
            for one, other in zip(with_cache.logits, without.logits, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert len({*map(tuple, with_cache.sequences[:, -7:].tolist())}) > 2


def test_several_answers_a_row_keep_their_pictures() -> None:
    for name in ("llama, all", "any size"):
        model, processor = opened(name)
        told = rows(processor, prompts())
        greedy = model.generate(**told, max_new_tokens=5, do_sample=False)
        torch.manual_seed(0)
        # Nothing but the likeliest token may be drawn.
        drawn = model.generate(**told, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=2)
        assert drawn.tolist() == [row for row in greedy.tolist() for _ in range(2)]
        features = model.get_image_features(told.pop("pixel_values"), told.pop("image_sizes"))
        assert isinstance(features, list) == (name == "any size")
        again = model.generate(
            **told, image_features=features, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=2
        )
        assert again.tolist() == drawn.tolist()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 6])
def test_answers_of_a_batch_are_those_of_each_sample_alone(name: str, batch_size: int) -> None:
    model, processor = opened(name)
    expected = []
    for one in prompts():
        told = rows(processor, [one])
        new = model.generate(**told, max_new_tokens=8, do_sample=False)[0, told["input_ids"].shape[1] :]
        expected.append(processor.decode_answer(new.tolist()))
    assert len({*expected}) > 3
    assert answer_all(model, processor, samples(), max_new_tokens=8, batch_size=batch_size) == expected
    assert ["".join(generate(model, processor, one, max_new_tokens=8)).strip() for one in prompts()] == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_chat_about_two_pictures_goes_on_from_what_it_holds(name: str) -> None:
    model, processor = opened(name)
    session = Session(model, processor, max_new_tokens=5)
    turns: tuple[Turn, ...] = ()
    for asked in ((picture(1), "red?"), ("how many?",), (picture(2, 30, 12), "and this?"), ("which is blue?",)):
        for part in asked[:-1]:
            session.add(part)  # type: ignore[arg-type]
        said = "".join(session.ask(str(asked[-1])))
        turns = (*turns, Turn("user", asked))
        assert said == "".join(generate(model, processor, Sample(turns), max_new_tokens=5))
        # What a window has left behind cannot be gone on from.
        assert (session.trace.reused_tokens > 0) == (len(turns) > 1 and name != "mistral")
        turns = (*turns, Turn("assistant", (said,)))


@pytest.mark.parametrize("name", ["llama", "llama, all"])
def test_a_picture_that_is_taken_back_is_not_seen_any_more(name: str) -> None:
    model, processor = opened(name)
    session = Session(model, processor, max_new_tokens=5)
    for shown in ((picture(1), picture(2)), (picture(1), picture(3)), (picture(1),), ()):
        # The memory holds the beginning of an earlier conversation, and what differs behind it is taken back.
        session._turns.clear()
        for one in shown:
            session.add(one)
        said = "".join(session.ask("which is red?"))
        expected = generate(model, processor, question("which is red?", *shown), max_new_tokens=5)
        assert said == "".join(expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_in_a_packed_row_has_the_logits_it_has_alone(name: str) -> None:
    model, processor = opened(name)
    told = samples()
    groups = [[told[0], told[1]], [told[2]], [told[3]], [told[4]], [told[5]]]
    encoded = [[processor.encode(one) for one in group] for group in groups]
    documents = [document(group) for group in encoded]
    batch = collate_rows(documents, [[0, 2, 1], [3, 4]], processor.pad_token_id)
    order = [encoded[index][0] for index in (0, 2, 1, 3, 4)]
    shown = Inputs.join([processor.inputs(each) for one in order for each in one.pictures])
    with torch.no_grad():
        hidden = model.packed_states(
            batch["input_ids"], model.get_image_features(**shown.tensors()), position_ids_BT=batch["position_ids"],
            document_ids_BT=batch["document_ids"], branch_ids_BT=batch["branch_ids"],
        )  # fmt: skip
        logits = model.get_output_embeddings()(hidden)
        places: list[tuple[int, int, list[int]]] = [(3, 1, [*range(len(documents[3]))])]
        trunk, first = encoded[0][0].trunk, len(encoded[0][0].input_ids)
        places += [
            (0, 0, [*range(first)]),
            (1, 0, [*range(trunk), *range(first, len(documents[0]))]),
            (3, 0, [*range(len(documents[0]), len(documents[0]) + len(documents[2]))]),
        ]
        places[0] = (4, 1, places[0][2])
        for number, row, at in places:
            found = logits[row, at]
            torch.testing.assert_close(found, alone(model, processor, told[number]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3, all"])
def test_choices_score_what_their_logits_say(name: str) -> None:
    model, processor = opened(name)
    asked, choices = prompts()[3], ["red", "red square", "2"]
    scores = score_choices(model, processor, asked, choices)
    for score, choice in zip(scores, choices, strict=True):
        whole = Sample((*asked.turns, Turn("assistant", (choice,))))
        labels = torch.tensor(processor.encode(whole).labels)
        with torch.no_grad():
            logits = alone(model, processor, whole).log_softmax(-1)
        counted = torch.nonzero(labels != -100)[:, 0]
        torch.testing.assert_close(score, logits[counted - 1, labels[counted]].sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2, flamingo"])
def test_it_is_saved_and_read_back_and_the_language_models_keys_are_its_own(name: str, tmp_path: Path) -> None:
    model, processor = opened(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = sightling.load(tmp_path)
    sample = samples()[3]
    with torch.no_grad():
        assert torch.equal(alone(loaded.eval(), again, sample), alone(model, processor, sample))
    assert not [key for key in model.language_model.state_dict() if "cross" in key or "gate" in key.split(".")]
    copied = copy.deepcopy(model)
    for parameter in copied.connector.gated.parameters():
        parameter.data.zero_()
    with torch.no_grad():
        ids = torch.tensor([processor.encode(sample).input_ids])
        assert torch.equal(alone(copied, processor, sample), model.language_model(ids, use_cache=False).logits[0])
        assert torch.equal(alone(loaded, again, sample), alone(model, processor, sample))


@pytest.mark.parametrize("name", ["llama", "qwen2, flamingo"])
def test_training_the_connector_opens_the_gates(name: str, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    model, processor = build_model(section(**MODELS[name]), 0, tmp_path)
    stir(model.language_model, 3)
    before = {key: tensor.clone() for key, tensor in model.language_model.state_dict().items()}
    encoded = [processor.encode(one) for one in (samples()[0], samples()[5], samples()[2])]
    batch = collate_rows([document([one]) for one in encoded], [[0, 1], [2]], processor.pad_token_id)
    shown = Inputs.join([processor.inputs(each) for one in encoded for each in one.pictures])
    model.requires_grad_(False)
    parts: dict[str, Any] = model.parts()
    assert {*model.connector.gated.parameters()} <= {*parts["connector"].parameters()}
    parts["connector"].requires_grad_(True)
    optimizer = torch.optim.AdamW(parts["connector"].parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss, _ = model.supervised_loss(**{key: batch[key] for key in TENSORS}, **shown.tensors())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    gates = [one for key, one in model.connector.named_parameters() if key.endswith("_gate")]
    assert len(gates) == 2 * len(model.connector.gated.layers)
    assert all(one.abs().min() > 1e-2 for one in gates)
    assert losses[-1] < losses[0] - 1
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.language_model.state_dict().items())


def test_rows_of_text_alone_train_and_answer() -> None:
    model, processor = opened("llama")
    encoded = processor.encode(samples()[2])
    assert encoded.pictures == ()
    batch = collate_rows([document([encoded])], [[0]], processor.pad_token_id)
    loss, _ = model.supervised_loss(**{key: batch[key] for key in TENSORS})
    with torch.no_grad():
        logits = model.language_model(torch.tensor([encoded.input_ids])).logits[0]
    labels = torch.tensor(encoded.labels)
    expected = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)


def test_another_number_of_pictures_is_refused() -> None:
    model, processor = opened("llama")
    told = rows(processor, [prompts()[3]])
    told["pixel_values"], told["image_sizes"] = told["pixel_values"][:1], told["image_sizes"][:1]
    with pytest.raises(ValueError, match="2 image placeholders in the text, but"):
        model(**told, use_cache=False)
    with pytest.raises(ValueError, match="2 image placeholders in the text, but no picture was given"):
        model(input_ids=told["input_ids"])


@pytest.mark.parametrize(
    "told, message",
    [
        ({"connector": {**CROSS, "every": 3}}, r"^model.connector.every is 3, but .* has only 2 layers$"),
        ({"connector": {**CROSS, "every": None, "layers": [2]}}, r"^model.connector.layers names 2, .* from 0 to 1$"),
        ({"connector": {**CROSS, "layers": [1]}}, r"^model.connector: every and layers both say where"),
        ({"connector": {"type": "cross_attention", "layers": [1, 0]}}, r"layers \[1, 0\] must ascend"),
        ({"connector": {**CROSS, "kv_heads": 3}}, r"^model.connector: 4 heads are not divisible by 3 kv_heads$"),
        ({"connector": {**FLAMINGO, "kv_heads": 1}}, r"^model.connector: form flamingo has no kv_heads$"),
        ({"connector": {**CROSS, "activation": "gelu"}}, r"^model.connector: form mllama has no activation$"),
        ({"connector": CROSS, "tiling": {"type": "anyres"}}, r"^model.tiling: this scheme lays tokens in the text"),
        ({"connector": {**CROSS, "gates": "tanh"}}, r"^model.connector has no key 'gates'; .*gate"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_anything_runs(told: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(section(encoder=SIGLIP, **told))


def test_messages_and_pil_pictures_take_the_same_way() -> None:
    model, processor = opened("any size")
    mark = processor._format.image
    shown = [[noise(20, 16, 1)], [noise(40, 12, 2), noise(9, 30, 3)]]
    inputs = processor(text=[f"{mark}a", f"{mark}b{mark}c"], images=shown, return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 3
    with torch.no_grad():
        logits: Tensor = model(**inputs, use_cache=False).logits
        last = processor(text=f"{mark}b{mark}c", images=shown[1], return_tensors="pt")
        torch.testing.assert_close(logits[1], model(**last, use_cache=False).logits[0], atol=1e-4, rtol=1e-4)


def test_reports_tell_what_stands_beside_the_text() -> None:
    model, processor = opened("tiles")
    shown = picture(1, 40, 20)
    told = inspect_model(processor, shown, "red?")
    assert len(told.tiles) == 3 and [tile.tokens for tile in told.tiles] == [16] * 3
    assert told.total == 1 == sum(tile.tokens for tile in told.tiles) + sum(told.beside.values())
    assert told.text_tokens + 1 == len(processor.encode(question("red?", shown), prompt_only=True).input_ids)
    facts = {fact.name: fact.kind for fact in part_facts(model, processor)}
    assert facts["connector"] == "cross_attention, 16 visual tokens beside the text a picture of 16 x 16"
