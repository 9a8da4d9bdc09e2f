"""InstructBLIP: what transformers writes is read, gives the same numbers, and is written back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_kit import (
    LLAMA,
    SIZES,
    asked,
    change_json,
    check_same_json,
    check_same_weights,
    images,
    logits,
    rewrite,
    save_foreign,
    sentencepiece,
    weights,
)  # fmt: skip
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import sightling
from kit import grow
from sightling.decode.generate import Trace, generate
from sightling.errors import UserError
from wordpiece import wordpiece

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 7}  # fmt: skip
READ = {"vocab_size": 120, "max_position_embeddings": 40}
QFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, **READ}
QUERIES = 5
QUESTIONS = ("what red?", "How many circles, [SEP] </s> or <image>?", "is the blue one red")


def tokenizer(begin: str = "</s>", pad: str = "[PAD]") -> PreTrainedTokenizerFast:
    """Vicuna's as InstructBLIP has it, whose texts begin with ``</s>``; or Llama's own."""
    made = sentencepiece("<image>", pad)
    made.bos_token, made.pad_token = begin, pad
    made.update_post_processor()
    return made


def checkpoint(folder: Path, *, speech: Any = None, text: Any = None, former: Any = None, **told: Any) -> Any:
    """A tiny InstructBLIP that transformers has saved; returns its model."""
    speech = speech or tokenizer()
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION),
        qformer_config=InstructBlipQFormerConfig(**{**QFORMER, **(former or {})}),
        text_config=text or LlamaConfig(**LLAMA, vocab_size=len(speech) + 10),
        num_query_tokens=QUERIES,
        image_token_index=speech.convert_tokens_to_ids("<image>"),
        **told,
    )
    pictures = BlipImageProcessorPil(size={"height": 28, "width": 28})
    model = save_foreign(InstructBlipForConditionalGeneration(config), folder)
    InstructBlipProcessor(pictures, speech, wordpiece(bos_token="[DEC]"), num_query_tokens=QUERIES).save_pretrained(
        folder
    )
    pictures.save_pretrained(folder)
    return model


def plain(question: str) -> str:
    """What transformers may be given: there a user's words become control tokens, here they never do."""
    return question.replace("[SEP] </s> or <image>", "or")


def check_numbers(pair: Any, theirs: Any, reference: Any, size: tuple[int, int], question: str) -> None:
    model, processor = pair
    sample = asked(question, size)
    wanted = reference(images=images(sample), text=question, return_tensors="pt")
    encoded = processor.encode(sample, prompt_only=True)
    assert list(encoded.input_ids) == wanted["input_ids"][0].tolist()
    assert list(encoded.words[0]) == wanted["qformer_input_ids"][0].tolist()
    shown = processor.shown(encoded).tensors()
    told = {name: wanted[name] for name in ("qformer_input_ids", "qformer_attention_mask")}
    assert all(torch.equal(shown[name], told[name]) for name in told)
    torch.testing.assert_close(
        model.encoder.normalise(shown["pixel_values"]), wanted["pixel_values"], atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        found = theirs.get_image_features(wanted["pixel_values"], **told).pooler_output
        features = model.get_image_features(**shown)
        expected = theirs(**wanted).logits
    assert found.std() > 0.1 and expected.std() > 0.3
    torch.testing.assert_close(features, found, atol=1e-4, rtol=1e-4)
    ours = logits(model, {"input_ids": wanted["input_ids"], **shown})
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def check_answer(pair: Any, theirs: Any, reference: Any, question: str) -> None:
    """Greedy, token for token: what transformers generates, its placeholder never, by our own ways and by its."""
    model, processor = pair
    sample = asked(question, SIZES[0])
    wanted = reference(images=images(sample), text=question, return_tensors="pt")
    placeholder = model.config.image_token_id
    with torch.no_grad():
        expected = theirs.generate(**wanted, max_new_tokens=8, do_sample=False, suppress_tokens=[placeholder])[0]
    expected = expected[wanted["input_ids"].shape[1] :] if len(expected) > 8 else expected
    trace = Trace()
    "".join(generate(model, processor, sample, max_new_tokens=8, trace=trace))
    stop = processor.stop_token_id
    assert trace.ids == [token for token in expected.tolist() if token != stop]
    messages = [{"role": "user", "content": [{"type": "image", "image": images(sample)[0]},
                                             {"type": "text", "text": question}]}]  # fmt: skip
    told = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    said = model.generate(**told, max_new_tokens=8, do_sample=False)[0, told["input_ids"].shape[1] :]
    assert [token for token in said.tolist() if token != stop] == trace.ids


def check_parity(folder: Path, theirs: Any) -> None:
    """The same prompts, pixels, image features, logits and answers, for pictures of three sizes and other questions."""
    pair, reference = sightling.load(folder, device="cpu"), InstructBlipProcessor.from_pretrained(folder)
    for size, question in zip(SIZES, QUESTIONS):
        check_numbers(pair, theirs, reference, size, plain(question))
    check_numbers(pair, theirs, reference, SIZES[0], QUESTIONS[2])
    check_answer(pair, theirs, reference, QUESTIONS[0])


def check_written_back(folder: Path, target: Path) -> Any:
    """Read and written: the same keys, bytes and JSON; what transformers makes of it is returned."""
    sightling.save(*sightling.load(folder, device="cpu"), target, layout="instructblip")
    check_same_weights(folder, target)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_same_json(folder, target, name)
    check_same_files(folder / "qformer_tokenizer", target / "qformer_tokenizer")
    return InstructBlipForConditionalGeneration.from_pretrained(target).eval()


def check_same_files(first: Path, second: Path) -> None:
    one, other = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (first, second))
    assert one == other and one


