"""A whole run: the stages of a recipe in order, each finished one kept, continued wherever it was stopped."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast_object_list
from rich.console import Console
from torch import nn

from sightling.errors import UserError
from sightling.model.adapters import plain
from sightling.train.adapters import attach_adapters, attach_again, merge_adapters, write_adapters
from sightling.train.checked import CheckedStage, check_recipe
from sightling.train.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    load_checkpoint,
    load_weights,
    read_about,
    save_checkpoint,
    write_whole,
)
from sightling.train.features.cache import open_features
from sightling.train.foresight import foresee
from sightling.train.levers import levers
from sightling.train.loop import StageLoop, Surroundings
from sightling.train.memory import bound_kernels, give_back
from sightling.train.order import derive_seed, seed_everything
from sightling.train.precision import choose_bf16, choose_threads, precision_name
from sightling.train.processes import check_share, deaf_to_python
from sightling.train.profiling import Profile
from sightling.train.progress import short_bytes, short_time
from sightling.train.recipe import Recipe, TrainStage
from sightling.train.runfolder import RECIPE, RunFolder
from sightling.train.steps import StageStep, StepContext
from sightling.train.stopping import Interrupted, StopNow, Stopping
from sightling.train.trackers import METRICS, Log, MetricsFile, check_trackers, start_trackers
from sightling.train.trained import able_to_learn, model_parts, set_training, trained_tensors

Build = Callable[[dict[str, Any], int, Path], tuple[Any, Any]]
"""``(model section, seed, run folder) -> (model, processor)``, the same weights every time."""

CONTINUES = "the same command continues from there"


def run(
    recipe: Recipe,
    output_dir: str | Path | None = None,
    *,
    threads: int | None = None,
    build: Build | None = None,
    console: Console | None = None,
    share: int = 1,
    keep: Mapping[str, Collection[int]] | None = None,
    profile: int | None = None,
) -> Path:
    """Grow the model of a recipe, or go on growing it. Returns the run's folder.

    The same call on the same folder continues after a stop, a crash or a kill, to bit for bit the weights of
    an uninterrupted run on a CPU with the same number of threads.

    Args:
        recipe: what to grow.
        output_dir: the run's folder; ``None`` is the recipe's ``output_dir``, else ``runs/<name>``.
        threads: threads of torch; ``None`` takes every core.
        build: makes the model; ``None`` is :func:`sightling.model.build.build_model`.
        console: where to print; ``None`` is standard output.
        share: how many processes, this one included, share one device's batches
            (:mod:`sightling.train.processes`); each takes an even part.
        keep: by stage, the updates after which the whole model is kept as it is then, in ``kept/<stage>-<step>``.
        profile: so many steps of each stage are profiled (:mod:`sightling.train.profiling`); ``None`` profiles none.

    Raises:
        UserError: bad input, a folder that holds another run, a full disk, a loss that is not finite.
        Interrupted: Ctrl-C or SIGTERM; what was learnt is saved.
    """
    bound_kernels()
    if recipe.parallel.sharded:
        from sightling.train.sharding import check_run

        check_run(recipe, bool(keep), profile is not None)
    checked = check_recipe(recipe)
    if build is None:
        # The model is built after the stages that it needs (a tokenizer's); its parts can be wrong now.
        foresee(recipe)
    check_trackers(recipe.report_to, recipe.source)
    check_share(recipe, share)
    stopping = Stopping()
    with deaf_to_python():
        mine = _Run(recipe, checked, output_dir, threads, build, console, stopping, share, keep or {}, profile)
    with stopping:
        try:
            return mine.go()
        except Interrupted as stop:
            raise Interrupted(f"{stop}; {CONTINUES}", stop.exit_code - 128) from None
        except StopNow as stop:
            raise Interrupted(f"stopped at once; {CONTINUES} or from the checkpoint before", stop.signum) from None


class _Run:
    """One process's part in a run."""

    def __init__(
        self,
        recipe: Recipe,
        checked: dict[str, CheckedStage | StageStep],
        output_dir: str | Path | None,
        threads: int | None,
        build: Build | None,
        console: Console | None,
        stopping: Stopping,
        share: int,
        keep: Mapping[str, Collection[int]],
        profile: int | None,
    ) -> None:
        self.share, self.keep = share, keep
        self.recipe, self.checked, self.stopping = recipe, checked, stopping
        self.path = Path(output_dir or recipe.output_dir or Path("runs") / recipe.name)
        self.threads = choose_threads(threads, share)
        if "WORLD_SIZE" in os.environ:
            # Where several processes are told nothing, accelerate chooses another number.
            os.environ.setdefault("OMP_NUM_THREADS", str(self.threads.value))
        # Precision is ours to choose, stage by stage; text-only batches leave the encoder without gradients.
        self.accelerator = Accelerator(
            # Said outright: without an accelerator, accelerate would take torchrun's processes for single ones.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="no",
            log_with=recipe.report_to or None,
            project_dir=str(self.path / "logs"),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in plain:
            raise UserError(
                f"training runs on one device or on several by the recipe's parallel, not under "
                f"{self.accelerator.distributed_type.value}; start it with torchrun"
            )
        self.cut = recipe.parallel.cuts(self.accelerator.num_processes, f"{recipe.source}: parallel")
        if build is None:
            from sightling.model.build import build_model

            build = build_model
        self.build = build
        self.console = console or Console()
        self.profile = Profile(profile, self.path, self.console) if profile is not None else None
        self.model: Any = None
        self.processor: Any = None
        self.able: set[nn.Parameter] = set()
        self._measured_bf16: Any = None

    def say(self, line: str) -> None:
        """Print a line, on the first rank."""
        if self.accelerator.is_main_process:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def go(self) -> Path:
        """All stages, then the model."""
        self._find_data()
        # The first rank alone owns the folder; the others read what it wrote.
        folder = RunFolder(self.path, self.recipe) if self.accelerator.is_main_process else None
        try:
            return self._go(folder)
        finally:
            self.accelerator.end_training()
            if folder is not None:
                folder.release()

    def _find_data(self) -> None:
        """Look for the data of every stage that is still to come, before anything is written.

        Raises:
            UserError: some do not exist.
        """
        for name, what in self.checked.items():
            made = self._weights(name) if isinstance(what, CheckedStage) else self.path / what.folder
            look = what.data.check if isinstance(what, CheckedStage) else what.check
            try:
                if not made.is_dir():
                    look()
            except UserError as error:
                raise UserError(f"{self.recipe.source}: stages.{name}.data: {error}") from None

    def _go(self, folder: RunFolder | None) -> Path:
        self.accelerator.wait_for_everyone()
        done_before = folder is not None and folder.state.get("status") == "finished"
        self._greet(folder)
        log = Log(self.accelerator, MetricsFile(self.path / METRICS))
        started = time.perf_counter()
        finished: list[str] = []
        trackers_open = False
        for name, stage in self.recipe.stages.items():
            if self.stopping.asked:
                raise Interrupted(f"stopped before stage {name}", self.stopping.asked)
            what = self.checked[name]
            if isinstance(what, StageStep):
                self._do_step(name, what, folder)
                continue
            assert isinstance(stage, TrainStage)
            if not self._weights(name).is_dir():
                self._have_model(finished)
                if not trackers_open:
                    self._open_trackers(folder, log.offset + self._saved_step(name))
                    trackers_open = True
                self._train(name, stage, what, folder, log, finished)
            elif folder is not None:
                self._reconcile(name, folder)
            finished.append(name)
            log.offset += int(read_about(self._weights(name))["step"])
        if finished:
            self._save_model(finished, folder)
        if folder is not None:
            took = short_time(time.perf_counter() - started)
            told = "this run was finished already" if done_before else f"finished in {took}"
            self.say(f"{told}; the result is in {folder.model if finished else self.path}")
            folder.finish()
        return self.path

    def _greet(self, folder: RunFolder | None) -> None:
        self.say(f"recipe {self.recipe.name}, stages {', '.join(self.recipe.stages)}, into {self.path}")
        device, ranks = self.accelerator.device, self.accelerator.num_processes
        word = "thread" if self.threads.value == 1 else "threads"
        many = f" x {ranks} processes{self.recipe.parallel.described(ranks)}" if ranks > 1 else ""
        self.say(f"on {device}{many}, {self.threads.value} {word} ({self.threads.reason})")
        if folder is None:
            return
        before = folder.state.get("threads")
        if before not in (None, self.threads.value) and folder.checkpoints.is_dir():
            self.say(f"this run had {before} threads before; another number rounds sums in another order, so the "
                     "weights will not be bit for bit those of an uninterrupted run")  # fmt: skip
        folder.state.update(status="running", threads=self.threads.value, device=str(device), processes=ranks)
        folder.write()

    def _weights(self, stage: str) -> Path:
        return self.path / "stages" / stage

    def _saved_step(self, stage: str) -> int:
        steps = CheckpointFolder(self.path / "checkpoints" / stage, 1).steps()
        return steps[-1] if steps else 0

    def _open_trackers(self, folder: RunFolder | None, first_step: int) -> None:
        run_id = broadcast_object_list([folder.state["run_id"] if folder is not None else None])[0]
        start_trackers(
            self.accelerator,
            project=self.recipe.name,
            run_id=run_id,
            folder=self.path,
            config=self.recipe.to_yaml(),
            first_step=first_step,
        )

    def _do_step(self, name: str, step: StageStep, folder: RunFolder | None) -> None:
        target = self.path / step.folder
        if folder is not None and not target.is_dir():
            self.say(f"stage {name}")
            started = time.perf_counter()
            facts: dict[str, Any] = {}

            def write(into: Path) -> None:
                seed = derive_seed(self.recipe.seed, name)
                facts.update(step.run(StepContext(self.recipe.model, seed, into, self.path, self.say)))

            write_whole(target, write, f"what stage {name} makes")
            seconds = time.perf_counter() - started
            folder.note(name, status="finished", seconds=seconds, facts=facts)
            told = "".join(f", {key} {value}" for key, value in facts.items())
            self.say(f"stage {name} finished in {short_time(seconds)}{told}")
        elif folder is not None:
            folder.note(name, status="finished")
        self.accelerator.wait_for_everyone()

    def _have_model(self, finished: list[str]) -> None:
        """Build the model, unless it is there, and give it what the finished stages taught it."""
        if self.model is not None:
            return
        seed_everything(derive_seed(self.recipe.seed, "build"))
        self.model, self.processor = self.build(dict(self.recipe.model), self.recipe.seed, self.path)
        self.able = able_to_learn(self.model)
        parts = model_parts(self.model)
        for name in finished:
            stage = self.recipe.stages[name]
            assert isinstance(stage, TrainStage)
            rates = stage.train.rates(stage.learning_rate)
            where = f"{self.recipe.source}: stages.{name}"
            set_training(self.model, parts, rates, self.able, where, stage.train)
            weights = load_checkpoint(self._weights(name)).weights
            load_weights(trained_tensors(self.model, parts, rates), weights, f"what stage {name} left")
        if not self.cut:
            self.model.to(self.accelerator.device)

    def _choose_bf16(self, name: str, stage: TrainStage, folder: RunFolder | None) -> bool:
        """The first rank decides for all; a stage that goes on keeps the precision that it began with."""
        chosen = None
        if folder is not None:
            before = folder.about(name).get("bf16")
            if stage.bf16 == "auto" and before is not None:
                chosen, reason = bool(before), "as this stage began"
            else:
                if stage.bf16 == "auto" and self._measured_bf16 is None:
                    self._measured_bf16 = choose_bf16("auto", self.accelerator.device)
                choice = self._measured_bf16 if stage.bf16 == "auto" else choose_bf16(stage.bf16, torch.device("cpu"))
                chosen, reason = bool(choice.value), choice.reason
            self.say(f"precision of stage {name}: {precision_name(chosen)} ({reason})")
        return bool(broadcast_object_list([chosen])[0])

    def _train(
        self, name: str, stage: TrainStage, what: CheckedStage, folder: RunFolder | None, log: Log, finished: list[str]
    ) -> None:
        where = f"{self.recipe.source}: stages.{name}"
        bf16 = self._choose_bf16(name, stage, folder)
        if folder is not None:
            folder.note(name, status="running", bf16=bf16, threads=self.threads.value)
        seed = derive_seed(stage.seed, name)
        rates = stage.train.rates(stage.learning_rate)
        adapters = attach_adapters(self.model, stage.train, self.able, where, derive_seed(seed, "adapters"))
        set_training(self.model, model_parts(self.model), rates, self.able, where, stage.train)
        # Ranks must agree on what an objective makes, and a resumed stage with its first start.
        seed_everything(derive_seed(seed, "objective"))
        objective = what.objective(self.model, self.processor, what.options, what.data, seed)
        objective.features = open_features(
            stage.features, self.model, self.processor, objective.view, bf16, self.path, self.say, where
        )
        kept = folder.keeper(name, self.keep.get(name, ()), self._write_model) if folder is not None else None
        folders = self.path / "checkpoints"
        profiled = self.profile.update if self.profile is not None and folder is not None else None
        around = Surroundings(
            self.accelerator, self.console, log, self.stopping, folders, self.able, kept, profiled, self.recipe.parallel
        )
        mine = stage.per_device_train_batch_size // self.share
        stage = stage.model_copy(update={"per_device_train_batch_size": mine})
        loop = StageLoop(name, stage, self.model, objective, around, seed=seed, bf16=bf16, where=where)
        with levers(self.model, stage, self.accelerator.device, where, self.say):
            result = loop.run()
        if objective.features is not None:
            objective.features.report(name, self.accelerator)
        weights = result.weights
        if self.cut:
            # A model in parts is of this stage alone; what it learnt is gathered already.
            del loop, objective
            self._let_go()
        if adapters and self.cut:
            self._have_model(finished)
            known = weights if folder is not None else None
            adapters = attach_again(self.model, stage, self.able, where, derive_seed(seed, "adapters"), known)
        if adapters:
            if folder is not None:
                write_whole(folder.adapters(name), lambda at: write_adapters(self.model, adapters, at), "an adapter")
            weights = merge_adapters(self.model, stage.train, rates, self.able, where)
        if folder is not None:
            about = {
                "stage": name,
                "step": result.steps,
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
            }
            save_checkpoint(self._weights(name), Checkpoint(weights, {}, about))
            self._reconcile(name, folder)
            took, peak = short_time(result.seconds), short_bytes(result.peak_memory_bytes)
            self.say(f"stage {name} finished in {took}, peak memory so far {peak}")
        if self.cut:
            self._let_go()
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()
        self.accelerator.wait_for_everyone()

    def _let_go(self) -> None:
        self.model, self.processor, self.able = None, None, set()
        gc.collect()
        give_back(self.accelerator.device)

    def _reconcile(self, name: str, folder: RunFolder) -> None:
        """A stage is finished when its weights are there; a crash may have come before it was written down."""
        if folder.about(name).get("status") != "finished":
            about = read_about(self._weights(name))
            facts = {key: about[key] for key in ("seconds", "peak_memory_bytes")}
            folder.note(name, status="finished", steps=about["step"], **facts)
        CheckpointFolder(folder.checkpoints / name, 1).clear()

    def _save_model(self, finished: list[str], folder: RunFolder | None) -> None:
        # The first rank looks for all: another that came late would find what is just being written, and not wait.
        if broadcast_object_list([(self.path / "model").is_dir()])[0]:
            return
        self._have_model(finished)
        if folder is not None:
            write_whole(folder.model, self._write_model, "the model")
        self.accelerator.wait_for_everyone()

    def _write_model(self, into: Path) -> None:
        with plain(self.model):
            self.model.save_pretrained(into)
        self.processor.save_pretrained(into)
        (into / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
