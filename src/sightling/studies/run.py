"""A whole study: check everything, train and measure every trial, put the numbers together.

The folder: ``study.yaml``, ``tasks/``, ``logs/``, ``runs/<variant>-seed-<seed>/`` (run folders, with
``evaluation/<point>/<name>/``), and in the end ``results.json`` and ``report.html``.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from sightling.errors import UserError
from sightling.studies.plan import REHEARSED, WARM, Trial, check, lay_out, plain_section, plans, rehearsal
from sightling.studies.pool import Start, run_all
from sightling.studies.report import write_report
from sightling.studies.results import StudyResults, gather, last_accuracy
from sightling.studies.study import Study
from sightling.studies.worker import Task, is_done
from sightling.train.checkpoint import write_text
from sightling.train.progress import short_time
from sightling.train.stopping import Interrupted
from sightling.train.trackers import METRICS, read_metrics
from sightling.train.yamlfile import dump_yaml

STUDY, RESULTS, REPORT, PACE = "study.yaml", "results.json", "report.html", "pace.json"


def study_folder(study: Study, output: str | Path | None) -> Path:
    """Where a study is: as told, or ``runs/study-<name>``."""
    return Path(output) if output is not None else Path("runs") / f"study-{study.name}"


def run_study(
    study: Study,
    output: str | Path | None = None,
    *,
    jobs: int = 1,
    threads: int = 1,
    console: Console | None = None,
    start: Start | None = None,
) -> tuple[StudyResults, Path]:
    """Do a study, or go on with it: what is finished is not done again.

    Args:
        study: what to do.
        output: its folder, see :func:`study_folder`.
        jobs: how many trials run side by side.
        threads: of each. The numbers depend on it as little as floating point does, and not on ``jobs``.
        console: where to print.
        start: runs a task; ``None`` starts a process.

    Raises:
        UserError: anything wrong in any variant, before anything is written; or a trial that failed.
        Interrupted: Ctrl-C or SIGTERM; what was learnt is saved.
    """
    console = console or Console()
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value < 1:
            raise UserError(f"--{name} {value} is too few; at least 1 is needed")
    check(study)
    folder = study_folder(study, output)
    _check_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process works on {folder}; wait for it or choose another --output") from None
    try:
        write_text(folder / STUDY, dump_yaml(study.model_dump(mode="json", exclude_defaults=True)))
        pace = _rehearse(study, folder, threads, console, start) if study.budget.seconds is not None else None
        trials = lay_out(study, pace)
        _run_trials(study, trials, folder, jobs, threads, console, start)
        results = gather(study, trials, folder)
        results.about["command"] = command(study, folder)
        write_text(folder / RESULTS, json.dumps(results.to_dict(), ensure_ascii=False, indent=1) + "\n")
        write_report(folder / REPORT, results)
        return results, folder
    finally:
        lock.release()


def command(study: Study, folder: Path) -> str:
    """The command line that does the study again, from the file in its folder."""
    return f"sightling study {shlex.quote(str(folder / STUDY))} --output {shlex.quote(str(folder))}-again"


def _check_folder(folder: Path) -> None:
    foreign = folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir())
    if (folder.exists() and not folder.is_dir()) or (foreign and not (folder / STUDY).is_file()):
        raise UserError(f"{folder} holds something else than a study; choose another folder with --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from None


def run_folder(folder: Path, trial: Trial) -> Path:
    """Where a trial's run is."""
    return folder / "runs" / trial.name


def _run_trials(
    study: Study, trials: list[Trial], folder: Path, jobs: int, threads: int, console: Console, start: Start | None
) -> None:
    tasks = {}
    for trial in trials:
        sections = {name: plain_section(plan) for name, plan in plans(study, trial.recipe).items()}
        points = {f"{share:g}": step for share, step in trial.points.items()}
        task = Task(
            trial.name, trial.recipe.to_dict(), trial.recipe.source, str(run_folder(folder, trial)), threads,
            trial.stage, points, sections,
        )  # fmt: skip
        path = folder / "tasks" / f"{trial.name}.json"
        task.write(path)
        if not is_done(task):
            tasks[trial.name] = (path, folder / "logs" / f"{trial.name}.log")
    finished = len(trials) - len(tasks)
    _say(
        console,
        f"{len(study.variants)} variants x {len(study.seeds)} seeds in {folder}, {jobs} at a time"
        + (f"; {finished} of {len(trials)} are finished" if finished else ""),
    )
    by_name = {trial.name: trial for trial in trials}
    failed: list[str] = []
    started, done = time.perf_counter(), 0

    def tell(name: str, problem: str | None) -> None:
        nonlocal done
        done += 1
        if problem is not None:
            failed.append(f"{name}: {problem}")
            told = f"failed: {problem}"
        else:
            told = f"accuracy {100 * last_accuracy(run_folder(folder, by_name[name]), study):.1f} %"
        left = (time.perf_counter() - started) / done * (len(tasks) - done)
        about = f"; about {short_time(left)} left" if done < len(tasks) else ""
        _say(console, f"[{done}/{len(tasks)}] {name}: {told}{about}")

    try:
        run_all(tasks, tell, start, jobs=jobs, threads=threads)
    except Interrupted as stop:
        raise Interrupted(
            f"{stop} with {finished + done} of {len(trials)} trainings finished; the same command continues from there",
            stop.exit_code - 128,
        ) from None
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; the same command does only what is missing")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rehearse(
    study: Study, folder: Path, threads: int, console: Console, start: Start | None
) -> Mapping[str, float]:
    """Seconds of one update by variant, one rehearsal after another; measured once and then kept."""
    path = folder / PACE
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for variant in study.variants:
        if variant in known:
            continue
        place = folder / "rehearsals" / variant
        shutil.rmtree(place, ignore_errors=True)
        recipe = rehearsal(study, variant)
        task = folder / "tasks" / f"rehearsal-{variant}.json"
        stage = list(recipe.stages)[-1]
        Task(f"rehearsal {variant}", recipe.to_dict(), recipe.source, str(place), threads, stage, {}, {}).write(task)
        failed: dict[str, str | None] = {}
        log = folder / "logs" / f"rehearsal-{variant}.log"
        run_all({variant: (task, log)}, failed.__setitem__, start, jobs=1, threads=threads)
        if failed[variant] is not None:
            raise UserError(f"the rehearsal of variant {variant!r} failed: {failed[variant]}")
        lines = [line for line in read_metrics(place / METRICS) if "loss" in line]
        at = {line["step"]: line["seconds"] for line in lines[-REHEARSED:]}
        known[variant] = (at[REHEARSED] - at[WARM]) / (REHEARSED - WARM)
        shutil.rmtree(place, ignore_errors=True)
        write_text(path, json.dumps(known, indent=1) + "\n")
        _say(console, f"{variant}: {known[variant]:.3g} s a step")
    return known
