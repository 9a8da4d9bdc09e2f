"""A plan for a person: a table and a few lines for each stage."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from sightling.train.optimizers import short_number
from sightling.train.plans import FeaturePlan, Machine, RecipePlan, ShardPlan, StagePlan
from sightling.train.progress import short_bytes, short_flops, short_time


def show(plan: RecipePlan, console: Console) -> None:
    """Print all of it."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"recipe {plan.recipe}, planned for {_machine(plan.machine)}")
    if plan.note:
        say(plan.note)
    for stage in plan.stages:
        say("")
        console.print(_table(stage))
        for line in _lines(stage, plan.machine):
            say(line)
    whole = [stage.time.whole if stage.time else None for stage in plan.stages]
    if len(whole) > 1 and all(seconds is not None for seconds in whole):
        say(f"\nall stages: about {short_time(sum(seconds or 0.0 for seconds in whole))}")


def _machine(machine: Machine) -> str:
    many = f" in each of {machine.processes} processes" if machine.processes > 1 else ""
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    rates = ", ".join(f"{dtype} products at {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in machine.rates.items())
    told = f"{machine.device}, {threads}{many}, {short_bytes(machine.free_bytes)} free"
    if rates:
        told += f"; measured: {rates}"
    if machine.waiting > 1.1:
        told += f"; others use the processor too, so that everything takes {machine.waiting:.1f} times as long"
    return told


def _table(stage: StagePlan) -> Table:
    table = Table(title=f"stage {stage.name}", title_justify="left", title_style="bold")
    headings = ("part", "parameters", "train", "learning rate", "weights", "gradients", "optimizer state", "optimizer")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in (0, len(headings) - 1) else "right")
    for part in stage.parts:
        rate = f"{part.learning_rate:g}" if part.trained else "frozen"
        sizes = [short_bytes(size) for size in (part.weights, part.gradients, part.optimizer_state)]
        counts = [short_number(part.parameters), short_number(part.trained)]
        table.add_row(part.name, *counts, rate, *sizes, part.optimizer)
    table.add_section()
    memory = stage.memory
    counts = [short_number(sum(getattr(part, key) for part in stage.parts)) for key in ("parameters", "trained")]
    sizes = [short_bytes(size) for size in (memory.weights, memory.gradients, memory.optimizer)]
    table.add_row("all", *counts, "", *sizes, "")
    return table


def _lines(stage: StagePlan, machine: Machine) -> Iterator[str]:
    if stage.note:
        yield f"not known: {stage.note}"
    each = " a process" if machine.processes > 1 else ""
    memory = stage.memory
    yield (
        f"memory{each}: {short_bytes(memory.total)}, activations {short_bytes(memory.activations or 0)} among it; "
        f"at most {short_bytes(stage.peak)} of tensors at once in a step"
        + (f", beside {short_bytes(machine.process_bytes)} of Python and libraries" if machine.process_bytes else "")
    )
    fits = f"{stage.largest_batch:,}" if stage.largest_batch else "none; not even 1"
    yield f"largest batch that fits{each}: {fits} (the stage has {stage.batch:,})"
    if stage.sharded is not None:
        yield _gathered(stage.sharded)
    tokens = stage.tokens
    text = tokens.all - tokens.visual
    yield (
        f"a step: {tokens.all:,.0f} tokens ({text:,.0f} text, {tokens.visual:,.0f} visual), "
        f"{tokens.padded - tokens.all:,.0f} of padding, {tokens.supervised:,.0f} supervised"
    )
    whole = stage.flops + stage.optimizer_flops
    all_steps = "" if stage.flops_in_all is None else f", {short_flops(stage.flops_in_all)} in all"
    muon = f", {short_flops(stage.optimizer_flops)} of them the optimizer's" if stage.optimizer_flops else ""
    yield f"operations: {short_flops(whole)} a step{muon}{all_steps}; {stage.precision} ({stage.precision_reason})"
    if stage.features is not None:
        yield from _kept(stage.features)
    steps = "steps: not known without the data" if stage.steps is None else f"steps: {stage.steps:,}"
    if stage.time is None:
        yield steps
        return
    time = stage.time
    first = " of the first epoch" if stage.features is not None and stage.features.reading_steps else ""
    told = "" if time.whole is None else f", about {short_time(time.whole)} in all"
    yield (
        f"{steps}{told}; {_seconds(time.step)} a step{first} ({_seconds(time.compute)} model, "
        f"{_seconds(time.optimizer)} optimizer, {_seconds(time.data)} data)"
    )


def _gathered(cut: ShardPlan) -> str:
    """What the processes hold a part of, and what each gathers in full."""
    copies = f"{cut.copies} copies of the model, each" if cut.copies > 1 else "the model"
    rest = f"{', '.join(cut.rest)} for a whole micro-batch ({short_bytes(cut.rest_weights + cut.rest_gradients)})"
    unit = f"{cut.unit} while it runs ({short_bytes(cut.unit_weights + cut.unit_gradients)})"
    among = "1 process" if cut.shards == 1 else f"{cut.shards} processes"
    return (
        f"{copies} cut among {among}; gathered by each, with gradients, at most "
        f"{short_bytes(cut.gathered)} at once: {rest}, and the largest unit, {unit}"
    )


def _kept(features: FeaturePlan) -> Iterator[str]:
    """What keeping features changes of a stage, and what of it is not known."""
    where = features.folder or "the run's folder"
    each = f"{short_bytes(features.picture_bytes)} a picture" if features.looked else "no picture was among the items"
    told = f"features kept in {where}, as {features.dtype}: {each}"
    if features.bytes is None or features.needed is None or features.pictures is None:
        yield f"{told}; how many there are is not known without the data: steps are told as if the encoder ran in all"
    else:
        about = "" if features.looked == features.pictures else "about "
        word = "picture" if features.pictures == 1 else "pictures"
        alike = ", if no two items show the same one" if about else ""
        yield f"{told}, {about}{short_bytes(features.needed)} on disk for {about}{features.pictures:,} {word}{alike}"
        if features.kept < 1:
            yield (
                f"{short_bytes(features.room)} is all they may take: {features.kept:.0%} of the pictures are kept, and "
                "the others go through the encoder each time"
            )
    if features.held:
        yield f"{where} holds {short_bytes(features.held)} already, taken to be of another encoder"
    time = "" if features.time is None else f", {_seconds(features.time.step)}"
    if features.endless:
        yield "the data never end: every step is of the first epoch, and kept features never pay here"
    elif features.reading_steps == 0:
        yield "the stage ends within its first epoch, in which every picture is new: kept features do not pay here"
    elif features.reading_steps is not None:
        steps = "step" if features.encoding_steps == 1 else "steps"
        yield (
            f"the encoder runs in {features.encoding_steps:,} {steps} of the first epoch; features are read in "
            f"{features.reading_steps:,} after it: {short_flops(features.flops)}{time} a step that reads all of them"
        )


def _seconds(time: float) -> str:
    """A step's time for a person, to three digits while it is short: 0.0686 s, 2 h 5 min."""
    return f"{time:.3g} s" if time < 60 else short_time(time)
