from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from kit import LLAMA, SIGLIP, alone, grow, picture, plain, talk
from sightling.data.sample import Sample
from sightling.data.source import own_order
from sightling.errors import UserError
from sightling.model import VisionLanguageModel
from sightling.model.modeling import IGNORED
from sightling.parts import make, validate
from sightling.train.checked import check_recipe
from sightling.train.objectives import OBJECTIVES
from sightling.train.objectives.contrastive import sigmoid_loss, softmax_loss
from sightling.train.objectives.words import rarity
from sightling.train.recipe import parse_recipe
from sightling.train.run import run


class Told:
    """A source with these groups, as a stage's data section opens it."""

    def __init__(self, *groups: list[Sample], endless: bool = False) -> None:
        self.groups = groups
        self.endless = endless

    def open(self, seed: int) -> Told:
        return self

    def __len__(self) -> int:
        return 0 if self.endless else len(self.groups)

    def group(self, index: int) -> list[Sample]:
        return self.groups[index % len(self.groups)]

    def text(self, index: int) -> str:
        return self.groups[index][0].turns[0].text


class Turned(Told):
    """Such a source that is cheap to read from its end only."""

    def order(self, seed: int) -> list[int]:
        return [seed, *reversed(range(len(self)))]


def objective(name: str, data: Any, model: nn.Module | None = None, seed: int = 5, **options: Any) -> Any:
    kind = OBJECTIVES.get(name)
    return kind(model or plain()[0], plain()[1], validate(kind.Options, options, "objective"), data, seed)


def batch_of(told: Any, count: int | None = None) -> dict[str, Any]:
    items = told.dataset()
    return told.collate([items[index] for index in range(count or len(items))])


def questions() -> Told:
    one, two = picture(1), picture(2)
    return Told(
        [talk((one, "what colour is the circle?"), "red"), talk((one, "图中有没有红色的圆形？"), "有", "sure?", "no"),
         talk((one, "how many triangles are there?"), "2")],
        [talk((two, "is there a blue square?"), "yes")],
        [talk("what is left of the star?", "a small green heart")],
    )  # fmt: skip


def captions(*words: str) -> Told:
    return Told(*([talk((picture(number), "what is it?"), text)] for number, text in enumerate(words)))


# ---- answer


@pytest.mark.parametrize("options", [{}, {"share": False}, {"pack": False}, {"max_length": 80}])
def test_answer_is_the_cross_entropy_of_the_assistants_words(options: dict[str, Any]) -> None:
    model, processor = plain()
    told = objective("answer", questions(), **options)
    batch = batch_of(told)
    expected, count, hits = 0.0, 0, 0
    with torch.no_grad():
        for group in questions().groups:
            for sample in group:
                labels = processor.encode(sample).labels
                logp_TV = alone(model, processor, sample).log_softmax(-1)
                for at, label in enumerate(labels):
                    if label != IGNORED:
                        expected -= float(logp_TV[at - 1, label])
                        hits += int(logp_TV[at - 1].argmax()) == label
                        count += 1
        loss, metrics = told.loss(model, batch)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert told.count(batch) == count and int(metrics["accuracy"]) == hits
    assert told.samples(batch) == 5
    real, whole = told.tokens(batch)
    assert whole == batch["input_ids"].numel() >= real == int((batch["document_ids"] >= 0).sum())
    assert batch["input_ids"].shape[1] <= options.get("max_length", 1024)


def test_sharing_a_picture_saves_its_tokens_and_packing_saves_rows() -> None:
    shared, apart = objective("answer", questions()), objective("answer", questions(), share=False)
    one, two = batch_of(shared), batch_of(apart)
    assert len(one["pixel_values"]) == 2 and one["appearances"] is None
    # The picture stands in three documents, but the encoder sees it once.
    assert len(two["pixel_values"]) == 2 and sorted(two["appearances"]) in ([0, 0, 0, 1], [0, 1, 1, 1])
    assert shared.tokens(one)[0] < apart.tokens(two)[0] - 2 * 16
    assert one["input_ids"].shape[0] == 1
    assert batch_of(objective("answer", questions(), pack=False))["input_ids"].shape[0] == 3


def test_a_group_too_long_for_a_row_is_cut_between_samples_and_a_sample_is_refused() -> None:
    _, processor = plain()
    group = questions().groups[0]
    lengths = [len(processor.encode(sample).input_ids) for sample in group]
    documents = objective("answer", questions(), max_length=max(lengths)).dataset()[0]
    assert len(documents) > 1 and sum(part.samples for part, _ in documents) == 3
    assert all(len(part) <= max(lengths) and len(shown[0].pixels) == len(shown) == 1 for part, shown in documents)
    long = max(lengths)
    with pytest.raises(UserError, match=rf"^a sample of group 0 needs {long} tokens, but max_length is {long - 1}; "):
        objective("answer", questions(), max_length=long - 1).dataset()[0]


