"""What a plan tells of a recipe: numbers alone. Bytes are those of one process, times are seconds on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sightling.train.summary import Memory


@dataclass(frozen=True)
class PartPlan:
    """A part of the model in a stage: how many parameters, how many of them train, and the bytes that it takes.

    ``learning_rate`` is 0 for a frozen part; ``optimizer`` names Muon, AdamW or both, with their parameters.
    """

    name: str
    parameters: int
    trained: int
    learning_rate: float
    optimizer: str
    weights: int
    gradients: int
    optimizer_state: int


@dataclass(frozen=True)
class Tokens:
    """Tokens of one update, over all micro-batches and processes; means over the micro-batches that were looked at."""

    all: float
    visual: float
    padded: float
    supervised: float


@dataclass(frozen=True)
class Time:
    """Seconds on this machine. ``data`` is the time to make batches that computing has to wait for."""

    step: float
    compute: float
    data: float
    optimizer: float
    whole: float | None


@dataclass(frozen=True)
class FeaturePlan:
    """What keeping a frozen encoder's features makes of a stage, and the disk that they take.

    Attributes:
        folder: where they are kept; empty for the run's own folder.
        dtype: what they are kept in.
        looked: different pictures that were looked at.
        pictures: that the stage shows, if no two items show the same one; None without the data.
        picture_bytes: of the file that keeps a picture, the mean of those that were looked at.
        needed: bytes of the files of all pictures; None without the data.
        room: bytes that they may take: ``max_gib`` less what the folder and earlier stages hold, or what the disk has.
        held: bytes that the folder holds already, taken to be of another encoder.
        kept: the share of the pictures that find room; the others go through the encoder each time.
        encoding_steps: updates of the first epoch, in which the encoder sees each picture; None without the data.
        reading_steps: updates after it; None without the data.
        endless: whether the data never end, so that no epoch but the first ever comes.
        flops: floating-point operations of an update whose pictures' features are all read, as ``StagePlan.flops``.
        time: of such an update; ``whole`` is that of all ``reading_steps``. None where nothing was timed.
    """

    folder: str
    dtype: str
    looked: int
    pictures: int | None
    picture_bytes: float
    needed: int | None
    room: int
    held: int
    kept: float
    encoding_steps: int | None
    reading_steps: int | None
    endless: bool
    flops: int
    time: Time | None = None

    @property
    def bytes(self) -> int | None:
        """That the files will take: all of them, or as many as find room."""
        return None if self.needed is None else round(self.kept * self.needed)

    def later(self, encoding: float, reading: float) -> float:
        """Of an update after the first epoch, from those in which all pictures are encoded, and all are read."""
        return reading + (1.0 - self.kept) * (encoding - reading)


@dataclass(frozen=True)
class ShardPlan:
    """What a process holds for a moment where a model is cut among several. Bytes of weights and of their gradients.

    Attributes:
        shards: processes that hold a copy of the model among them.
        copies: of the model.
        rest: parts that are gathered, as far as no unit does it, at the beginning of a micro-batch and to its end.
        rest_weights: what stands in no unit, in full.
        rest_gradients: of it, as far as it trains, which are summed when the micro-batch ends.
        unit: the largest unit, which is gathered just before it runs and let go just after.
        unit_weights: of it, in full.
        unit_gradients: of it, as far as it trains.
    """

    shards: int
    copies: int
    rest: tuple[str, ...]
    rest_weights: int
    rest_gradients: int
    unit: str
    unit_weights: int
    unit_gradients: int

    @property
    def gathered(self) -> int:
        """The most bytes that are gathered at once."""
        return self.rest_weights + self.rest_gradients + self.unit_weights + self.unit_gradients


@dataclass(frozen=True)
class StagePlan:
    """What a stage that trains will need. Bytes are those of one process.

    Attributes:
        name: the stage's.
        parts: of the model, and what the objective trains beside it.
        memory: weights, gradients, optimizer state, and what the largest micro-batch keeps for its way back.
        peak: the most bytes of tensors at once in a step.
        tokens: of one update.
        items: how many the data hold; None for data that never end or are not there.
        steps: updates; None where it depends on data that are not there.
        batch: items of a micro-batch, on one process.
        flops: floating-point operations of one update, forward and backward, over all processes.
        optimizer_flops: those of the optimizer's products.
        precision: of the matrix products.
        precision_reason: why.
        sampled: micro-batches that were looked at; 0 where one stands for data that are not there.
        note: what is not known, and what stands for it; empty where all is.
        largest_batch: items a process that its memory has room for.
        time: None where nothing was timed.
        features: what keeping the encoder's features changes; ``flops`` and ``time`` are then of an update in which
            the encoder sees every picture. None where none are kept.
        sharded: what is gathered where the model is cut among processes; ``peak`` holds it. None where it is not.
    """

    name: str
    parts: tuple[PartPlan, ...]
    memory: Memory
    peak: int
    tokens: Tokens
    items: int | None
    steps: int | None
    batch: int
    flops: int
    optimizer_flops: int
    precision: str
    precision_reason: str
    sampled: int
    note: str
    largest_batch: int
    time: Time | None = None
    features: FeaturePlan | None = None
    sharded: ShardPlan | None = None

    @property
    def flops_in_all(self) -> int | None:
        """Those of all updates, the optimizer's included; None where their number is not known."""
        if self.steps is None:
            return None
        whole = self.steps * (self.flops + self.optimizer_flops)
        if self.features is None or not self.features.reading_steps:
            return whole
        spared = self.flops - self.features.later(self.flops, self.features.flops)
        return whole - round(self.features.reading_steps * spared)


@dataclass(frozen=True)
class Machine:
    """Where it would run. ``rates`` are floating-point operations a second of large products that were measured."""

    device: str
    threads: int
    processes: int
    free_bytes: int
    process_bytes: int
    rates: dict[str, float]
    waiting: float
    timed: int


@dataclass(frozen=True)
class RecipePlan:
    """The plan of a whole recipe; ``note`` is told of its tokenizer and processes."""

    recipe: str
    machine: Machine
    stages: tuple[StagePlan, ...]
    note: str

    def told(self) -> dict[str, Any]:
        """The same as plain data."""
        told = asdict(self)
        for stage, plan in zip(told["stages"], self.stages, strict=True):
            stage["memory"]["total"] = plan.memory.total
            stage["flops_in_all"] = plan.flops_in_all
            if plan.features is not None:
                stage["features"]["bytes"] = plan.features.bytes
            if plan.sharded is not None:
                stage["sharded"]["gathered"] = plan.sharded.gathered
        return told
