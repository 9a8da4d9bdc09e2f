"""A whole evaluation: the questions, the answers with and without the picture, the numbers, the files."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightling import __version__
from sightling.data.series import Seen, SeriesOptions
from sightling.data.world import WorldOptions
from sightling.errors import UserError
from sightling.evaluate import series
from sightling.evaluate.answers import rank_all, say_all, say_all_blind
from sightling.evaluate.facts import StageFacts, part_facts, run_state, stage_facts, train_command
from sightling.evaluate.items import Item, Progress, in_grey
from sightling.evaluate.metrics import Majority
from sightling.evaluate.report import write_report
from sightling.evaluate.results import Prediction, Results, judge, measure
from sightling.evaluate.samples import answer_lists, sample_items, sample_majority
from sightling.evaluate.section import SCENES, Place, Plan, find_model, make_plan, saved_recipe, trained_on
from sightling.evaluate.world import LEARNING_SCENES, asked_families, held_out, world_items, world_majority
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.train.checkpoint import write_text
from sightling.train.summary import peak_memory

RESULTS, PREDICTIONS, REPORT = "results.json", "predictions.jsonl", "report.html"


@dataclass(frozen=True)
class Questions:
    """What is asked, the guesser that it is compared with, and a description of both.

    ``lists`` holds for each question the answers that are to be ranked; empty where none are. ``partial`` is which
    picture of several is left when they are asked once more with the others grey; ``None`` does not ask so.
    """

    items: list[Item]
    majority: Majority
    about: dict[str, Any]
    lists: list[tuple[str, ...]]
    partial: Seen | None = None


def gather(plan: Plan) -> Questions:
    """The questions of a plan.

    Raises:
        UserError: data that cannot be read, is endless, or holds no questions; questions without choices to rank.
    """
    section, source = plan.section, plan.source
    about: dict[str, Any] = {"from": plan.said, "seed": section.seed, "trained_on": trained_on(plan.recipe, source)}
    partial: Seen | None = section.partial
    if isinstance(source, SeriesOptions):
        several = series.held_out_series(source, section.seed, plan.recipe)
        turns = series.asked_in_turn(source, section.families)
        every = items = series.series_items(several, turns, section.scenes)
        majority, learnt = series.series_majority(several, turns), f"{series.LEARNING_QUESTIONS:,} other questions"
        about |= {"kind": "series", "families": turns, "scene": several.spec.to_dict(), "image_size": several.size}
        partial = partial or source.PARTIAL
    elif isinstance(source, WorldOptions):
        world = held_out(source, section.seed, plan.recipe)
        families = asked_families(source, section.families)
        items = world_items(world, families, section.scenes or SCENES)
        majority, learnt = world_majority(world, families), f"{LEARNING_SCENES:,} other scenes"
        about |= {"kind": "world", "families": families, "scene": world.spec.to_dict(), "image_size": world.size}
        every = items
    else:
        # A list of all answers needs all samples.
        most = section.scenes if section.rank != "answers" else None
        every = sample_items(source.open(section.seed), section, plan.said, most)
        items = [item for item in every if section.scenes is None or item.picture < section.scenes]
        majority, learnt = sample_majority(source, section, items)
        about |= {"kind": "samples"}
    if not items:
        raise UserError(f"{plan.said}: there is nothing to ask about; choose other families or more scenes")
    pictures = len({item.picture for item in items})
    about |= {"majority_from": learnt, "pictures": pictures, "questions": len(items), "data": _plain(source)}
    about["partial"] = partial
    return Questions(items, majority, about, _lists(items, every, section.rank), partial)


def _lists(items: list[Item], every: list[Item], rank: str | None) -> list[tuple[str, ...]]:
    if rank is None:
        return []
    # What is listed does not depend on how many of the questions are asked.
    answers = answer_lists(every)
    lists = [answers[item.family, item.language] if rank == "answers" else item.choices for item in items]
    for item, choices in zip(items, lists):
        if not choices and not item.is_caption:
            raise UserError(f"evaluate.rank: the question {item.text!r} has no choices; use rank: answers")
    return lists


def _plain(source: Any) -> dict[str, Any]:
    return source.model_dump(mode="json", exclude_defaults=True)


def answer(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    questions: Questions,
    *,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Every question answered with the picture, with a grey one, perhaps with one of several, and by the majority.

    Raises:
        UserError: a picture cannot be read, or a question does not fit the model's context.
    """
    items = questions.items
    said = say_all(model, processor, items, progress=progress)
    blind = say_all_blind(model, processor, items, progress=progress)
    partly: Sequence[str | None] = [None] * len(items)
    if questions.partial is not None:
        alone = series.seeing_one(items, questions.partial)
        partly = say_all(model, processor, alone, progress=progress, name=f"{questions.partial} picture alone")
    ranked: list[tuple[str, ...]] = [()] * len(items)
    blind_ranked = list(ranked)
    if questions.lists:
        scored = [number for number, item in enumerate(items) if not item.is_caption]
        chosen = [items[number] for number in scored]
        lists = [questions.lists[number] for number in scored]
        for where, those, name in ((ranked, chosen, "ranking"), (blind_ranked, in_grey(chosen), "blind ranking")):
            for number, best in zip(scored, rank_all(model, processor, those, lists, progress=progress, name=name)):
                where[number] = best
    predictions = []
    for item, one, other, best, blind_best, part in zip(items, said, blind, ranked, blind_ranked, partly):
        guesses = questions.majority.ranked(item.family, item.language, item.choices, item.text)
        predictions.append(judge(item, one, other, guesses, best, blind_best, part))
    return predictions


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation left: the results, and the folder that holds them as files."""

    results: Results
    folder: Path


def evaluate(
    path: str | Path,
    data: str | None = None,
    *,
    scenes: int | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model and write ``report.html``, ``results.json`` and ``predictions.jsonl``.

    Args:
        path: a model folder or a run folder.
        data: what to evaluate on, see :func:`sightling.evaluate.section.make_plan`.
        scenes, seed: set these keys of the section.
        output: the folder for the files; ``None`` is ``evaluation`` in the run's (or model's) folder.
        device: such as ``"cuda:0"``; ``None`` takes an accelerator where there is one.
        progress: called as the work goes on.

    Raises:
        UserError: no model, nothing to evaluate on, bad data, no such device, a full disk.
    """
    started = time.perf_counter()
    place = find_model(Path(path))
    told = {"scenes": scenes, "seed": seed}
    plan = make_plan(place, data, {key: value for key, value in told.items() if value is not None})
    folder = Path(output) if output is not None else place.output
    questions = gather(plan)
    _check_folder(folder)
    where = _device(device)
    asked = time.perf_counter()

    from sightling import load

    model, processor = load(place.model)
    model.to(where)
    predictions = answer(model, processor, questions, progress=progress)
    answered = time.perf_counter()
    about = {
        **questions.about,
        **describe_model(place, model, processor),
        "command": _command(path, data, plan),
        "rank": plan.section.rank,
        "seconds": {"questions": round(asked - started, 2), "answers": round(answered - asked, 2)},
        "device": str(where),
        "peak_memory_bytes": peak_memory(where),
        "created": time.strftime("%Y-%m-%d %H:%M"),
    }
    results = measure(predictions, about)
    recipe = saved_recipe(place)
    stages = stage_facts(place.run, recipe) if place.run is not None else []
    write_files(folder, results, stages)
    return Evaluation(results, folder)


