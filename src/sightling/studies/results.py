"""From the folders of trials to numbers: accuracy by variant, evaluation and family at each point, costs, verdicts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sightling import __version__
from sightling.errors import UserError
from sightling.evaluate.run import PREDICTIONS
from sightling.evaluate.run import RESULTS as EVALUATED
from sightling.studies.plan import Trial
from sightling.studies.statistics import (
    Measured,
    Verdict,
    combined,
    cost_difference,
    difference,
    mean,
    over_seeds,
    verdict,
)
from sightling.studies.study import COSTS, Claim, Study
from sightling.studies.worker import evaluation_folder
from sightling.train.runfolder import RUN

Question = tuple[int, str, str, str]
"""(picture, family, language, text)."""

COSTED = ("visual_tokens", "steps", "samples", "seconds", "parameters", "peak_memory_bytes")
"""What a trial cost: visual tokens a picture, updates and samples of the last stage, seconds of all training."""


@dataclass(frozen=True)
class Answers:
    """What one model answered in one evaluation.

    Attributes:
        questions: what was asked.
        hits_N: 1 where it was right; a caption is right when nothing in it is made up and nothing missed.
        blind_N: the same of the model shown grey.
        captions: the families that are captions; they are no part of "all questions".
        majority: the majority guesser's accuracy by family and of all questions (``None``).
    """

    questions: tuple[Question, ...]
    hits_N: np.ndarray
    blind_N: np.ndarray
    captions: frozenset[str]
    majority: dict[str | None, float]

    @property
    def families(self) -> list[str]:
        """In the order asked."""
        return list(dict.fromkeys(question[1] for question in self.questions))

    def mask(self, family: str | None) -> np.ndarray:
        """Which questions are of a family, or count among all."""
        if family is None and len(self.captions) < len(self.families):
            return np.array([question[1] not in self.captions for question in self.questions])
        return np.array([family in (None, question[1]) for question in self.questions])


@dataclass(frozen=True)
class TrialResult:
    """One trial: its cost, and its answers by (point, evaluation)."""

    trial: Trial
    cost: dict[str, float]
    answers: dict[tuple[float, str], Answers] = field(repr=False)


@dataclass(frozen=True)
class Judged:
    """A claim, the gain that it speaks of, and what follows."""

    claim: Claim
    gain: Measured
    verdict: Verdict


@dataclass
class StudyResults:
    """Everything that a study measured."""

    study: Study
    trials: list[TrialResult] = field(repr=False)
    about: dict[str, Any]

    def of(self, variant: str) -> list[TrialResult]:
        """A variant's trials in the order of the seeds."""
        return [one for one in self.trials if one.trial.variant == variant]

    def answers(self, variant: str, point: float, evaluation: str) -> list[Answers]:
        """A variant's answers, seed by seed."""
        return [one.answers[point, evaluation] for one in self.of(variant)]

    def families(self, evaluation: str) -> list[str]:
        """The families of an evaluation, in the order asked."""
        return self.trials[0].answers[1.0, evaluation].families

    def _hits(self, variant: str, points: Sequence[float], evaluation: str, family: str | None) -> np.ndarray:
        """(seeds, questions), averaged over the points."""
        return np.mean(
            [[one.hits_N[one.mask(family)] for one in self.answers(variant, point, evaluation)] for point in points],
            axis=0,
        )

    def _pictures(self, evaluation: str, family: str | None) -> np.ndarray:
        first = self.trials[0].answers[1.0, evaluation]
        return np.array([question[0] for question in first.questions])[first.mask(family)]

    def accuracy(self, variant: str, evaluation: str, family: str | None = None, point: float = 1.0) -> Measured:
        """A variant's accuracy over its seeds."""
        return mean(self._hits(variant, (point,), evaluation, family), self._pictures(evaluation, family))

    def gain(
        self, better: str, worse: str, evaluation: str, family: str | None = None, points: Sequence[float] = (1.0,)
    ) -> Measured:
        """One variant's accuracy minus another's, paired; of several points their mean."""
        hits = [self._hits(variant, points, evaluation, family) for variant in (better, worse)]
        return difference(hits[0], hits[1], self._pictures(evaluation, family))

    def costs(self, variant: str, name: str) -> list[float]:
        """A cost, seed by seed; empty where it is not known."""
        return [one.cost[name] for one in self.of(variant) if name in one.cost]

    def judge(self, claim: Claim) -> Judged:
        """Hold a claim against the numbers.

        Raises:
            UserError: it is about a family that was not asked, or a cost that is not known.
        """
        if claim.measure in COSTS:
            values = [self.costs(variant, claim.measure) for variant in (claim.better, claim.worse)]
            if not all(values):
                raise UserError(f"the claim {claim.claim!r} is about {claim.measure}, which this study does not know")
            gain = cost_difference(values[0], values[1])
            return Judged(claim, gain, verdict(gain, claim.by))
        points = self.study.budget.at if claim.measure == "mean_accuracy" else (claim.at,)
        chosen = [claim.evaluation] if claim.evaluation is not None else self.study.evaluations
        asked = [name for name in chosen if claim.family is None or claim.family in self.families(name)]
        if not asked:
            known = ", ".join(dict.fromkeys(family for name in chosen for family in self.families(name)))
            raise UserError(
                f"the claim {claim.claim!r} is about {claim.family!r}, which was not asked; asked were {known}"
            )
        parts = [self.gain(claim.better, claim.worse, name, claim.family, points) for name in asked]
        gain = combined(parts)
        if len(parts) > 1:
            each = np.mean([self._seed_gains(claim, name, points) for name in asked], axis=0).tolist()
            gain = Measured(gain.value, over_seeds(each), gain.over_pictures, gain.seeds, gain.n)
        return Judged(claim, gain, verdict(gain, claim.by))

    def _seed_gains(self, claim: Claim, evaluation: str, points: Sequence[float]) -> np.ndarray:
        hits = [self._hits(name, points, evaluation, claim.family) for name in (claim.better, claim.worse)]
        return hits[0].mean(axis=1) - hits[1].mean(axis=1)

    def judged(self) -> list[Judged]:
        """Every claim of the study."""
        return [self.judge(claim) for claim in self.study.compare]

    def _keys(self) -> Iterator[tuple[str, str, str | None, float]]:
        for evaluation in self.study.evaluations:
            for family in (None, *self.families(evaluation)):
                for point in self.study.budget.at:
                    for variant in self.study.variants:
                        yield variant, evaluation, family, point

    def to_dict(self) -> dict[str, Any]:
        """``results.json``: raw values of every run, and what was made of them."""
        base = self.study.against
        return {
            "about": self.about,
            "runs": [_raw(one) for one in self.trials],
            "accuracy": [
                {**_key(*key), **self.accuracy(*key).to_dict()} for key in self._keys()
            ],
            "differences": [
                {**_key(*key), "baseline": base, **self.gain(key[0], base, key[1], key[2], key[3:]).to_dict()}
                for key in self._keys()
                if key[0] != base
            ],
            "claims": [
                {**one.claim.model_dump(), **one.gain.to_dict(), "verdict": one.verdict} for one in self.judged()
            ],
        }