MADE: dict[str, dict[str, Any]] = {
    "as transformers makes it": {},
    "a text that begins as Llama's": {"speech": tokenizer("<s>", "<pad>")},
    "looks at the picture in every layer": {"former": {"cross_attention_frequency": 1}},
}


@pytest.mark.parametrize("made", MADE)
def test_a_folder_of_transformers_is_read_and_written_back(made: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "a", **MADE[made])
    check_parity(tmp_path / "a", theirs)
    check_parity(tmp_path / "a", check_written_back(tmp_path / "a", tmp_path / "b"))


def test_files_of_the_q_formers_tokenizer_are_kept_as_they_are(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    folder = tmp_path / "a" / "qformer_tokenizer"
    (folder / "vocab.txt").write_text("an older file, with two blanks  \n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b"\n\n")
    tensors = weights(tmp_path / "a")
    tensors["qformer.embeddings.position_ids"] = torch.arange(READ["max_position_embeddings"])[None]
    rewrite(tmp_path / "a", tensors)
    check_written_back(tmp_path / "a", tmp_path / "b")
    # Our own form keeps them, too, and all that is needed to go back.
    sightling.save(*sightling.load(tmp_path / "a", device="cpu"), tmp_path / "ours")
    check_same_files(folder, tmp_path / "ours" / "qformer_tokenizer")
    sightling.save(*sightling.load(tmp_path / "ours", device="cpu"), tmp_path / "c", layout="instructblip")
    check_same_weights(tmp_path / "a", tmp_path / "c")
    check_same_files(folder, tmp_path / "c" / "qformer_tokenizer")


def test_a_users_control_tokens_are_words_for_both_readers(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    _, processor = sightling.load(tmp_path / "a", device="cpu")
    encoded = processor.encode(asked(QUESTIONS[1], SIZES[0]), prompt_only=True)
    own = wordpiece()
    assert encoded.words[0][0] == own.cls_token_id and encoded.words[0][-1] == own.sep_token_id
    assert encoded.words[0].count(own.sep_token_id) == 1 and own.unk_token_id not in encoded.words[0]
    assert encoded.input_ids.count(processor.image_token_id) == QUERIES


EVA = {"type": "eva_instruct", **VISION, "keep_cls": True}
FORMER = {"type": "qformer", "queries": QUERIES, "width": 24, "depth": 2, "heads": 2, "instruction": READ}
SPEAKER = {"type": "llama", **LLAMA}
OURS: dict[str, Any] = {"encoder": EVA, "connector": FORMER, "template": "instructblip", "language_model": SPEAKER}


def ours(folder: Path, **told: Any) -> Any:
    tokenizer().save_pretrained(folder / "speech")
    wordpiece().save_pretrained(folder / "words")
    made = {**OURS, "tokenizer": {"pretrained": str(folder / "speech")}, **told}
    if "instruction" in made["connector"]:
        made["qformer_tokenizer"] = {"pretrained": str(folder / "words")}
    return grow(**made)


def test_a_model_of_our_own_is_written_for_transformers(tmp_path: Path) -> None:
    pair = ours(tmp_path)
    sightling.save(*pair, tmp_path / "a", layout="instructblip")
    theirs = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "a").eval()
    reference = InstructBlipProcessor.from_pretrained(tmp_path / "a")
    for size, question in zip(SIZES, QUESTIONS):
        check_numbers(pair, theirs, reference, size, plain(question))
    check_parity(tmp_path / "a", theirs)
    check_written_back(tmp_path / "a", tmp_path / "b")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another connector": ({"connector": {"type": "mlp"}}, "'instructblip' cannot hold connector = .*reads an instruct"),
    "a Q-Former that reads nothing": ({"connector": {**FORMER, "instruction": None}}, "qformer that reads an instruct"),
    "another tower": ({"encoder": {**EVA, "type": "eva"}}, "encoder.type = 'blip_2_vision_model'; .* eva_instruct"),
    "no CLS token": ({"encoder": {**EVA, "keep_cls": False}}, "cannot hold encoder.keep_cls = False"),
    "tiles": ({"tiling": {"type": "dynamic"}}, "'instructblip' cannot hold tiling = .*dynamic"),
    "another prompt": ({"template": "blip-2"}, "cannot hold template = 'blip-2'; it takes instructblip or"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_hold_is_refused(what: str, tmp_path: Path) -> None:
    told, message = REFUSED[what]
    if told.get("connector", FORMER).get("instruction") is None:
        told = {"connector": {key: value for key, value in told["connector"].items() if key != "instruction"}}
    with pytest.raises(UserError, match=message):
        sightling.save(*ours(tmp_path, **told), tmp_path / "a", layout="instructblip")
    assert not (tmp_path / "a").exists()


T5 = T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4).to_dict()
TOLD: dict[str, tuple[str, dict[str, Any], str]] = {
    "Flan-T5": ("config.json", {"text_config": T5}, "text_config: a 't5' is no causal language model"),
    "no placeholder": ("config.json", {"image_token_index": None}, "image_token_index is missing"),
    "a narrow OPT": ("config.json",
                     {"text_config": {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16}},
                     "text_config: word_embed_proj_dim = 16 cannot be followed; 32 would be right"),
    "a wide Q-Former": ("config.json", {"qformer_config": {**QFORMER, "intermediate_size": 64}},
                        "qformer_config: intermediate_size = 64 cannot be followed; 96 would be right"),
    "other queries": ("processor_config.json", {"num_query_tokens": 6}, "num_query_tokens = 6 .*; 5 would be right"),
    "fewer words": ("config.json", {"qformer_config": {**QFORMER, "vocab_size": 50}},
                    r"qformer_tokenizer has \d+ tokens, but the Q-Former knows 50"),
    "another beginning": ("tokenizer_config.json", {"bos_token": "<unk>"},
                          r"begins a text with \['</s>'\] \(its bos_token is '<unk>'\); </s> or"),
    "words around the question": ("processor_config.json", {"chat_template": "{{ '<image></s>Question: what is this? "
                                  "Answer:' }}"}, "chat template .* which no template here does|is 'blip-2'"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_what_our_model_cannot_be_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    name, told, message = TOLD[what]
    change_json(tmp_path / "a" / name, **told)
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


@pytest.mark.parametrize("what", ["missing", "not of its kind"])
def test_a_q_formers_tokenizer_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    folder = tmp_path / "a" / "qformer_tokenizer"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    message = "lacks the tokenizer of its Q-Former: there is no qformer_tokenizer"
    if what == "not of its kind":
        tokenizer().save_pretrained(folder)
        message = "qformer_tokenizer is not of BERT's kind"
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a")
    tensors = weights(tmp_path / "a")
    table = tensors.pop("qformer.embeddings.word_embeddings.weight")
    if wrong == "unknown":
        tensors |= {"qformer.embeddings.word_embeddings.weight": table, "qformer.cls.bias": table[0].clone()}
    elif wrong == "misshapen":
        tensors["qformer.embeddings.word_embeddings.weight"] = table[:100]
    rewrite(tmp_path / "a", tensors)
    message = {
        "missing": "lack the key: qformer.embeddings.word_embeddings.weight;",
        "unknown": "hold an unknown key: qformer.cls.bias;",
        "misshapen": r"another shape: qformer.embeddings.word_embeddings.weight, \(100, 24\) where .* \(120, 24\)",
    }[wrong]
    with pytest.raises(UserError, match=message):
        sightling.load(tmp_path / "a", device="cpu")