def describe_model(place: Place, model: VisionLanguageModel, processor: VisionLanguageProcessor) -> dict[str, Any]:
    """What is known about a model, for ``results.json`` and the model card."""
    import torch
    import transformers

    recipe = saved_recipe(place)
    state = run_state(place.run) if place.run is not None else {}
    parts = [asdict(part) for part in part_facts(model, processor)]
    return {
        "model": str(place.run or place.model),
        "recipe": recipe.name if recipe is not None else None,
        "description": recipe.description if recipe is not None else "",
        "parts": parts,
        "parameters": sum(part["parameters"] for part in parts),
        "run": {key: state[key] for key in ("run_id", "created", "device", "threads", "processes") if key in state},
        "train_command": train_command(place, recipe),
        "versions": {"sightling": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def write_files(folder: Path, results: Results, stages: list[StageFacts]) -> None:
    """The three files, each whole or absent.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    write_text(folder / RESULTS, json.dumps(results.to_dict(), ensure_ascii=False, indent=1) + "\n")
    lines = (json.dumps(prediction.to_dict(), ensure_ascii=False) for prediction in results.predictions)
    write_text(folder / PREDICTIONS, "".join(line + "\n" for line in lines))
    write_report(folder / REPORT, results, stages)


def _check_folder(folder: Path) -> None:
    """Found out before the work is done, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {folder} cannot be made: {error.strerror}") from None


def _device(asked: str | None) -> Any:
    from accelerate import PartialState

    from sightling.model.devices import find_device

    return PartialState().device if asked is None else find_device(asked)


def _command(path: str | Path, data: str | None, plan: Plan) -> str:
    """The command line that gives these numbers again."""
    section: Mapping[str, Any] = plan.section.model_dump()
    words = ["sightling", "evaluate", str(path)]
    if data is not None:
        words += ["--data", data]
    if section["scenes"] is not None:
        words += ["--scenes", str(section["scenes"])]
    words += ["--seed", str(section["seed"])]
    return shlex.join(words)
