"""``query_alignment``: the three losses by hand, the drawing of negatives, and a recipe of both of BLIP-2's stages."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from kit import LLAMA, SIGLIP, grow, picture, plain, stir, talk
from sightling.data.sample import Sample
from sightling.errors import UserError
from sightling.model import VisionLanguageModel
from sightling.parts import validate
from sightling.train.checked import check_recipe
from sightling.train.checkpoint import load_checkpoint
from sightling.train.features.cache import open_features
from sightling.train.features.options import FeatureOptions
from sightling.train.loop import StageLoop
from sightling.train.objectives import OBJECTIVES
from sightling.train.objectives.query_alignment import contrast, hard_negatives
from sightling.train.recipe import parse_recipe
from sightling.train.run import run
from sightling.train.stopping import Interrupted
from sightling.train.trackers import read_metrics

QFORMER = {"type": "qformer", "queries": 3, "width": 16, "depth": 3, "heads": 2}
WORDS = ("a red circle", "two blue squares left of the star, a green heart", "图中有没有红色的圆形？")


class Told:
    """A source of one picture for each of these captions."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def open(self, seed: int) -> Told:
        return self

    def __len__(self) -> int:
        return len(self.words)

    def group(self, index: int) -> list[Sample]:
        return [talk((picture(index), "what is it?"), self.words[index])]


def objective(*words: str, seed: int = 5, **options: Any) -> tuple[Any, Any, Any]:
    """The objective, its model and its text half, none of which drops anything out."""
    model, processor = grow(connector=QFORMER)
    kind = OBJECTIVES.get("query_alignment")
    told = kind(model, processor, validate(kind.Options, {"joint_width": 8, **options}, "o"), Told(*words), seed)
    half = told.extra()
    assert half is not None
    log_scale = half.log_scale.detach().clone()
    stir(half, 2).eval()
    with torch.no_grad():
        half.log_scale.copy_(log_scale)
    return told, model, half


def batch_of(told: Any) -> dict[str, Any]:
    items = told.dataset()
    return told.collate([items[index] for index in range(len(items))])


def row(told: Any, text: str) -> tuple[Tensor, Tensor]:
    """A caption by itself, as the text half takes it."""
    ids = torch.tensor([[*told.processor.plain(text), told.processor.stop_token_id]])
    return ids, torch.ones_like(ids, dtype=torch.bool)


# ---- the losses


@pytest.mark.parametrize("weights", [{}, {"itc": 0.5, "itm": 2.0, "itg": 3.0, "label_smoothing": 0.0}])
def test_the_loss_is_the_three_of_them_weighted_and_counts_pairs(weights: dict[str, float]) -> None:
    # Of two pairs each has one other, so that what is drawn is known.
    words = WORDS[:2]
    told, model, half = objective(*words, **weights)
    batch = batch_of(told)
    smoothing = told.options.label_smoothing
    with torch.no_grad():
        pictures = [model.encoder(told.dataset()[number][0].pixels) for number in range(2)]
        texts = [row(told, text) for text in words]
        near = torch.empty(2, 2)
        for one in range(2):
            queries, _ = half(model.connector, pictures[one], *texts[one], "unimodal")
            for other in range(2):
                _, text = half(model.connector, pictures[other], *texts[other], "unimodal")
                near[one, other] = half.similarities(queries, text)
        logits, own = near / 0.07, torch.arange(2)
        ways = [F.cross_entropy(way, own, label_smoothing=smoothing) for way in (logits, logits.T)]
        forms = [(0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 0), (0, 1, 0)]
        matched = torch.cat([
            half.matching(half(model.connector, pictures[one], *texts[other], "bidirectional")[0])
            for one, other, _ in forms
        ])  # fmt: skip
        pair = torch.tensor([answer for _, _, answer in forms])
        words_said = torch.cat([
            half.next_words(half(model.connector, pictures[one], *texts[one], "causal")[1])[0, :-1] for one in range(2)
        ])  # fmt: skip
        target = torch.cat([ids[0] for ids, _ in texts])
        expected = {
            "itc": sum(ways) / 2,
            "itm": F.cross_entropy(matched, pair),
            "itg": F.cross_entropy(words_said, target, label_smoothing=smoothing),
            "itc_accuracy": torch.cat([way.argmax(1) == own for way in (logits, logits.T)]).float().mean(),
            "itm_accuracy": (matched.argmax(1) == pair).float().mean(),
            "itg_accuracy": (words_said.argmax(1) == target).float().mean(),
        }
        loss, metrics = told.loss(model, batch)
    assert told.count(batch) == 2 and set(metrics) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name] / 2, torch.as_tensor(value), atol=1e-4, rtol=1e-4, msg=name)
    total = sum(weights.get(name, 1.0) * expected[name] for name in ("itc", "itm", "itg"))
    torch.testing.assert_close(loss / 2, torch.as_tensor(total), atol=1e-4, rtol=1e-4)
    lengths = [len(told.processor.plain(text)) + 1 for text in words]
    assert told.tokens(batch) == (sum(lengths), 2 * max(lengths))


