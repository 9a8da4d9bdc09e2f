from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from small_study import study_tree

from sightling.errors import UserError
from sightling.studies.pool import Processes, here, run_all
from sightling.studies.report import render_report
from sightling.studies.results import StudyResults
from sightling.studies.run import run_study
from sightling.studies.study import Study, parse_study
from sightling.studies.terminal import print_plan, print_study
from sightling.train.stopping import Interrupted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return parse_study(study_tree(folder), "toy.yaml")


@pytest.fixture(scope="module")
def done(study: Study, folder: Path) -> tuple[StudyResults, Path]:
    """The study done in turn, without a stop, in this process."""
    return run_study(study, folder / "done", console=quiet(), start=here)


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def measured(place: Path) -> list[Any]:
    """What a study measured, without its times."""
    told = json.loads((place / "results.json").read_text())
    timed = ("seconds", "peak_memory_bytes")
    for run in told["runs"]:
        run["cost"] = {key: value for key, value in run["cost"].items() if key not in timed}
    return [told["runs"], told["accuracy"], told["differences"], told["claims"]]


def test_every_trial_is_measured_at_every_point(done: tuple[StudyResults, Path]) -> None:
    results, place = done
    told = json.loads((place / "results.json").read_text())
    assert [(run["variant"], run["seed"]) for run in told["runs"]] == [
        ("linear", 0), ("shuffled", 0), ("linear", 1), ("shuffled", 1)
    ]  # fmt: skip
    for run in told["runs"]:
        assert {(one["at"], one["family"]) for one in run["measured"]} == {
            (at, family) for at in (0.5, 1.0) for family in (None, "color", "existence")
        }
        assert run["cost"]["samples"] == 8
        assert run["cost"]["visual_tokens"] == (16 if run["variant"] == "linear" else 4)
        assert run["cost"]["parameters"] > 0
    whole = next(one for one in told["accuracy"] if one["family"] is None and one["at"] == 1.0)
    own = [
        one["accuracy"]
        for run in told["runs"] if run["variant"] == whole["variant"]
        for one in run["measured"] if (one["at"], one["family"]) == (1.0, None)
    ]  # fmt: skip
    assert whole["value"] == pytest.approx(sum(own) / 2)
    assert {one["baseline"] for one in told["differences"]} == {"linear"}
    assert [one["verdict"] for one in told["claims"]][1] == "supported"
    assert results.costs("shuffled", "steps") == [4.0, 4.0]


def test_the_points_are_of_one_training(done: tuple[StudyResults, Path]) -> None:
    _, place = done
    run = place / "runs" / "linear-seed-0"
    assert [path.name for path in (run / "kept").iterdir()] == ["learn-00000002"]
    half, end = ((folder / "model.safetensors").read_bytes() for folder in (run / "kept/learn-00000002", run / "model"))
    assert half != end


def test_a_stopped_study_comes_to_the_same_results(
    study: Study, folder: Path, done: tuple[StudyResults, Path]
) -> None:
    place = folder / "stopped"
    started: list[str] = []

    def stops(task: Path, log: Path, threads: int) -> str | None:
        started.append(task.stem)
        return "the power went" if len(started) > 2 else here(task, log, threads)

    with pytest.raises(UserError, match=r"linear-seed-1: the power went \(and 1 more\)"):
        run_study(study, place, console=quiet(), start=stops)
    assert not (place / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in place.glob("runs/*/model/model.safetensors")}
    assert len(before) == 2
    # One of the finished is half measured.
    (place / "runs/linear-seed-0/evaluation/1/all/section.json").unlink()
    run_study(study, place, console=quiet(), start=here)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert measured(place) == measured(done[1])


def test_side_by_side_and_in_processes_comes_to_the_same_results(
    study: Study, folder: Path, done: tuple[StudyResults, Path]
) -> None:
    place = folder / "parallel"
    console = quiet()
    # One seed: each process takes its time to start.
    run_study(parse_study(study_tree(folder, seeds=[1]), "toy.yaml"), place, jobs=2, console=console)
    assert measured(place)[0] == [run for run in measured(done[1])[0] if run["seed"] == 1]
    assert "[2/2]" in console.file.getvalue()  # type: ignore[attr-defined]
    state = json.loads((place / "runs/linear-seed-1/run.json").read_text())
    assert state["stages"]["learn"]["threads"] == 1


def test_the_page_and_the_terminal_tell_the_same(done: tuple[StudyResults, Path], study: Study) -> None:
    results, place = done
    page = (place / "report.html").read_text()
    assert page == render_report(results)
    assert "<script" not in page and "http" not in page
    for told in (study.question, *(claim.claim for claim in study.compare), "over seeds", "sightling study"):
        assert told in page
    assert page.count("<polyline") == 2 * 3
    console = quiet()
    print_study(console, results)
    print_plan(console, study)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for told in ("linear", "shuffled", "supported: Fewer tokens are fewer.", study.question):
        assert told in text