def test_augmented_pictures_change_by_the_draw_and_stay_shared() -> None:
    told = objective("answer", questions(), augment={"rotate": 90, "brightness": 0.5})

    def drawn(seed: int) -> list[Any]:
        random.seed(seed)
        return told.dataset()[0]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert len(first) == 1 and first[0][0].samples == 3
    pixels, same, others = (one[0][1][0].pixels for one in (first, again, other))
    assert torch.equal(pixels, same) and not torch.equal(pixels, others)
    assert first[0][0].input_ids == objective("answer", questions()).dataset()[0][0][0].input_ids


# ---- language


@pytest.mark.parametrize("max_length", [16, 512])
def test_language_is_the_cross_entropy_of_every_token_but_the_first(max_length: int) -> None:
    model, processor = plain()
    texts = ["the circle is red and the triangle is blue", "图中有没有红色的圆形？", "yes <|im_end|>", "x"]
    told = objective("language", Told(*([talk(text)] for text in texts)), max_length=max_length)
    batch = batch_of(told)
    expected, count, documents = 0.0, 0, 0
    with torch.no_grad():
        for text in texts:
            ids = [*processor.plain(text), processor.stop_token_id]
            for start in range(0, len(ids), max_length):
                row = torch.tensor([ids[start : start + max_length]])
                logits = model.language_model(input_ids=row).logits[0, :-1]
                expected += float(F.cross_entropy(logits, row[0, 1:], reduction="sum"))
                count += row.shape[1] - 1
                documents += 1
        loss, _ = told.loss(model, batch)
    assert documents > len(texts) if max_length == 16 else documents == len(texts)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert told.count(batch) == count and told.samples(batch) == len(texts)
    assert told.tokens(batch)[0] == count + documents
    assert batch["input_ids"].shape[1] <= max_length


# ---- contrastive


def test_the_sigmoid_loss_is_a_question_about_every_pair() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * 3
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    expected = 0.0
    for row in range(4):
        for column in range(4):
            if row == column:
                expected += math.log(1 + math.exp(-float(logits[row, column])))
            elif {row, column} != {0, 2}:
                expected += math.log(1 + math.exp(float(logits[row, column])))
    assert float(sigmoid_loss(logits, same)) == pytest.approx(expected, rel=1e-5)