def test_a_loss_of_weight_0_is_left_out_and_fresh_ones_know_nothing() -> None:
    for weights in ({"itg": 0}, {"itm": 0}, {"itm": 0, "itc": 0}):
        told, model, _ = objective(*WORDS, **weights)
        loss, metrics = told.loss(model, batch_of(told))
        left = {"itc", "itm", "itg"} - set(weights)
        assert set(metrics) == left | {f"{name}_accuracy" for name in left}
        torch.testing.assert_close(loss, sum(metrics[name] for name in left))
    told, model, _ = objective(*WORDS, label_smoothing=0.0)
    fresh = told.extra().eval()
    _, metrics = told.loss(model, batch_of(told))
    assert float(metrics["itm"]) / 3 == pytest.approx(torch.tensor(2.0).log().item(), abs=0.1)
    assert float(metrics["itg"]) / 3 == pytest.approx(torch.tensor(float(fresh.vocabulary)).log().item(), abs=0.3)
    assert fresh.log_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_captions_are_no_negatives_in_the_contrast(smoothing: float) -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 3
    same = torch.eye(4, dtype=torch.bool)
    plain_loss = sum(
        F.cross_entropy(way, torch.arange(4), label_smoothing=smoothing) for way in (logits, logits.T)
    ) / 2  # fmt: skip
    loss, right = contrast(logits, same, smoothing)
    torch.testing.assert_close(loss, torch.as_tensor(plain_loss))
    hits = [int(way[line].argmax()) == line for way in (logits, logits.T) for line in range(4)]
    assert float(right) == pytest.approx(sum(hits) / 8)
    same[0, 2] = same[2, 0] = True
    expected = 0.0
    for line in range(4):
        kept = [place for place in range(4) if place == line or {place, line} != {0, 2}]
        for way in (logits, logits.T):
            own = torch.tensor([kept.index(line)])
            expected += float(F.cross_entropy(way[line, kept][None], own, label_smoothing=smoothing)) / 8
    logits.requires_grad_()
    loss, _ = contrast(logits, same, smoothing)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[0, 2] == logits.grad[2, 0] == 0 and logits.grad[0, 1] != 0
    # The nearest may be an equal caption's.
    logits = torch.eye(4)[[2, 1, 0, 3]]
    assert float(contrast(logits, same, smoothing)[1]) == 1.0


# ---- hard negatives


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 1000), st.sampled_from([0.0, 1.0, 1e4]))
def test_neither_the_own_pair_nor_an_equal_caption_is_ever_drawn(
    captions: list[int], seed: int, spread: float
) -> None:
    torch.manual_seed(seed)
    same = torch.tensor([[one == other for other in captions] for one in captions])
    # What must not be drawn is what the similarities like best.
    logits = spread * (torch.randn(len(captions), len(captions)) + 3 * same)
    drawn, can = hard_negatives(logits, same)
    assert can.tolist() == [any(other != one for other in captions) for one in captions]
    for one in range(len(captions)):
        assert not can[one] or captions[int(drawn[one])] != captions[one]


