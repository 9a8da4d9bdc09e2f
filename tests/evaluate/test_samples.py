from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from small import asked, red

from sightling.data.files import FilesOptions
from sightling.data.sample import Sample
from sightling.errors import UserError
from sightling.evaluate.metrics import is_right
from sightling.evaluate.run import answer, gather
from sightling.evaluate.samples import answer_lists, sample_items, sample_majority
from sightling.evaluate.section import EvaluateSection, Plan


class Listed:
    """A source of samples in memory, one a group."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def group(self, index: int) -> list[Sample]:
        return [self.samples[index]]


@pytest.fixture
def easy_vqa(tmp_path: Path) -> Path:
    """Twenty pictures with two questions each: the colour is mostly red, and yes or no by the question's words."""
    (tmp_path / "images").mkdir()
    questions = []
    for number in range(20):
        Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        questions.append(["what color is the shape?", "blue" if number % 4 == 0 else "red", number])
        questions.append(["is there a circle?", "yes" if number % 5 else "no", number])
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    (tmp_path / "answers.txt").write_text("red\nblue\nyes\nno\n")
    return tmp_path


def test_accepted_answers_and_families_come_from_meta() -> None:
    samples = [asked("what?", 0, "grey", answers=["gray", "silver"], family="color"), asked("what?", 1, "red")]
    items = sample_items(Listed(samples), EvaluateSection(), "here")
    assert items[0].answers == ("grey", "gray", "silver")
    assert [item.family for item in items] == ["color", "all"]
    assert [item.picture for item in items] == [0, 1]


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UserError, match="sample 1 does not end with an answer"):
        sample_items(Listed([asked("a", 0, "red"), asked("b", 1)]), EvaluateSection(), "here")
    with pytest.raises(UserError, match="endless"):
        sample_items(Listed([]), EvaluateSection(), "here")
    with pytest.raises(UserError, match="did you mean 'kind'"):
        sample_items(Listed([asked("a", 0, "red", kind="x")]), EvaluateSection(family_key="kinds"), "here")


def test_majority_learns_from_the_other_side_of_the_split(easy_vqa: Path) -> None:
    options = FilesOptions(path=str(easy_vqa), hold_out={"fraction": 0.3, "part": "held"})
    items = sample_items(options.open(0), EvaluateSection(), "easy")
    majority, learnt = sample_majority(options, EvaluateSection(scenes=2), items)
    assert learnt == "the other side of the split"
    # Both questions have the same list of choices; their texts tell them apart.
    assert majority.guess("color", "en", items[0].choices, "what color is the shape?") == "red"
    assert majority.guess("existence", "en", items[0].choices, "is there a circle?") == "yes"


def test_in_hindsight_the_majority_is_the_best_constant() -> None:
    items = sample_items(
        Listed([asked(f"question {number}", number, "cat" if number < 3 else "dog") for number in range(5)]),
        EvaluateSection(),
        "here",
    )
    majority, learnt = sample_majority(FilesOptions(path="x"), EvaluateSection(), items)
    assert "hindsight" in learnt
    hits = [is_right(majority.guess(item.family, item.language, (), item.text), item.answers) for item in items]
    assert sum(hits) == 3


def test_lists_of_answers_are_by_family_and_language() -> None:
    samples = [asked("?", n, answer, language=language) for n, (answer, language) in enumerate(
        [("cat", "en"), ("猫", "zh"), ("dog", "en"), ("cat", "en")])]  # fmt: skip
    lists = answer_lists(sample_items(Listed(samples), EvaluateSection(), "here"))
    assert lists == {("all", "en"): ("cat", "dog"), ("all", "zh"): ("猫",)}


def test_a_data_set_is_asked_ranked_and_judged(easy_vqa: Path) -> None:
    model, processor = red()
    plan = Plan(EvaluateSection(rank="choices"), FilesOptions(path=str(easy_vqa)), str(easy_vqa), None)
    predictions = answer(model, processor, gather(plan))
    assert len(predictions) == 40
    assert (
        {prediction.said for prediction in predictions} == {"red"} == {prediction.blind for prediction in predictions}
    )
    assert all(prediction.ranked[0] == "red" and len(prediction.ranked) == 4 for prediction in predictions)
    right = [prediction for prediction in predictions if prediction.right]
    assert len(right) == 15
    assert all(prediction.item.family == "color" for prediction in right)


def test_fewer_questions_are_ranked_among_the_same_answers(easy_vqa: Path) -> None:
    section = EvaluateSection(rank="answers", scenes=3)
    questions = gather(Plan(section, FilesOptions(path=str(easy_vqa)), str(easy_vqa), None))
    assert (len(questions.items), questions.about["pictures"]) == (6, 3)
    assert [set(listed) for listed in questions.lists[:2]] == [{"red", "blue"}, {"yes", "no"}]


def test_ranking_by_choices_needs_choices(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("name,picture\ncat,a.png\n")
    plan = Plan(EvaluateSection(rank="choices"), FilesOptions(path=str(tmp_path / "t.csv")), "t", None)
    with pytest.raises(UserError, match="has no choices; use rank: answers"):
        gather(plan)