def _key(variant: str, evaluation: str, family: str | None, point: float) -> dict[str, Any]:
    return {"variant": variant, "evaluation": evaluation, "family": family, "at": point}


def _raw(one: TrialResult) -> dict[str, Any]:
    measured = []
    for (point, evaluation), answers in one.answers.items():
        for family in (None, *answers.families):
            mask = answers.mask(family)
            shares = {"accuracy": answers.hits_N, "blind": answers.blind_N}
            measured.append(
                {"at": point, "evaluation": evaluation, "family": family, "n": int(mask.sum())}
                | {name: float(hits_N[mask].mean()) for name, hits_N in shares.items()}
                | {"majority": answers.majority.get(family)}
            )
    trial = one.trial
    return {"variant": trial.variant, "seed": trial.seed, "points": {f"{a:g}": b for a, b in trial.points.items()},
            "cost": one.cost, "measured": measured}  # fmt: skip


def read_answers(folder: Path) -> Answers:
    """One evaluation's answers, from its files."""
    lines = [json.loads(line) for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    results = json.loads((folder / EVALUATED).read_text(encoding="utf-8"))
    languages = {line["language"] for line in lines}
    whole = languages.pop() if len(languages) == 1 else None
    majority = {
        cell["family"]: cell["majority"]["value"] for cell in results["cells"] if cell["language"] == whole
    }
    return Answers(
        tuple((line["picture"], line["family"], line["language"], line["question"]) for line in lines),
        np.array([float(line["right"]) for line in lines]),
        np.array([float(line["blind_right"]) for line in lines]),
        frozenset(line["family"] for line in lines if "caption" in line),
        majority,
    )


def last_accuracy(run: Path, study: Study) -> float:
    """A finished trial's accuracy at the end, the mean over its evaluations."""
    found = [read_answers(evaluation_folder(run, "1", name)) for name in study.evaluations]
    return float(np.mean([one.hits_N[one.mask(None)].mean() for one in found]))


def _cost(trial: Trial, run: Path, evaluation: str) -> dict[str, float]:
    state = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
    told = json.loads((evaluation_folder(run, "1", evaluation) / EVALUATED).read_text(encoding="utf-8"))["about"]
    cost = {
        "steps": float(trial.steps),
        "samples": float(trial.steps * trial.batch),
        "seconds": round(sum(stage.get("seconds") or 0.0 for stage in state.values()), 2),
        "parameters": float(told["parameters"]),
        "peak_memory_bytes": float(max(stage.get("peak_memory_bytes") or 0 for stage in state.values())),
    }
    return cost if trial.visual_tokens is None else {"visual_tokens": trial.visual_tokens, **cost}


def gather(study: Study, trials: Sequence[Trial], folder: Path) -> StudyResults:
    """All numbers of a study whose trials are finished.

    Raises:
        UserError: variants were asked different questions, so that they cannot be compared.
    """
    found = []
    asked: dict[str, tuple[str, tuple[Question, ...]]] = {}
    for trial in trials:
        run = folder / "runs" / trial.name
        answers = {
            (point, name): read_answers(evaluation_folder(run, f"{point:g}", name))
            for point in trial.points
            for name in study.evaluations
        }
        for (_, name), one in answers.items():
            before = asked.setdefault(name, (trial.variant, one.questions))
            if before[1] != one.questions:
                raise UserError(
                    f"{study.source}: the variants {before[0]!r} and {trial.variant!r} were asked different questions "
                    f"in evaluation {name!r}; name its data in the study's evaluate section"
                )
        found.append(TrialResult(trial, _cost(trial, run, study.evaluations[0]), answers))
    about = {
        "name": study.name, "question": study.question, "recipe": study.recipe, "source": study.source,
        "variants": {name: list(told) for name, told in study.variants.items()}, "seeds": list(study.seeds),
        "baseline": study.against, "budget": study.budget.model_dump(exclude_none=True), "folder": str(folder),
        "created": time.strftime("%Y-%m-%d %H:%M"), "versions": {"sightling": __version__},
    }  # fmt: skip
    return StudyResults(study, found, about)
