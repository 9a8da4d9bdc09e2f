from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from kit import CLIP, QWEN3, grow, picture, plain, talk
from sightling.errors import UserError
from sightling.model import (
    VisionLanguageConfig,
    VisionLanguageImageProcessor,
    VisionLanguageModel,
    VisionLanguageProcessor,
)
from sightling.model.modeling import IGNORED
from sightling.train.packing import collate_rows, document

WEIGHTS = "model.safetensors"


def inputs(processor: VisionLanguageProcessor) -> dict[str, Tensor]:
    """One row with two pictures and an answer, with its labels."""
    encoded = processor.encode(talk((picture(1), "and", picture(2), "what colour?"), "red"))
    return {
        "input_ids": torch.tensor([encoded.input_ids]),
        "labels": torch.tensor([encoded.labels]),
        "pixel_values": torch.cat([processor.pixels(one) for one in encoded.pictures]),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, processor = plain()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- placeholders and pictures


def test_placeholders_and_visual_tokens_must_agree_and_both_numbers_are_told() -> None:
    model, processor = plain()
    told = inputs(processor)
    with pytest.raises(ValueError, match=r"^32 image placeholders in the text, but 16 visual tokens$"):
        model(input_ids=told["input_ids"], pixel_values=told["pixel_values"][:1])
    with pytest.raises(ValueError, match=r"^32 image placeholders in the text, but 48 visual tokens$"):
        model(input_ids=told["input_ids"], pixel_values=told["pixel_values"][[0, 1, 1]])
    with pytest.raises(ValueError, match=r"^32 image placeholders in the text, but no picture was given$"):
        model(input_ids=told["input_ids"])
    with pytest.raises(ValueError, match=r"^0 image placeholders in the text, but 32 visual tokens$"):
        model(input_ids=torch.tensor([[30, 31]]), pixel_values=told["pixel_values"])


def test_visual_tokens_stand_where_their_placeholders_are() -> None:
    model, processor = plain()
    told = inputs(processor)
    ids_T = told["input_ids"][0]
    with torch.no_grad():
        features_NQD = model.get_image_features(told["pixel_values"])
        embeddings_TD = model.embed(told["input_ids"], features_NQD)[0]
        words_TD = model.get_input_embeddings()(ids_T)
    here_T = ids_T == processor.image_token_id
    assert torch.equal(embeddings_TD[here_T], features_NQD.flatten(0, 1))
    assert torch.equal(embeddings_TD[~here_T], words_TD[~here_T])


def test_features_that_are_known_already_give_the_same_logits() -> None:
    model, processor = plain()
    told = inputs(processor)
    with torch.no_grad():
        whole = model(**told)
        again = model(input_ids=told["input_ids"], image_features=whole.image_features)
    assert torch.equal(whole.logits, again.logits)
    assert torch.equal(whole.image_features, model.get_image_features(told["pixel_values"]))


def test_several_answers_a_row_see_their_own_rows_pictures() -> None:
    model, processor = plain()
    told = inputs(processor)
    ids_BT = told["input_ids"][:, :-2].repeat(2, 1)
    rows = {
        "input_ids": ids_BT,
        "attention_mask": torch.ones_like(ids_BT),
        "pixel_values": torch.cat([told["pixel_values"], told["pixel_values"].flip(0)]),
    }
    together = model.generate(**rows, max_new_tokens=5, num_beams=4, num_return_sequences=2, do_sample=False)
    for row in range(2):
        own = {name: tensor.chunk(2)[row] for name, tensor in rows.items()}
        alone = model.generate(**own, max_new_tokens=5, num_beams=4, num_return_sequences=2, do_sample=False)
        assert together[2 * row : 2 * row + 2, : alone.shape[1]].tolist() == alone.tolist()


# ---- the forward pass


def test_unknown_arguments_are_refused_with_the_nearest() -> None:
    model, processor = plain()
    told = inputs(processor)
    with pytest.raises(TypeError, match=r"^forward\(\) has no argument 'pixel_value'; did you mean 'pixel_values'\?$"):
        model(input_ids=told["input_ids"], pixel_value=told["pixel_values"])
    with pytest.raises(TypeError, match=r"^forward\(\) has no argument 'image_grid_thw'"):
        model(**told, image_grid_thw=torch.ones(1))
    with pytest.raises(ValueError, match=r"^input_ids is missing"):
        model(inputs_embeds=torch.zeros(1, 2, 32))
    # What is absent asks for nothing.
    with torch.no_grad():
        assert torch.equal(model(**told, video_grid=None).logits, model(**told).logits)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5])])
def test_logits_can_be_kept_for_some_positions_only(keep: Any) -> None:
    model, processor = plain()
    told = inputs(processor)
    del told["labels"]
    with torch.no_grad():
        whole = model(**told).logits
        kept = model(**told, logits_to_keep=keep).logits
    expected = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    torch.testing.assert_close(kept, expected)


def test_the_loss_of_labels_is_that_of_training() -> None:
    model, processor = plain()
    told = inputs(processor)
    encoded = processor.encode(talk((picture(1), "and", picture(2), "what colour?"), "red"))
    packed = collate_rows([document([encoded])], [[0]], processor.pad_token_id)
    with torch.no_grad():
        output = model(**told)
        loss, hits = model.supervised_loss(**packed_names(packed), pixel_values=told["pixel_values"])
    supervised = int((told["labels"] != IGNORED).sum())
    assert supervised >= 2
    torch.testing.assert_close(output.loss * supervised, loss)
    # The same by hand: each supervised token from the logits before it.
    logp_TV = output.logits[0].log_softmax(-1)
    labels = told["labels"][0].tolist()
    by_hand = -sum(logp_TV[at - 1, label] for at, label in enumerate(labels) if label != IGNORED)
    torch.testing.assert_close(loss, by_hand)
    right = sum(int(logp_TV[at - 1].argmax()) == label for at, label in enumerate(labels) if label != IGNORED)
    assert int(hits) == right
    # As transformers' Trainer asks for it: a sum divided by a number of its own.
    with torch.no_grad():
        scaled = model(**told, num_items_in_batch=torch.tensor(7)).loss
    torch.testing.assert_close(scaled * 7, loss)


