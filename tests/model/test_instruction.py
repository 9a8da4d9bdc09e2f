"""Pictures that are read with the user's words: what the processor makes of them, and the model of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sightling
from kit import SIGLIP, noise, picture, section, talk
from sightling.data.sample import Sample, Turn
from sightling.errors import UserError
from sightling.loading import load_processor
from sightling.model.build import check_model
from sightling.model.inputs import Inputs
from wordpiece import FORMER, reader, usual, wordpiece

TILES = {"type": "dynamic", "min_tiles": 1, "max_tiles": 4}


def logits(model: Any, processor: Any, sample: Sample) -> Tensor:
    """The logits_TV of one sample by transformers' way in, with nothing beside it."""
    encoded = processor.encode(sample)
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([encoded.input_ids]), use_cache=False, **processor.shown(encoded).tensors()
        ).logits[0]


def test_a_picture_is_read_with_the_words_of_its_own_turn() -> None:
    model, processor = usual()
    one, two = picture(1), picture(2)
    whole = talk((one, "what is red?"), "the circle", ("and ", two, " is blue?"), "no", "how many?", "2")
    encoded = processor.encode(whole)
    expected = [wordpiece()(text)["input_ids"] for text in ("what is red?", "and is blue?")]
    assert [list(words) for words in encoded.words] == expected
    # What is answered and asked later changes nothing that was there before.
    before = processor.encode(talk((one, "what is red?")), prompt_only=True)
    size = len(before.input_ids)
    assert encoded.input_ids[:size] == before.input_ids and encoded.words[:1] == before.words
    first = logits(model, processor, talk((one, "what is red?"), "the circle"))
    torch.testing.assert_close(logits(model, processor, whole)[:size], first[:size], atol=1e-5, rtol=1e-4)


def test_other_words_make_other_tokens_of_the_same_picture() -> None:
    model, processor = usual()
    shown = processor.inputs(picture(1))
    texts = ("what is red?", "how many?", "")
    words = [processor.words_for(Turn("user", (text,))) for text in texts]
    with torch.no_grad():
        alone = [model.get_image_features(**shown.read_with([own]).tensors())[0] for own in words]
        joined = Inputs.join([shown.read_with([own]) for own in words])
        together = model.get_image_features(**joined.tensors())
        # The encoder runs once, and the connector with each question's words.
        (seen,) = model.picture_features(shown, 32)
        torch.testing.assert_close(torch.stack(model.read_features([seen] * 3, words, 2)), together)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)
    for other in together[1:]:
        assert (together[0] - other).abs().max() > 2e-3