def test_another_question_is_asked_anew_and_nothing_is_trained_again(
    study: Study, folder: Path, done: tuple[StudyResults, Path]
) -> None:
    other = parse_study(study_tree(folder, evaluate={**study.evaluate, "seed": 5}), "toy.yaml")
    before = (done[1] / "runs/linear-seed-0/model/model.safetensors").stat().st_mtime_ns
    results, _ = run_study(other, done[1], console=quiet(), start=here)
    assert (done[1] / "runs/linear-seed-0/model/model.safetensors").stat().st_mtime_ns == before
    text = results.trials[0].answers[1.0, "all"].questions
    assert text != done[0].trials[0].answers[1.0, "all"].questions
    run_study(study, done[1], console=quiet(), start=here)


def test_what_cannot_go_on_is_said(study: Study, folder: Path, done: tuple[StudyResults, Path], tmp_path: Path) -> None:
    other = parse_study(study_tree(folder, budget={"samples": 12}), "toy.yaml")
    with pytest.raises(UserError, match=r"stages\.learn\.max_steps is 4 there and 6 here"):
        run_study(other, done[1], console=quiet(), start=here)
    other = parse_study(study_tree(folder, budget={"samples": 8, "at": [0.25]}), "toy.yaml")
    with pytest.raises(UserError, match="trained when other points were asked for"):
        run_study(other, done[1], console=quiet(), start=here)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds something else than a study"):
        run_study(study, tmp_path, console=quiet(), start=here)
    with pytest.raises(UserError, match="--jobs 0 is too few"):
        run_study(study, tmp_path, jobs=0, console=quiet(), start=here)
    run_study(study, done[1], console=quiet(), start=here)


def test_variants_that_were_asked_different_things_are_not_compared(folder: Path, tmp_path: Path) -> None:
    variants = {"a": {"stages.learn.data.scene.max_things": 1}, "b": {"stages.learn.data.scene.max_things": 4}}
    tree = study_tree(folder, variants=variants, seeds=[0], budget={"steps": 1}, compare=[], evaluate={"scenes": 4})
    with pytest.raises(UserError, match="'a' and 'b' were asked different questions in evaluation 'all'"):
        run_study(parse_study(tree, "toy.yaml"), tmp_path / "x", console=quiet(), start=here)


def test_seconds_are_rehearsed_once(folder: Path, tmp_path: Path) -> None:
    tree = study_tree(folder, budget={"seconds": 1e-3}, seeds=[0], compare=[])
    run_study(parse_study(tree, "toy.yaml"), tmp_path / "x", console=quiet(), start=here)
    pace = json.loads((tmp_path / "x" / "pace.json").read_text())
    assert set(pace) == {"linear", "shuffled"} and min(pace.values()) > 0
    assert not (tmp_path / "x" / "rehearsals" / "linear").exists()

    def never(task: Path, log: Path, threads: int) -> str | None:
        raise AssertionError(f"{task} was started again")

    run_study(parse_study(tree, "toy.yaml"), tmp_path / "x", console=quiet(), start=never)


SLEEPER = "import sys, time; print('up', flush=True); time.sleep(600)"


def test_a_signal_reaches_every_process_and_is_told(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from sightling.studies import pool
from sightling.train.stopping import Interrupted
pool.Processes.__init__.__defaults__ = ((sys.executable, "-c", {SLEEPER!r}),)
tasks = {{name: (Path(name), Path({str(tmp_path)!r}) / name) for name in ("a", "b", "c")}}
try:
    pool.run_all(tasks, print, None, jobs=2, threads=1)
except Interrupted as stop:
    print(stop, stop.exit_code)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=600)
    assert out == "the study was stopped 143\n"
    assert not (tmp_path / "c").exists()


def test_what_a_process_says_last_is_told(tmp_path: Path) -> None:
    failing = Processes((sys.executable, "-c", "import sys; print('error: it is wrong'); sys.exit(2)"))
    assert failing(tmp_path / "t", tmp_path / "log", 1) == "it is wrong"
    killed = Processes((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    assert "was killed by signal 9" in (killed(tmp_path / "t", tmp_path / "log2", 1) or "")
    threads = Processes((sys.executable, "-c", "import os; assert os.environ['OMP_NUM_THREADS'] == '3'"))
    assert threads(tmp_path / "t", tmp_path / "log3", 3) is None


def test_an_error_while_telling_ends_the_others(tmp_path: Path) -> None:
    def tell(name: str, problem: str | None) -> None:
        raise Interrupted("enough")

    tasks = {name: (tmp_path / name, tmp_path / name) for name in "ab"}
    with pytest.raises(Interrupted, match="enough"):
        run_all(tasks, tell, lambda task, log, threads: None, jobs=1, threads=1)


def test_the_command_line(folder: Path, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    from sightling.cli import main

    path = folder / "toy-study.yaml"
    path.write_text(yaml.safe_dump(study_tree(folder), sort_keys=False))
    for arguments, code, expected in (
        ([], 0, "connectors"),
        ([str(path), "--check"], 0, "shuffled"),
        ([str(path), "seeds=[]", "--check"], 2, "seeds is empty"),
        (["conectors"], 2, "did you mean 'connectors'?"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["study", *arguments])
        told = capsys.readouterr()
        assert end.value.code in (code, None) if code == 0 else end.value.code == code
        assert expected in (told.err if code else told.out)