def packed_names(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "labels", "position_ids", "document_ids", "branch_ids")}


# ---- saving and loading


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"encoder": {**CLIP, "keep_cls": True, "layer": 1}, "language_model": {**QWEN3, "tie_word_embeddings": False}},
        {"connector": {"type": "pixel_shuffle", "version": "v1"}, "template": "compact"},
    ],
    ids=["plain", "clip and qwen3", "pixel shuffle"],
)
def test_saved_and_loaded_it_gives_the_same_logits(section: dict[str, Any], tmp_path: Path) -> None:
    model, processor = grow(**section)
    model.save_pretrained(tmp_path)
    loaded, info = VisionLanguageModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    told = inputs(processor)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**told).logits, model(**told).logits)
    for name in ("encoder", "connector", "tiling", "image_token_id", "tie_word_embeddings"):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    assert loaded.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    assert loaded.generation_config.eos_token_id == processor.stop_token_id


def test_tied_embeddings_are_saved_once_and_tied_again(saved: Path) -> None:
    assert "language_model.lm_head.weight" not in load_file(saved / WEIGHTS)
    loaded = VisionLanguageModel.from_pretrained(saved)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def change(folder: Path, **changes: Any) -> None:
    """Rewrite weights; ``None`` takes a key away."""
    weights = load_file(folder / WEIGHTS)
    for name, tensor in changes.items():
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "key",
    [
        "connector.layers.0.weight",
        "encoder.tower.embeddings.patch_embedding.bias",
        "language_model.model.layers.1.mlp.up_proj.weight",
        "language_model.model.norm.weight",
    ],
)
def test_a_missing_key_is_refused_by_its_name(saved: Path, key: str) -> None:
    change(saved, **{key: None})
    with pytest.raises(UserError, match=rf"lack the key: {key.replace('.', '[.]')}.*belong to another model$"):
        VisionLanguageModel.from_pretrained(saved)


def test_several_missing_keys_are_counted(saved: Path) -> None:
    change(saved, **{"connector.layers.0.weight": None, "connector.layers.2.bias": None})
    with pytest.raises(UserError, match=r"lack the key: connector[.]layers[.]0[.]weight \(and 1 more\)"):
        VisionLanguageModel.from_pretrained(saved)


@pytest.mark.parametrize("key", ["connector.layers.7.weight", "judge.weight", "language_model.model.layers.2.x"])
def test_an_unknown_key_is_refused_by_its_name(saved: Path, key: str) -> None:
    change(saved, **{key: torch.zeros(2)})
    with pytest.raises(UserError, match=rf"hold an unknown key: {key.replace('.', '[.]')}; they belong"):
        VisionLanguageModel.from_pretrained(saved)


def test_a_key_of_another_shape_is_refused_with_both_shapes(saved: Path) -> None:
    change(saved, **{"connector.layers.0.bias": torch.zeros(31)})
    with pytest.raises(UserError, match=r"connector[.]layers[.]0[.]bias, \(31,\) where the model has \(32,\)"):
        VisionLanguageModel.from_pretrained(saved)


def test_what_is_no_safetensors_file_is_not_read(saved: Path) -> None:
    torch.save({}, saved / "pytorch_model.bin")
    (saved / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"^no model can be read from .*model"):
        VisionLanguageModel.from_pretrained(saved)


def test_the_auto_classes_know_it(saved: Path) -> None:
    config = AutoConfig.from_pretrained(saved)
    assert isinstance(config, VisionLanguageConfig) and config.model_type == "sightling"
    model = AutoModelForImageTextToText.from_pretrained(saved)
    assert isinstance(model, VisionLanguageModel)
    processor = AutoProcessor.from_pretrained(saved)
    assert isinstance(processor, VisionLanguageProcessor)
    assert isinstance(AutoImageProcessor.from_pretrained(saved), VisionLanguageImageProcessor)
    told = inputs(processor)
    with torch.no_grad():
        assert torch.equal(model.eval()(**told).logits, plain()[0](**told).logits)


# ---- adapters


def test_lora_on_the_language_model_trains_it_and_nothing_else(tmp_path: Path) -> None:
    model, processor = grow()
    told = inputs(processor)
    with torch.no_grad():
        before = model(**told).logits
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=r"language_model\..*\.(q|v)_proj"))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all(".language_model." in name and "lora_" in name for name in trained)
    with torch.no_grad():
        torch.testing.assert_close(adapted(**told).logits, before)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        loss = adapted(**told).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    adapted.eval()
    with torch.no_grad():
        after = adapted(**told).logits
        assert not torch.allclose(after, before, atol=1e-2)
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(grow()[0], tmp_path).eval()
        torch.testing.assert_close(loaded(**told).logits, after)
        merged = loaded.merge_and_unload()
        assert isinstance(merged, VisionLanguageModel)
        torch.testing.assert_close(merged(**told).logits, after, atol=1e-4, rtol=1e-4)
