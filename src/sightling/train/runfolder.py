"""A run's folder: which recipe it grows, how far it is, and that nobody else is writing in it.

``recipe.yaml`` (resolved), ``run.json`` (how far), ``metrics.jsonl``, ``logs/``, ``checkpoints/<stage>/`` while
a stage runs, ``stages/<stage>/`` (what a finished stage changed), ``adapters/<stage>/<part>/`` (the adapters that it
trained, in PEFT's format), what steps without a model made (``tokenizer/``), models of the way that were to be kept
(``kept/``), traces of profiled steps (``profile/``), what frozen encoders made of pictures until the run is done
(``features/``), and in the end ``model/``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sightling.errors import UserError
from sightling.train.checkpoint import write_text, write_whole
from sightling.train.features.options import FOLDER as FEATURES
from sightling.train.recipe import Recipe, TrainStage, parse_recipe, read_recipe

RECIPE, RUN = "recipe.yaml", "run.json"
RESERVED = ("model", "stages", "checkpoints", "logs", "kept", "evaluation", "adapters", "profile", FEATURES)
"""Names in a run's folder that no step may use for what it makes."""

# What may change between two starts of one run: it decides what is shown and kept, not what is learnt.
FREE = frozenset(
    {"description", "evaluate", "output_dir", "report_to", "logging_steps", "save_steps", "save_total_limit",
     "dataloader_num_workers", "eval_steps", "per_device_eval_batch_size", "gradient_checkpointing", "features",
     "parallel"}
)  # fmt: skip


def essence(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides the weights."""
    tree = {key: value for key, value in recipe.to_dict().items() if key not in FREE}
    tree["stages"] = {
        name: {key: value for key, value in stage.items() if "type" in stage or key not in FREE}
        for name, stage in tree["stages"].items()
    }
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and stage.features is not None and stage.features.rounds:
            tree["stages"][name]["features"] = {"dtype": stage.features.dtype}
    return tree


def recipe_hash(recipe: Recipe) -> str:
    """A SHA-256 of what decides the weights."""
    # Not sorted: the order of stages counts.
    return hashlib.sha256(json.dumps(essence(recipe), ensure_ascii=True).encode()).hexdigest()


def first_difference(there: Any, here: Any, path: str = "") -> tuple[str, str, str] | None:
    """(key, value there, value here) of the first difference between two trees; ``None`` when equal."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*here, *(key for key in there if key not in here)]:
            below = f"{path}.{key}" if path else str(key)
            if key not in there or key not in here:
                shown = ["absent" if key not in tree else _short(tree[key]) for tree in (there, here)]
                return below, shown[0], shown[1]
            found = first_difference(there[key], here[key], below)
            if found:
                return found
        if path == "stages" and list(there) != list(here):
            return path, " then ".join(there), " then ".join(here)
        return None
    return None if there == here else (path, _short(there), _short(here))


def _short(value: Any) -> str:
    text = "a section" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class RunFolder:
    """The folder of one run, held by this process until :meth:`release`.

    Raises:
        UserError: another run is in it, another process writes in it, or it is no run's folder.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.recipe = recipe
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; choose another folder with --output")
        # The lock file of a run that is just starting is not somebody's data.
        foreign = path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir())
        if foreign and not (path / RUN).is_file() and not (path / RECIPE).is_file():
            raise UserError(f"{path} holds files but no run; choose another folder with --output")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is training in {path}; wait for it or choose another --output") from None
        except OSError as error:
            raise UserError(f"{path} cannot be written to: {error.strerror}") from None
        try:
            self._take()
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let others in."""
        self._lock.release()

    def _take(self) -> None:
        if (self.path / RECIPE).is_file():
            tree, source = read_recipe(self.path / RECIPE)
            difference = first_difference(essence(parse_recipe(tree, source)), essence(self.recipe))
            if difference:
                key, there, here = difference
                raise UserError(
                    f"{self.path} holds another run: {key} is {there} there and {here} here; choose another folder "
                    "with --output, or delete that one"
                )
        write_text(self.path / RECIPE, self.recipe.to_yaml())
        state: Any = {"run_id": uuid.uuid4().hex[:12], "created": _now(), "stages": {}}
        if (self.path / RUN).is_file():
            try:
                state = json.loads((self.path / RUN).read_text(encoding="utf-8"))
            except ValueError:
                state = None
            stages = state.get("stages") if isinstance(state, dict) else None
            if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in stages.values()):
                raise UserError(f"{self.path / RUN} is corrupt; delete it to continue from the checkpoints")
        self.state = state
        waiting = {name: {"status": "waiting"} for name in self.recipe.stages}
        state["stages"] = {name: state["stages"].get(name, waiting[name]) for name in self.recipe.stages}
        state["recipe"], state["recipe_hash"] = self.recipe.name, recipe_hash(self.recipe)
        self.write()

    def finish(self) -> None:
        """Record that the run is done, and remove what only a run that goes on has a use for.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        shutil.rmtree(self.path / FEATURES, ignore_errors=True)
        self.state["status"] = "finished"
        self.write()

    def write(self) -> None:
        """Put :attr:`state` on the disk.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        self.state["updated"] = _now()
        write_text(self.path / RUN, json.dumps(self.state, indent=1, ensure_ascii=False) + "\n")

    def note(self, stage: str, **facts: Any) -> None:
        """Record facts about a stage."""
        self.state["stages"][stage].update(facts)
        self.write()

    def about(self, stage: str) -> dict[str, Any]:
        """What is recorded about a stage."""
        return dict(self.state["stages"][stage])

    def finished_weights(self, stage: str) -> Path:
        """Where a finished stage's weights are; the folder exists when the stage is finished."""
        return self.path / "stages" / stage

    def adapters(self, stage: str) -> Path:
        """Where a finished stage's adapters are, a folder a part; absent where it had none."""
        return self.path / "adapters" / stage

    @property
    def checkpoints(self) -> Path:
        """Where running stages keep theirs."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the finished model is."""
        return self.path / "model"

    def kept(self, stage: str, step: int) -> Path:
        """Where the model of an update is, if it was to be kept."""
        return kept_model(self.path, stage, step)

    def keeper(
        self, stage: str, steps: Collection[int], write: Callable[[Path], None]
    ) -> Callable[[int], None] | None:
        """What keeps the models of some updates of a stage, written by ``write``; ``None`` where there are none.

        A stage that goes on from before such an update comes to the same model and writes it again.
        """

        def keep(step: int) -> None:
            if step in steps:
                write_whole(self.kept(stage, step), write, f"the model of step {step}")

        return keep if steps else None


def kept_model(run: Path, stage: str, step: int) -> Path:
    """Where a run keeps the model of an update."""
    return run / "kept" / f"{stage}-{step:08d}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