@pytest.mark.parametrize("tiling", [TILES, {"type": "native", "merge": 1}], ids=["tiles", "native"])
def test_tiles_and_several_pictures_are_read_with_their_turns_words(tiling: dict[str, Any]) -> None:
    model, processor = reader(tiling=tiling)
    shown = [picture(1, 40, 20), picture(2, 16, 16), picture(3, 20, 60)]
    encoded = processor.encode(talk((shown[0], shown[1], "what is red?"), "no", ("blue?", shown[2])), prompt_only=True)
    assert encoded.words[0] == encoded.words[1] != encoded.words[2]
    with torch.no_grad():
        found = model.get_image_features(**processor.shown(encoded).tensors()).flatten(0, -2)
        pairs = list(zip(shown, encoded.words))
        own = [model.get_image_features(**processor.inputs(one).read_with([words]).tensors()) for one, words in pairs]
        kept = model.read_features(model.picture_features(processor.inputs(*shown), 2), encoded.words, 3)
    torch.testing.assert_close(found, torch.cat([one.flatten(0, -2) for one in own]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(kept), found, atol=1e-5, rtol=1e-4)
    assert len(found) == encoded.input_ids.count(processor.image_token_id)


def messages(text: str, *seeds: int) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": noise(seed=seed)} for seed in seeds]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_rows_of_a_batch_and_several_answers_a_row_are_those_of_each_alone() -> None:
    model, processor = usual()
    asked = [messages("what is red?", 1), messages("how many are there of the blue?", 2, 3), messages("and the?", 1)]
    told = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    said = {"max_new_tokens": 6, "do_sample": True, "top_k": 1}

    def answers(conversations: Any, **more: Any) -> list[list[int]]:
        shown = processor.apply_chat_template(conversations, **told)
        torch.manual_seed(0)
        rows = model.generate(**shown, **said, **more)[:, shown["input_ids"].shape[1] :].tolist()
        return [[token for token in row if token != processor.pad_token_id] for row in rows]

    alone = [answers([one])[0] for one in asked]
    assert len({tuple(one) for one in alone}) == 3
    assert answers(asked) == alone
    assert answers(asked, num_return_sequences=2) == [one for one in alone for _ in range(2)]


def test_it_is_saved_with_the_model_and_follows_another_template(tmp_path: Path) -> None:
    model, processor = usual()
    sightling.save(model, processor, tmp_path / "a")
    again, opened = sightling.load(tmp_path / "a", device="cpu")
    sample = talk((picture(1), "what is red?"), "no")
    assert opened.encode(sample) == processor.encode(sample)
    torch.testing.assert_close(logits(again, opened, sample), logits(model, processor, sample))
    assert processor.speaking("qwen2-vl").encode(sample).words == processor.encode(sample).words
    assert sorted(file.name for file in (tmp_path / "a" / "qformer_tokenizer").iterdir()) == [
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for file in (tmp_path / "a" / "qformer_tokenizer").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no tokenizer can be read from .*qformer_tokenizer"):
        sightling.load(tmp_path / "a", device="cpu")
    (tmp_path / "a" / "qformer_tokenizer").rmdir()
    with pytest.raises(UserError, match="lacks the tokenizer of its Q-Former: there is no qformer_tokenizer"):
        load_processor(tmp_path / "a")


def test_what_cannot_be_read_is_refused() -> None:
    model, processor = usual()
    with pytest.raises(UserError, match=r"the assistant's turn shows a picture, but this model reads pictures"):
        processor.encode(talk("show me", ("here: ", picture(1))))
    with pytest.raises(UserError, match=r"the question has 62 tokens for the Q-Former, which reads 48; shorten it"):
        processor.encode(talk((picture(1), "red " * 60)), prompt_only=True)
    # Words beside no picture are nothing to the Q-Former.
    assert processor.encode(talk("red " * 60), prompt_only=True).words == ()
    with pytest.raises(UserError, match=r"which a finished text does not tell apart; use apply_chat_template"):
        processor(images=[noise()], text=f"{processor.tokenizer.decode(processor.image_token_id)} red?")
    shown = processor.inputs(picture(1), picture(2))
    with pytest.raises(ValueError, match="this Q-Former reads an instruction with each picture, and none was given"):
        model.get_image_features(**shown.tensors())
    with pytest.raises(ValueError, match="2 pictures, but qformer_input_ids for 1"):
        model.get_image_features(**shown.tensors(), qformer_input_ids=torch.tensor([[2, 3]]))
    other, _ = reader(connector={**FORMER, "instruction": None}, qformer_tokenizer={})
    with pytest.raises(ValueError, match=r"words were given with the pictures \(qformer_input_ids\), but the"):
        other.get_image_features(**shown.read_with([(2, 3)] * 2).tensors())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no tokenizer": ({"connector": FORMER}, r"^model.qformer_tokenizer.pretrained is missing: the connector reads"),
    "nobody reads": ({"qformer_tokenizer": {"pretrained": "x"}}, r"^model.qformer_tokenizer is for a qformer with an"),
    "another key": ({"connector": FORMER, "qformer_tokenizer": {"pretrained": "x", "type": "y"}},
                    r"^model.qformer_tokenizer has no key 'type'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_recipe_that_does_not_fit_is_refused(what: str) -> None:
    told, message = BAD[what]
    with pytest.raises(UserError, match=message):
        check_model(section(encoder=SIGLIP, **told))


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has \d+ tokens, but the Q-Former knows 20$"):
        reader(connector={**FORMER, "instruction": {"vocab_size": 20}})
    usual()[1].tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is not of BERT's kind; a Q-Former reads \[CLS\] words \[SEP\]$"):
        reader(qformer_tokenizer={"pretrained": str(tmp_path)})
    with pytest.raises(UserError, match="does not exist; a tokenizer was to be read from there"):
        reader(qformer_tokenizer={"pretrained": str(tmp_path / "nothing")})