def test_the_softmax_loss_looks_both_ways_and_at_no_equal_caption() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 3
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    expected = 0.0
    for one in range(4):
        others = [place for place in range(4) if place == one or {place, one} != {0, 2}]
        for line in (logits[one], logits[:, one]):
            expected += math.log(sum(math.exp(float(line[place])) for place in others)) - float(line[one])
    assert float(softmax_loss(logits, same)) == pytest.approx(expected / 2, rel=1e-5)
    # Without equal captions it is CLIP's loss.
    plain_loss = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert float(softmax_loss(logits, torch.eye(4, dtype=torch.bool))) == pytest.approx(4 * float(plain_loss), rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_contrastive_compares_each_picture_with_each_caption(loss: str, pool: str) -> None:
    model, processor = plain()
    words = ["a red circle", "two blue squares left of the star", "图中有", "a red circle"]
    told = objective("contrastive", captions(*words), loss=loss, pool=pool, width=16, layers=1)
    towers = told.extra().eval()
    batch = batch_of(told)
    assert told.count(batch) == 4
    lengths = [len(processor.plain(text)) for text in words]
    assert told.tokens(batch) == (sum(lengths), 4 * max(lengths))
    assert batch["same"].tolist() == [[a == b for b in words] for a in words]
    with torch.no_grad():
        features = model.encoder(batch["pixel_values"])
        pooled = features.max(1).values if pool == "max" else features.mean(1)
        pictures = F.normalize(towers.picture_projection(pooled), dim=1)
        # Each caption by itself, with no padding beside it.
        rows = [torch.tensor([processor.plain(text)]) for text in words]
        spoken = torch.cat([towers.caption(row, torch.ones_like(row, dtype=torch.bool)) for row in rows])
        scale, bias = (10.0, -10.0) if loss == "sigmoid" else (1 / 0.07, 0.0)
        logits = scale * pictures @ spoken.T + bias
        expected = (sigmoid_loss if loss == "sigmoid" else softmax_loss)(logits, batch["same"])
        found, metrics = told.loss(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    nearest = logits.argmax(1).tolist()
    assert int(metrics["accuracy"]) == sum(words[place] == words[row] for row, place in enumerate(nearest))


def test_pairs_that_are_none_are_refused() -> None:
    short = objective("contrastive", captions("a red circle, a blue square and a star"), max_length=4)
    length = len(plain()[1].plain("a red circle, a blue square and a star"))
    with pytest.raises(UserError, match=rf"^the caption of pair 0 has {length} tokens, but objective.max_length is 4$"):
        short.dataset()[0]
    for name in ("contrastive", "words"):
        empty = objective(name, Told([talk("red?", "no"), talk((picture(), "red?"))], endless=True))
        with pytest.raises(UserError, match=r"^group 0 has no picture with a caption; this objective needs pairs$"):
            empty.dataset()[0]


@pytest.mark.parametrize("name", ["contrastive", "words"])
def test_the_encoder_learns_from_whole_pictures_whatever_the_tiling_cuts(name: str) -> None:
    _, processor = grow(tiling={"type": "dynamic"})
    told = objective(name, captions("a"))
    told.processor, shown = processor, picture(0, 48, 16)
    assert len(processor.pixels(shown)) > 1
    told.data = Told([talk((shown, "what?"), "a")], endless=True)
    whole, _ = told.dataset()[0]
    assert torch.equal(whole.pixels, plain()[1].pixels(shown))


# ---- words


def test_words_weigh_by_rarity() -> None:
    _, processor = plain()
    words = ["red red circle", "red square", "red star"]
    told = objective("words", captions(*words))
    weights = rarity(told.dataset(), 10, 400)
    sets = [set(processor.plain(text)) for text in words]
    for token in range(400):
        count = sum(token in one for one in sets)
        assert float(weights[token]) == pytest.approx(math.log(4 / (count + 1)), abs=1e-6)
    assert any(float(weights[token]) == 0 for token in sets[0])
    two = objective("words", captions(*words[:2])).dataset()
    assert torch.equal(rarity(told.dataset(), 2, 400), rarity(two, 9, 400))


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_words_is_the_divergence_from_the_captions_words(pool: str) -> None:
    model, processor = plain()
    words = ["a red circle", "a blue square", "图中有"]
    told = objective("words", captions(*words), pool=pool)
    head = told.extra()
    batch = batch_of(told)
    assert told.count(batch) == 3
    assert told.tokens(batch) == (sum(len(processor.plain(text)) for text in words),) * 2
    torch.testing.assert_close(batch["target"].sum(1), torch.ones(3))
    with torch.no_grad():
        features = model.encoder(batch["pixel_values"])
        logp = head(features.max(1).values if pool == "max" else features.mean(1)).log_softmax(-1)
        loss, metrics = told.loss(model, batch)
    expected, hits = 0.0, 0
    for row, text in enumerate(words):
        own = set(processor.plain(text))
        share = {token: float(told.rarity[token]) for token in own}
        total = sum(share.values())
        for weight in share.values():
            assert weight > 0
        expected += sum(w / total * (math.log(w / total) - float(logp[row, token])) for token, w in share.items())
        hits += int(logp[row].argmax()) in own
    assert float(loss) == pytest.approx(expected, rel=1e-4) and int(metrics["accuracy"]) == hits


# ---- what trains, and what becomes of it

TRAINS = {
    "answer": {"encoder", "connector", "language_model"},
    "language": {"language_model"},
    "contrastive": {"encoder", "extra"},
    "words": {"encoder", "extra"},
}


@pytest.mark.parametrize("name", TRAINS)
def test_gradients_reach_what_an_objective_teaches_and_nothing_else(name: str) -> None:
    model, _ = grow()
    told = objective(name, captions("a red circle", "two blue squares") if name in ("contrastive", "words") else
                     questions(), model)  # fmt: skip
    extra = told.extra()
    loss, metrics = told.loss(model, batch_of(told))
    loss.backward()
    assert loss.ndim == 0 and all(value.ndim == 0 for value in metrics.values())
    parts = {**model.parts(), **({"extra": extra} if extra is not None else {})}
    moved = {part for part, module in parts.items() if any(p.grad is not None for p in module.parameters())}
    assert moved == TRAINS[name]
    for part in moved:
        assert all(p.grad is not None for p in parts[part].parameters() if p.requires_grad), part


def test_the_extra_modules_are_drawn_from_the_stages_seed() -> None:
    for name in ("contrastive", "words"):
        first, again, other = (objective(name, captions("a"), seed=seed).extra() for seed in (1, 1, 2))
        weights = [torch.cat([p.detach().flatten() for p in module.parameters()]) for module in (first, again, other)]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    for name in ("answer", "language"):
        assert objective(name, questions()).extra() is None


def recipe(**stages: dict[str, Any]) -> Any:
    world = {"type": "world", "image_size": 16, "questions_per_picture": 2, "languages": ["en"]}
    usual = {"data": world, "learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 2, "train":
             {"encoder": True, "language_model": True}, "dataloader_num_workers": 0}  # fmt: skip
    words = {"type": "tokenizer", "data": {"type": "world"}, "texts": 50, "vocab_size": 300}
    named = {name: {**usual, "objective": {"type": name}, **stage} for name, stage in stages.items()}
    tree = {"name": "small", "seed": 1, "bf16": False, "report_to": "none",
            "model": {"encoder": SIGLIP, "language_model": LLAMA}, "stages": {"tokenizer": words, **named}}  # fmt: skip
    return parse_recipe(yaml.safe_load(yaml.safe_dump(tree, sort_keys=False)), "small.yaml")


def grown(folder: Path, **stages: dict[str, Any]) -> dict[str, Tensor]:
    run(recipe(**stages), folder, threads=1, console=Console(file=io.StringIO()))
    return load_file(folder / "model" / "model.safetensors")


def test_what_an_objective_needs_for_itself_is_thrown_away_and_runs_repeat(tmp_path: Path) -> None:
    stages: dict[str, dict[str, Any]] = {
        "contrastive": {"objective": {"type": "contrastive", "width": 16, "layers": 1}, "train": {"encoder": True}},
        "words": {"objective": {"type": "words", "captions": 20}, "train": {"encoder": True}},
        "language": {"data": {"type": "world"}, "train": {"language_model": True}},
        "answer": {},
    }
    first, second = grown(tmp_path / "one", **stages), grown(tmp_path / "two", **stages)
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    # Loading is strict: not a key of an objective is left in the model.
    VisionLanguageModel.from_pretrained(tmp_path / "one" / "model")
    assert {name.split(".")[0] for name in first} == {"encoder", "connector", "language_model"}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"answer": {"objective": {"type": "answr"}}}, "objective.type: there is no objective 'answr'; did you mean "),
        ({"answer": {"objective": {"type": "answer", "max_lenght": 9}}}, "has no key 'max_lenght'; did you mean 'max_"),
        ({"answer": {"objective": {"type": "answer", "max_length": 9}}}, "max_length = 9 is wrong: input should be gr"),
        ({"answer": {"objective": {"type": "answer", "augment": {"flip": 2}}}}, "objective.augment.flip = 2 is wrong"),
        ({"answer": {"data": {"type": "file"}}}, "data.type: there is no data source 'file'; "),
        ({"language": {"objective": {"type": "language", "pack": True}}}, "objective has no key 'pack'; known are: lo"),
        ({"language": {"data": {"type": "files"}}}, "data.type: there is no text source 'files'; did you mean 'file'?"),
        ({"contrastive": {"objective": {"type": "contrastive", "loss": "hinge"}}}, "loss = 'hinge' is wrong: input sh"),
        ({"words": {"objective": {"type": "words", "pool": "min"}}}, "pool = 'min' is wrong: input should be 'max' or"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_recipe(recipe(**stage))
    assert message in str(error.value) and str(error.value).startswith(f"small.yaml: stages.{next(iter(stage))}.")


def test_a_finite_source_makes_a_finite_dataset_and_an_endless_one_an_endless() -> None:
    for name in ("answer", "contrastive", "language"):
        assert len(objective(name, questions()).dataset()) == 3
        endless = objective(name, Told(*questions().groups, endless=True)).dataset()
        assert not hasattr(endless, "__len__")
    world = make(OBJECTIVES.get("answer").sources, {"type": "world", "image_size": 16, "length": 4}, "data")
    assert len(objective("answer", world).dataset()) == 4


@pytest.mark.parametrize("name", ["answer", "language", "words", "contrastive"])
def test_the_order_that_a_source_prefers_is_handed_on(name: str) -> None:
    groups = [[talk((picture(), "Q"), "A")]] * 3
    assert own_order(objective(name, Turned(*groups)).dataset(), 7) == [7, 2, 1, 0]
    assert own_order(objective(name, Told(*groups)).dataset(), 7) is None