def test_negatives_are_drawn_by_the_softmax_of_the_similarities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([5.0, 1.0, 0.0, -1.0, 9.0]).repeat(4000, 1)
    same = torch.tensor([True, False, False, False, True]).repeat(4000, 1)
    drawn, can = hard_negatives(logits, same)
    share = torch.bincount(drawn, minlength=5) / 4000
    assert can.all()
    torch.testing.assert_close(share[1:4], torch.tensor([1.0, 0.0, -1.0]).softmax(0), atol=0.03, rtol=0)


def test_a_batch_of_one_caption_is_matched_as_pairs_only() -> None:
    told, model, half = objective("a red circle", "a red circle", itg=0)
    with torch.no_grad():
        loss, metrics = told.loss(model, batch_of(told))
        features = model.encoder(batch_of(told)["pixel_values"])
        ids, real = row(told, "a red circle")
        queries, _ = half(model.connector, features, ids.repeat(2, 1), real.repeat(2, 1), "bidirectional")
        expected = F.cross_entropy(half.matching(queries), torch.tensor([1, 1]), reduction="sum")
    torch.testing.assert_close(metrics["itm"], expected, atol=1e-5, rtol=1e-5)
    assert float(metrics["itc"]) == pytest.approx(0, abs=1e-6) and float(metrics["itc_accuracy"]) == 2
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


# ---- what trains


