"""Shards in the order of a stage: every record once over ranks and workers, and a stop changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from sightling.data.mixture import MixtureOptions
from sightling.data.source import Source, SourceOptions, content, own_order
from sightling.data.sources import SOURCES
from sightling.errors import UserError
from sightling.parts import make
from sightling.train.order import Batches, batch_numbers, check_content, loader

SIZES = (130, 1, 90, 66)
TOTAL = sum(SIZES)


class Answers(Dataset[Any]):
    """What objectives make of a finite source, in short: the answer of each group, in the source's own order."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source.group(index)[0].answer

    def order(self, seed: int) -> Sequence[int] | None:
        return own_order(self.source, seed)


class Endless(Dataset[Any]):
    """The same of an endless source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Any:
        return self.source.group(index)[0].answer


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shards")
    start = 0
    for shard, size in enumerate(SIZES):
        turns = [[{"from": "human", "value": "Q"}, {"from": "gpt", "value": str(start + n)}] for n in range(size)]
        text = "".join(json.dumps({"conversations": one}) + "\n" for one in turns)
        (folder / f"s-{shard}.jsonl").write_text(text)
        start += size
    return {"type": "files", "path": str(folder / "s-{0..3}.jsonl"), "shuffle_buffer": 40}


def batches(section: dict[str, Any], size: int, seed: int = 0) -> Batches:
    # Opened anew, as a process does that goes on.
    options: SourceOptions = make(SOURCES, section, "data")
    return Batches(Answers(options.open(seed)), list, size, seed)


def read(made: Batches, steps: tuple[int, int], ranks: int, workers: int = 0, accumulation: int = 1) -> list[list[str]]:
    """What the updates are made of: the batches of all ranks, in the order of their numbers."""
    found: dict[int, list[str]] = {}
    for rank in range(ranks):
        numbers = batch_numbers(*steps, accumulation, rank, ranks)
        found |= dict(zip(numbers, loader(made, numbers, workers, False)))
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2), (5, 0), (3, 4)])
def test_ranks_and_workers_meet_every_record_once_an_epoch(section: dict[str, Any], ranks: int, workers: int) -> None:
    size = 7
    made = batches(section, size)
    steps = -(-2 * TOTAL // (size * ranks))
    records = [int(one) for batch in read(made, (0, steps), ranks, workers) for one in batch]
    first, second = records[:TOTAL], records[TOTAL : 2 * TOTAL]
    assert sorted(first) == sorted(second) == list(range(TOTAL)) and first != second
    # Who reads decides nothing.
    assert records == [int(one) for batch in read(made, (0, steps * ranks), 1) for one in batch]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 2), st.data())
def test_a_stop_at_any_update_changes_nothing_of_what_follows(
    section: dict[str, Any], size: int, ranks: int, accumulation: int, data: st.DataObject
) -> None:
    last = max(2, 2 * TOTAL // (size * ranks * accumulation))
    stop = data.draw(st.integers(1, last - 1), "stop")
    whole = read(batches(section, size), (stop, last), ranks, accumulation=accumulation)
    straight = read(batches(section, size), (0, last), ranks, accumulation=accumulation)
    assert straight[stop * ranks * accumulation :] == whole
    # On another number of ranks the same batches follow, none of them missed and none met twice.
    other = read(batches(section, size), (stop * ranks * accumulation, last * ranks * accumulation), 1)
    assert other == whole


def test_going_on_reads_nothing_of_what_came_before(section: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches(section, 5)
    seen: list[int] = []
    shards = made.dataset.source.shards  # type: ignore[attr-defined]
    real = shards.record
    monkeypatch.setattr(shards, "record", lambda number: seen.append(number) or real(number))
    numbers = [int(one) for one in made[40]]
    assert seen == numbers and len(seen) == 5


def test_a_mixture_of_streams_goes_on_where_it_was(section: dict[str, Any]) -> None:
    sources = {"one": {**section, "weight": 3}, "two": {**section, "shuffle_buffer": 1}}

    def mixed() -> Dataset[Any]:
        return Endless(MixtureOptions(sources=sources).open(5))

    whole = read(Batches(mixed(), list, 4, 5), (0, 300), 2)
    assert read(Batches(mixed(), list, 4, 5), (123, 300), 2, workers=2) == whole[246:]


def test_other_shards_than_a_checkpoint_was_made_with_are_refused(section: dict[str, Any]) -> None:
    dataset = batches(section, 4).dataset
    state = {"data": content(dataset)}
    assert state["data"]
    check_content(dataset, state, "checkpoint x")
    fewer = batches({**section, "path": section["path"].replace("0..3", "0..2")}, 4).dataset
    with pytest.raises(UserError, match="checkpoint x was made with other shards than there are now"):
        check_content(fewer, state, "checkpoint x")
    mixed = MixtureOptions(sources={"a": section, "b": {"type": "world"}}).open(0)
    assert content(Endless(mixed)) == state["data"]
    # Nothing can tell, and checkpoints from before said nothing.
    assert content([1]) == ""
    check_content(dataset, {}, "checkpoint x")
