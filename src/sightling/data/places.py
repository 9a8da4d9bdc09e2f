"""Where the shards of a data set are: on a disk, or at any URL that fsspec knows; ranges of names written out."""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from sightling.errors import UserError

SHARD_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".tar")
"""What a folder of shards is searched for."""

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
AT_ONCE = 16
"""Files that are asked for at the same time: a store far away answers slowly, but many at once."""

HERE_AT_ONCE = 4
"""The same of files on this computer. Each thread that reads keeps memory of its own, and more are no faster here."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file at a URL, with as much of the manners of :class:`pathlib.Path` as readers need.

    Nothing is kept open: a connection does not survive the birth of a worker process, and fsspec gives each process
    a file system of its own when asked anew.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def found(self) -> tuple[Any, str]:
        """(fsspec's file system, the path within it).

        Raises:
            UserError: an unknown protocol, or one whose package is not installed.
        """
        try:
            return url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(f"{self.url} cannot be opened: {error}") from None

    def exists(self) -> bool:
        """Whether there is such a file."""
        with told(self):
            files, path = self.found()
            return bool(files.exists(path))

    def is_dir(self) -> bool:
        """Never: a URL names a file."""
        return False

    def open(self, mode: str = "r", **how: Any) -> IO[Any]:
        """The file, as ``Path.open`` gives it."""
        files, path = self.found()
        return files.open(path, mode, **how)


File = Path | Place
"""A file on this computer or elsewhere; both have ``exists``, ``is_dir`` and ``open``."""


@contextmanager
def told(file: File) -> Iterator[None]:
    """What reading a file can raise becomes one sentence.

    Raises:
        UserError: instead of ``OSError`` and what the packages behind URLs raise in its place.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        if isinstance(file, Path):
            raise
        # Each store has errors of its own, which only its own package knows.
        raise UserError(f"{file} cannot be read: {type(error).__name__}: {error}") from None


def read_range(file: File, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop - 1`` of a file.

    Raises:
        UserError: it cannot be read, or is shorter than it was.
    """
    with told(file):
        if isinstance(file, Place):
            files, path = file.found()
            found: bytes = files.cat_file(path, start=start, end=stop)
        else:
            with file.open("rb", buffering=0) as handle:
                handle.seek(start)
                found = handle.read(stop - start) or b""
    if len(found) != stop - start:
        raise UserError(f"{file} changed while it was being read: it has no {stop} bytes any more")
    return found


def identity(file: File) -> tuple[str, int]:
    """(what changes when the file is another one or is written anew, its size in bytes).

    Raises:
        UserError: there is no such file.
    """
    with told(file):
        if isinstance(file, Place):
            files, path = file.found()
            return f"{file.url} {files.ukey(path)}", int(files.size(path) or 0)
        about = file.stat()
        return f"{file.resolve()} {about.st_mtime_ns}", about.st_size


def digest(*parts: object) -> str:
    """A name for what the parts say together."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]


def is_url(path: str) -> bool:
    """Whether this is a URL (``s3://...``, also chained as fsspec has it) and not a path."""
    return "://" in path or "::" in path


def is_pattern(path: str) -> bool:
    """Whether this stands for several files: a range in braces or a ``*``, unless a file has that very name."""
    if not is_url(path) and Path(path).expanduser().exists():
        return False
    return "*" in path or any(_choices(found[1]) is not None for found in BRACES.finditer(path))


def shards(paths: str | Sequence[str]) -> list[File]:
    """The files that a path, a pattern, a folder, a URL or a list of them stands for, in order; each exists.

    ``{000..099}`` counts, with as many digits as are written; ``{a,b}`` is a or b; ``*`` is what there is, sorted. A
    folder stands for the shards in it.

    Raises:
        UserError: nothing matches, some do not exist (the first is named), or one is named twice.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    found = [file for path in given for one in braces(path) for file in _files(one)]
    twice = next((file for file, after in itertools.pairwise(sorted(found, key=str)) if file == after), None)
    if twice is not None:
        raise UserError(f"the shard {twice} is named twice, and would be read twice")
    missing = [file for file, there in zip(found, at_once(lambda file: file.exists(), found)) if not there]
    if missing:
        raise UserError(f"{len(missing)} of {len(found)} shards do not exist; the first is {missing[0]}")
    return found


def at_once(ask: Callable[[File], Any], files: Sequence[File]) -> list[Any]:
    """``ask(file)`` for each file, several at the same time, in order."""
    if len(files) == 1:
        return [ask(files[0])]
    here = all(isinstance(file, Path) for file in files)
    with ThreadPoolExecutor(HERE_AT_ONCE if here else AT_ONCE) as pool:
        return list(pool.map(ask, files))


def braces(path: str) -> list[str]:
    """The path with every ``{first..last}`` and ``{one,other}`` written out; other braces stay what they are.

    Raises:
        UserError: a range that ends before it begins.
    """
    if not is_url(path) and Path(path).expanduser().exists():
        return [path]
    for match in BRACES.finditer(path):
        choices = _choices(match[1])
        if choices is not None:
            if not choices:
                raise UserError(f"the range {match[0]} of {path} ends before it begins")
            before, after = path[: match.start()], path[match.end() :]
            return [before + choice + rest for choice in choices for rest in _more(after)]
    return [path]


def _more(rest: str) -> list[str]:
    """The rest of a path whose first braces are written out."""
    return braces(rest) if "{" in rest else [rest]


def _choices(inside: str) -> list[str] | None:
    """What stands in braces, written out; ``None`` where it is no range and no list."""
    span = RANGE.fullmatch(inside)
    if span is not None:
        first, last = span.groups()
        return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else None


def _files(path: str) -> list[File]:
    """The files of a path whose braces are written out."""
    if is_url(path):
        return _at(path)
    plain = Path(path).expanduser()
    if plain.is_dir():
        found: list[File] = [
            one
            for one in sorted(plain.iterdir())
            if one.suffix.lower() in SHARD_SUFFIXES and one.is_file() and not one.name.startswith(".")
        ]
        if not found:
            raise UserError(f"the folder {plain} holds no shards; expected files in {', '.join(SHARD_SUFFIXES)}")
        return found
    if "*" not in path or plain.exists():
        return [plain]
    matched = sorted(glob.glob(str(plain), recursive=True))
    if not matched:
        raise UserError(f"no file matches {path}")
    return [Path(one) for one in matched]


def _at(url: str) -> list[File]:
    if "*" not in url:
        return [Place(url)]
    if "::" in url:
        raise UserError(f"{url} is a chain of file systems, in which * cannot be looked up; write a range in braces")
    place = Place(url)
    with told(place):
        files, path = place.found()
        matched = sorted(files.glob(path))
    if not matched:
        raise UserError(f"no file matches {url}")
    return [Place(files.unstrip_protocol(one)) for one in matched]