def test_features_that_are_kept_teach_what_pixels_teach(tmp_path: Path) -> None:
    told, model, _ = objective(*WORDS)
    model.encoder.requires_grad_(False)

    def learnt() -> tuple[Tensor, Tensor, dict[str, Any]]:
        # What is hard to tell apart is drawn.
        torch.manual_seed(0)
        model.zero_grad()
        batch = batch_of(told)
        loss, _ = told.loss(model, batch)
        loss.backward()
        return loss.detach(), model.connector.query_tokens.grad.clone(), batch

    pixels = learnt()
    options = FeatureOptions(cache=str(tmp_path))
    told.features = open_features(options, model, told.processor, told.view, False, tmp_path, print, "stages.one")
    for read in (0, len(WORDS)):
        found = learnt()
        assert told.features.read == read and (found[2]["pixel_values"] is None) is bool(read)
        for number in (0, 1):
            torch.testing.assert_close(found[number], pixels[number], atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_connector_and_the_text_half() -> None:
    told, model, half = objective(*WORDS)
    model.encoder.requires_grad_(False)
    loss, metrics = told.loss(model, batch_of(told))
    loss.backward()
    assert loss.ndim == 0 and not any(value.requires_grad for value in metrics.values())
    assert all(parameter.grad is not None for parameter in half.parameters())
    for name, parameter in model.named_parameters():
        learns = name.startswith("connector.") and "language_projection" not in name
        assert (parameter.grad is not None) == learns, name


def test_the_text_half_is_drawn_from_the_stages_seed() -> None:
    drawn = []
    for seed in (1, 1, 2):
        told, _, _ = objective(*WORDS, seed=seed)
        drawn.append(torch.cat([parameter.detach().flatten() for parameter in told.extra().parameters()]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# ---- recipes


def recipe(connector: dict[str, Any] | None = None, **stages: dict[str, Any]) -> Any:
    world = {"type": "world", "image_size": 16, "questions_per_picture": 1, "languages": ["en"]}
    usual = {"data": world, "train": {"connector": True}, "learning_rate": 1e-2, "max_steps": 3,
             "per_device_train_batch_size": 3, "logging_steps": 1, "save_steps": 2}  # fmt: skip
    words = {"type": "tokenizer", "data": {"type": "world"}, "texts": 50, "vocab_size": 300}
    named = {name: {**usual, "objective": {"type": name, **stage.pop("objective", {})}, **stage}
             for name, stage in stages.items()}  # fmt: skip
    tree = {"name": "small", "seed": 1, "bf16": False, "report_to": "none",
            "model": {"encoder": SIGLIP, "language_model": LLAMA, "connector": connector or QFORMER},
            "stages": {"tokenizer": words, **named}}  # fmt: skip
    return parse_recipe(yaml.safe_load(yaml.safe_dump(tree, sort_keys=False)), "small.yaml")


def blip_2() -> Any:
    # A fresh language model passes nothing on from one token to the next: it must have learnt before it is frozen.
    words = {"data": {"type": "world"}, "train": {"language_model": True}}
    return recipe(language=words, query_alignment={"gradient_accumulation_steps": 2}, answer={})


def grown(folder: Path) -> dict[str, Tensor]:
    run(blip_2(), folder, threads=1, console=Console(file=io.StringIO()))
    return load_file(folder / "model" / "model.safetensors")


def test_both_stages_in_one_recipe_and_going_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grown(tmp_path / "whole")
    stages = tmp_path / "whole" / "stages"
    first, second = (load_checkpoint(stages / name).weights for name in ("query_alignment", "answer"))
    # The connector alone is changed and kept, by both; the first stage leaves its last matrix to the second.
    assert set(first) == set(second) == {name for name in whole if name.startswith("connector.")}
    for name, tensor in second.items():
        assert torch.equal(whole[name], tensor)
        # What is added to all keys of a head alike changes no share of attention.
        assert name.endswith("key.bias") or not torch.equal(first[name], tensor), name
    VisionLanguageModel.from_pretrained(tmp_path / "whole" / "model")
    logged = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if line["stage"] == "query_alignment"]
    assert len(logged) == 3
    for line in logged:
        assert line["loss"] == pytest.approx(line["itc"] + line["itm"] + line["itg"], rel=1e-5)
        assert all(0 <= line[f"{name}_accuracy"] <= 1 for name in ("itc", "itm", "itg"))
    real, done = StageLoop.update, 0

    def interrupted(self: StageLoop, *args: Any) -> Any:
        nonlocal done
        done += 1
        if done in (5, 9):
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(StageLoop, "update", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted, match="the same command continues"):
            grown(tmp_path / "stopped")
    again = grown(tmp_path / "stopped")
    assert set(again) == set(whole) and all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("connector", "options", "message"),
    [
        ({"type": "mlp"}, {}, ": query_alignment teaches a Q-Former; set model.connector to {type: qformer}, not to '"),
        (None, {"itc": 0}, ": itm draws its negatives by what itc learns; give itc a weight too, or set itm to 0"),
        (None, {"itc": 0, "itm": 0, "itg": 0}, ": itc, itm and itg are all 0, so that nothing is learnt; give at "),
        (None, {"itg": -1}, ".itg = -1 is wrong: input should be greater than or equal to 0"),
        (None, {"itn": 1}, " has no key 'itn'; did you mean 'itm'?"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_runs(
    connector: dict[str, Any] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        check_recipe(recipe(connector, query_alignment={"objective": options}))
    assert str(error.value).startswith(f"small.yaml: stages.query_alignment.objective{message}")


def test_a_model_without_a_recipe_and_a_lonely_pair_are_refused_too() -> None:
    model, processor = plain()
    kind = OBJECTIVES.get("query_alignment")
    with pytest.raises(UserError, match=r"^objective: query_alignment teaches a Q-Former; .*, not to 'MLP'$"):
        kind(model, processor, kind.Options(), Told(*WORDS), 0).extra()
    reader, _ = grow(connector=QFORMER)
    told, _, _ = objective(*WORDS)
    reader.connector = type(told.model.connector)(
        32, 32, validate(type(reader.connector.options), {**_without_type(), "instruction": {"vocab_size": 9}}, "c")
    )
    with pytest.raises(UserError, match=r"^objective query_alignment brings a text half of its own; "):
        kind(reader, processor, kind.Options(), Told(*WORDS), 0).extra()
    with pytest.raises(UserError, match=r"^objective query_alignment compares the pairs of a micro-batch, and .* 1; "):
        told.collate([told.dataset()[0]])
    with pytest.raises(UserError, match=r"^the caption of pair 1 has \d+ tokens, but objective.max_length is 12$"):
        objective(*WORDS, max_length=12)[0].dataset()[1]


def _without_type() -> dict[str, Any]:
    return {key: value for key, value in QFORMER.items() if key != "type"}
