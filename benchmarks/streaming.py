"""Memory and speed of streamed shards, by the number of their records.

For each kind of shard and each number of records a set of tiny records is written, and a process of its own opens it
as a recipe does, which finds where its records are, and reads in shuffled order: all of them, or as many as ``--read``
says, spread over the whole epoch. Peak memory should not depend on the number of records.

    python benchmarks/streaming.py [--kinds lines parquet tar] [--records 10000 100000 1000000] [--read 100000]

The table shows the process's peak memory beside that of a process that has only loaded the package.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHARDS = 10
SUFFIXES = {"lines": "jsonl", "parquet": "parquet", "tar": "tar"}
ROW_GROUP = 100_000


def turns(number: int) -> list[dict[str, str]]:
    """A question and its answer."""
    return [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": str(number)}]


def spans(records: int) -> Iterator[tuple[int, range]]:
    """(shard, the numbers of its records)."""
    each = -(-records // SHARDS)
    for shard in range(SHARDS):
        yield shard, range(min(shard * each, records), min((shard + 1) * each, records))


def write(kind: str, folder: Path, records: int) -> str:
    """A set of so many records, none of them held; returns the pattern that names its shards."""
    suffix = SUFFIXES[kind]
    for shard, numbers in spans(records):
        path = folder / f"s-{shard:02d}.{suffix}"
        if kind == "lines":
            with path.open("w") as handle:
                for number in numbers:
                    handle.write(json.dumps({"id": number, "conversations": turns(number)}) + "\n")
        elif kind == "parquet":
            write_parquet(path, numbers)
        else:
            with tarfile.open(path, "w") as archive:
                for number in numbers:
                    content = json.dumps({"conversations": turns(number)}).encode()
                    about = tarfile.TarInfo(f"{number:09d}.json")
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
                    # tarfile would keep every member; its annotations leave the list out.
                    archive.members.clear()  # type: ignore[attr-defined]
    return str(folder / f"s-{{00..{SHARDS - 1:02d}}}.{suffix}")


def write_parquet(path: Path, numbers: range) -> None:
    """One parquet shard in MiniMind-V's layout, without pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("conversations", pa.string()), ("image_bytes", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(numbers), ROW_GROUP):
            told = [json.dumps(turns(number)) for number in numbers[start : start + ROW_GROUP]]
            writer.write_table(pa.table({"conversations": told, "image_bytes": [None] * len(told)}, schema))


def measure(path: str, records: int, read: int) -> dict[str, Any]:
    """What one process needs: seconds to open, records a second, peak memory in MiB."""
    from sightling.data.files import FilesOptions

    loaded = peak()
    if not records:
        return {"peak_mib": loaded}
    started = time.perf_counter()
    source = FilesOptions(path=path).open(0)
    opened = time.perf_counter() - started
    assert len(source) == records
    order = source.order(0)  # type: ignore[union-attr]
    # Blocks of neighbouring places, as a stage asks for them, from the beginning to the end of the epoch.
    most = min(read, records)
    blocks = min(100, most)
    started, total, done = time.perf_counter(), 0, 0
    for block in range(blocks):
        first = block * records // blocks
        for place in range(first, first + most // blocks):
            total += int(source.group(order[place])[0].answer)
            done += 1
    seconds = time.perf_counter() - started
    if done == records:
        assert total == records * (records - 1) // 2, "a record is missing or came twice"
    return {"open_seconds": opened, "read": done, "records_per_second": done / seconds, "peak_mib": peak()}


def peak() -> float:
    """This process's peak resident memory in MiB.

    Linux hands ``ru_maxrss`` on from the process that started this one; its own peak is in ``/proc``.
    """
    status = Path("/proc/self/status")
    if status.exists():
        told = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(told.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def alone(path: str, records: int, read: int, cache: Path) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", path, str(records), str(read)]
    told = subprocess.run(command, env=os.environ | {"SIGHTLING_CACHE": str(cache)}, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(told.stderr)
    return json.loads(told.stdout)


def main() -> None:
    """Write the sets, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=sorted(SUFFIXES), default=sorted(SUFFIXES))
    parser.add_argument("--records", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--read", type=int, default=100_000, help="at most so many records are read of each set")
    parser.add_argument("--output", type=Path, default=Path("streaming.json"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, records, read = arguments.one
        print(json.dumps(measure(path, int(records), int(read))))
        return
    results: list[dict[str, Any]] = []
    table = Table("shards", "records", "on disk", "open", "open again", "read", "records/s", "peak memory")
    with tempfile.TemporaryDirectory() as temporary:
        base = alone("", 0, 0, Path(temporary))["peak_mib"]
        for kind in arguments.kinds:
            for records in arguments.records:
                with tempfile.TemporaryDirectory() as folder:
                    path = write(kind, Path(folder), records)
                    size = sum(file.stat().st_size for file in Path(folder).iterdir())
                    found = alone(path, records, arguments.read, Path(temporary))
                    again = alone(path, records, 1, Path(temporary))["open_seconds"]
                results.append({"kind": kind, "records": records, "bytes": size, "open_again_seconds": again, **found})
                table.add_row(
                    kind, f"{records:,}", f"{size / 2**20:.0f} MiB", f"{found['open_seconds']:.1f} s", f"{again:.2f} s",
                    f"{found['read']:,}", f"{found['records_per_second']:,.0f}", f"{found['peak_mib']:.0f} MiB",
                )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"the package alone: {base:.0f} MiB")
    arguments.output.write_text(json.dumps({"package_mib": base, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
